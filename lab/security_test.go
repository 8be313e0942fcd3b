package lab

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// shadow puts a program before the node's own of that name: it does lines of shell, then what the real one does.
func (m *Machine) shadow(name, lines string) {
	m.Shell("mkdir -p /usr/local/bin")
	m.put("usr/local/bin/"+name, "#!/bin/bash\n"+lines+"\nPATH=${PATH#*local/bin:} exec /usr/bin/"+name+" \"$@\"\n")
	m.Shell("chmod 700 /usr/local/bin/" + name)
}

func TestInstallerLeavesNoCredentials(t *testing.T) {
	t.Parallel()
	left := func(t testing.TB, m *Machine) {
		t.Helper()
		expect(t, "containers of the installer on "+m.Group, m.Shell("docker ps -a --format '{{.Image}}' | grep -c installer || :"), "0")
		expect(t, "its files on "+m.Group, m.Shell("find / -xdev -name installation-scripts 2>/dev/null; find /var/lib/openvidu-node/ -name 'tmp*'"), "")
	}
	t.Run("neither a container nor files nor lines in CloudWatch Logs", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Files: map[string]string{"etc/lab/openvidu": "talks"}}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			for _, m := range []*Machine{s.Machine(Group(1)), s.Machine(MediaGroup)} {
				left(t, m)
			}
			media := s.Machine(MediaGroup)
			eventually(t, "the errors of OpenVidu", func() bool { return strings.Contains(fmt.Sprint(streams(s)), "no such room") })
			if text := streams(s)["media-node/"+media.Id+"/boot"]; !strings.Contains(text, "error free so far") {
				t.Errorf("what the installer said is not in the log of the boot:\n%s", text)
			}
		})
	})
	t.Run("nor when the power is cut while it runs", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Files: map[string]string{"etc/lab/openvidu": "talks stuck"}}, nil, func(t testing.TB, s *Stack) {
			eventually(t, "the installer's container", func() bool {
				m := s.Machine(Group(1))
				return m != nil && m.Shell("docker ps --format '{{.Image}}' | grep -q installer && echo yes") == "yes"
			})
			m := s.Machine(Group(1))
			m.put("etc/lab/openvidu", "talks")
			cutPower(s)
			ready(t, s, 1)
			left(t, m)
		})
	})
}

func TestNoCredentialLeavesANodeByItsLog(t *testing.T) {
	t.Parallel()
	t.Run("of a drain", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			m := s.Machine(MediaGroup)
			m.shadow("docker", "cat /opt/openvidu/config/node/media_node.env >&2")
			s.ScaleIn(m)
			eventually(t, "the end of the instance", m.gone)
			text := streams(s)["media-node/"+m.Id+"/boot"] + streams(s)["drain/"+m.Id]
			if !strings.Contains(text, "REDIS_PASSWORD=***") || !strings.Contains(text, "no call is left") {
				t.Errorf("its log is\n%s", text)
			}
		})
	})
	for name, lines := range map[string]struct{ before, told string }{
		"of a boot that knows its own configuration": {"", "MONGO_ADMIN_PASSWORD=***"},
		"of a boot that can read no credential":      {"mv /opt/openvidu/config /opt/openvidu/config.away", "attach_fixed_ip"},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
				ready(t, s, 1)
				quiet(t, s, 1)
				m := s.Machine(Group(1))
				m.Shell("cp /opt/openvidu/config/cluster/openvidu.env /root/; " + lines.before)
				m.shadow("ip", "cat /root/openvidu.env >&2; exit 7")
				signals := len(s.Signals("MasterReady"))
				cutPower(s)
				eventually(t, "a failure", func() bool { return len(s.Signals("MasterReady")) > signals })
				reason := s.Signals("MasterReady")[signals].Reason
				if !strings.Contains(reason, "attach_fixed_ip failed") {
					t.Errorf("its reason is %s", reason)
				}
				eventually(t, "its last lines", func() bool { return strings.Contains(streams(s)["master-1/"+m.Id], lines.told) })
				m.Shell("rm -f /usr/local/bin/ip /root/openvidu.env; [[ ! -e /opt/openvidu/config.away ]] || mv -T /opt/openvidu/config.away /opt/openvidu/config")
				eventually(t, "ready after all", func() bool {
					all := s.Signals("MasterReady")
					return all[len(all)-1].Status == "SUCCESS"
				})
			})
		})
	}
}

// Services remember the source address of a peer: it must be the one that a replacement will have, too.
func TestMastersSpeakFromTheirFixedIps(t *testing.T) {
	scenario(t, Options{}, map[string]any{"OpenViduMasterNodeSubnets": []any{subnets[0], subnets[1]}}, func(t testing.TB, s *Stack) {
		ready(t, s, 1, 2, 3, 4)
		fixed := strings.Split(masterIps(s), ",")
		for slot := 1; slot <= 4; slot++ {
			checkMaster(t, s, slot)
			m, others := s.Machine(Group(slot)), slices.Clone(fixed)
			others = slices.Delete(others, slot-1, slot)
			slices.Sort(others)
			peers := "sort -u /opt/openvidu/data/*/peers | grep -v 127.0.0.1 | paste -sd,"
			eventually(t, "the other masters", func() bool { return strings.Count(m.Shell(peers), ",") >= 2 })
			expect(t, fmt.Sprint("peers of slot ", slot), m.Shell("sort -u /opt/openvidu/data/*/peers | grep -v 127.0.0.1 | sort | paste -sd,"), strings.Join(others, ","))
		}
		m := s.Machine(Group(1))
		replicas := m.Shell(". /opt/openvidu/config/node/master_node.env; exec 3<>/dev/tcp/127.0.0.1/7000; printf 'AUTH %s\\r\\nINFO replication\\r\\nQUIT\\r\\n' \"$REDIS_PASSWORD\" >&3; grep -o 'ip=[0-9.]*' <&3 | sort | paste -sd,")
		var want []string
		for _, ip := range fixed[1:] {
			want = append(want, "ip="+ip)
		}
		slices.Sort(want)
		expect(t, "Redis' replicas", replicas, strings.Join(want, ","))
		m.Shell("ip addr flush dev eth1; ip link set eth1 down; ip rule del table 1777")
		eventually(t, "the routes of an interface that was reloaded", func() bool {
			return strings.Contains(m.Shell("ip -4 route get "+fixed[1]), "dev eth1 src "+fixed[0]) && strings.Contains(m.Shell("ip -4 route get "+fixed[2]), "dev eth1 src "+fixed[0])
		})
		if !strings.Contains(m.Shell("timeout 60 bash -c '</dev/tcp/"+fixed[1]+"/7000' && echo there"), "there") {
			t.Error("the other masters cannot be reached")
		}
	})
}

// header gives a template with another value of a variable of all env headers.
func header(name, was, now string) func(cfn.Template) cfn.Template {
	return func(source cfn.Template) cfn.Template {
		content, err := json.Marshal(source)
		must(err)
		old := name + "='" + was + "'"
		if !strings.Contains(string(content), old) {
			panic("no header has " + old)
		}
		var template cfn.Template
		must(json.Unmarshal([]byte(strings.ReplaceAll(string(content), old, name+"='"+now+"'")), &template))
		return template
	}
}

func TestContainersCanBeKeptFromTheMetadata(t *testing.T) {
	t.Parallel()
	const image = "docker.io/openvidu/egress:3.9.0"
	look := func(m *Machine) string {
		return m.Shell(`for network in host bridge; do docker run --rm --network $network ` + image + ` ask 2>&1 | grep -qx 200 && echo $network; done
docker exec egress /tool ask 2>&1 | grep -qx 200 && echo exec
curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token >/dev/null && echo node`)
	}
	t.Run("they are", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Bridge: true, Template: header("BLOCK_CONTAINER_METADATA", "false", "true")}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			m := s.Machine(MediaGroup)
			expect(t, "who is answered", look(m), "node")
			expect(t, "containers outside of the slice", m.Shell(`for id in $(docker ps -q); do cat /proc/$(docker inspect -f '{{.State.Pid}}' $id)/cgroup; done | grep '^0:' | grep -cv openvidu.slice/ || :`), "0")
			m.Shell("systemctl restart docker; until docker exec egress /tool 2>&1 | grep -q .; do sleep 1; done")
			expect(t, "who is answered after a restart of Docker", look(m), "node")
			m.PowerOff()
			must(m.PowerOn())
			eventually(t, "its services", func() bool { return running(m) == "egress ingress openvidu" })
			expect(t, "who is answered after a reboot", look(m), "node")
			expect(t, "signs of it on a master", s.Machine(Group(1)).Shell("systemctl is-active openvidu-metadata openvidu.slice; jq -r '.\"cgroup-parent\"' /etc/docker/daemon.json"), "active\nactive\nopenvidu.slice")
		})
	})
	t.Run("or not", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Bridge: true}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			if got := look(s.Machine(MediaGroup)); !strings.HasPrefix(got, "host\n") || !strings.HasSuffix(got, "exec\nnode") {
				t.Errorf("who is answered is %q", got)
			}
		})
	})
}

func TestDeadMediaServerIsReplaced(t *testing.T) {
	scenario(t, Options{Masters: 1, Media: 1, Scale: 200, Eager: true}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		m := s.Machine(MediaGroup)
		sick := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.sick[m.Id] }
		if m.Shell("sleep 1500"); sick() {
			t.Error("a healthy node was called unhealthy")
		}
		m.Shell("docker stop openvidu")
		eventually(t, "a node that is to be replaced", sick)
		eventually(t, "its reason", func() bool { return strings.Contains(logged(s), "the media server is dead") })
	})
}

func TestScriptsOfOpenViduOnMasters(t *testing.T) {
	scenario(t, Options{Masters: 2, Media: 1}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1, 2)
		var all sync.WaitGroup
		for slot := 1; slot <= 2; slot++ {
			all.Go(func() {
				for i := range 3 {
					expect(t, "what was saved", s.Machine(Group(slot)).Shell(fmt.Sprintf("store_secret.sh save OWN_%d_%d 'it is %d' 2>/dev/null", slot, i, i)), fmt.Sprint("it is ", i))
				}
			})
		}
		all.Wait()
		secret := s.Secret()
		for slot := 1; slot <= 2; slot++ {
			for i := range 3 {
				expect(t, "the secret", fmt.Sprint(secret[fmt.Sprintf("OWN_%d_%d", slot, i)]), fmt.Sprint("it is ", i))
			}
		}
		m := s.Machine(Group(1))
		m.Shell("store_secret.sh save OPENVIDU_VERSION 3.10.0; store_secret.sh generate REDIS_PASSWORD")
		media := s.Machine(MediaGroup)
		expect(t, "what Media Nodes read", media.Shell(`. <(grep -a -m 1 ^SECRET_ARN= /usr/local/sbin/openvidu-node)
aws secretsmanager get-secret-value --region us-east-1 --secret-id "$SECRET_ARN" --query SecretString --output text | jq -r '.OPENVIDU_VERSION, .REDIS_PASSWORD, (keys|length)'`),
			"3.10.0\n"+fmt.Sprint(s.Secret()["REDIS_PASSWORD"])+"\n4")
		expect(t, "health", m.Shell("check_app_ready.sh && echo well"), "well")
	})
}
