package lab

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

func TestCreation(t *testing.T) {
	for _, distribution := range []Distribution{AmazonLinux, Ubuntu22, Ubuntu24} {
		t.Run(string(distribution), func(t *testing.T) {
			options := Options{Distribution: distribution, Media: 2, Delay: func(string) time.Duration { return time.Duration(rand.IntN(1000)) * time.Millisecond }}
			scenario(t, options, nil, func(s *Stack) {
				ready(t, s, 0, 1, 2, 3, 4)
				for slot := 1; slot <= 4; slot++ {
					checkMaster(t, s, slot)
					if calls := cloud.Calls(Group(slot), "GetSecretValue"); calls > 2 {
						t.Errorf("slot %d read the secret %d times", slot, calls)
					}
				}
				if signals := s.Signals("MasterReady"); len(signals) != 4 {
					t.Errorf("signals: %v", signals)
				}
				checkInstaller(t, s)
				checkSecrecy(t, s)
			})
		})
	}
}

// checkInstaller compares the flags with OpenVidu's documentation.
func checkInstaller(t *testing.T, s *Stack) {
	secret := s.Secret()
	want := []string{"--no-tty", "--install", "--environment=aws", "--deployment-type=ha", "--node-role=master-node", "--external-load-balancer",
		"--master-node-private-ip-list=" + masterIps(s)}
	for flag, key := range map[string]string{
		"openvidu-pro-license": "OPENVIDU_PRO_LICENSE", "domain-name": "DOMAIN_NAME", "enabled-modules": "ENABLED_MODULES", "rtc-engine": "OPENVIDU_RTC_ENGINE",
		"redis-password": "REDIS_PASSWORD", "mongo-admin-user": "MONGO_ADMIN_USERNAME", "mongo-admin-password": "MONGO_ADMIN_PASSWORD",
		"mongo-replica-set-key": "MONGO_REPLICA_SET_KEY", "minio-access-key": "MINIO_ACCESS_KEY", "minio-secret-key": "MINIO_SECRET_KEY",
		"dashboard-admin-user": "DASHBOARD_ADMIN_USERNAME", "dashboard-admin-password": "DASHBOARD_ADMIN_PASSWORD",
		"grafana-admin-user": "GRAFANA_ADMIN_USERNAME", "grafana-admin-password": "GRAFANA_ADMIN_PASSWORD",
		"meet-initial-admin-password": "MEET_INITIAL_ADMIN_PASSWORD", "meet-initial-api-key": "MEET_INITIAL_API_KEY",
		"livekit-api-key": "LIVEKIT_API_KEY", "livekit-api-secret": "LIVEKIT_API_SECRET",
	} {
		want = append(want, fmt.Sprintf("--%s=%v", flag, secret[key]))
	}
	slices.Sort(want)
	got := strings.Split(s.Machine(Group(1)).Shell("cat /var/log/standin-installer"), "\n")
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the installer's flags are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	media := s.Machine(MediaGroup)
	want = []string{"--no-tty", "--install", "--environment=aws", "--deployment-type=ha", "--node-role=media-node",
		"--master-node-private-ip-list=" + masterIps(s), "--private-ip=" + media.Ip, fmt.Sprint("--redis-password=", secret["REDIS_PASSWORD"])}
	if got := strings.Split(media.Shell("cat /var/log/standin-installer"), "\n"); !slices.Equal(got, want) {
		t.Errorf("the installer's flags are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// checkSecrecy looks for credentials in all that others than root can read, and in every log, root's too.
func checkSecrecy(t *testing.T, s *Stack) {
	var patterns []string
	for key, value := range s.Secret() {
		if regexp.MustCompile("PASSWORD|SECRET|KEY|LICENSE").MatchString(key) && key != "ALL_SECRETS_GENERATED" {
			patterns = append(patterns, value.(string))
		}
	}
	for _, machines := range s.machines {
		for _, m := range machines {
			must(os.WriteFile(m.dir+"/upper/etc/lab/secrets", []byte(strings.Join(patterns, "\n")+"\n"), 0o600))
			found := m.Shell("grep -rlFf /etc/lab/secrets /var/log /run /tmp /var/lib/openvidu-node /etc/systemd 2>/dev/null | grep -v standin-installer;" +
				"find /etc /var /opt /usr/local -xdev -type f -perm /044 -newer /etc/lab/scale -print0 | xargs -0 grep -lFf /etc/lab/secrets | grep -v standin-installer; true")
			if strings.Contains(found, "/") {
				t.Errorf("%s tells credentials in %s", m.Group, found)
			}
		}
	}
}

func TestSubnetsAreUsedInTurn(t *testing.T) {
	for count := 1; count <= 3; count++ {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			scenario(t, Options{}, map[string]any{"OpenViduMasterNodeSubnets": subnets[:count]}, func(s *Stack) {
				ready(t, s, 1, 2, 3, 4)
				for slot := 1; slot <= 4; slot++ {
					checkMaster(t, s, slot)
					prefix := subnetPrefix[subnets[(slot-1)%count].(string)]
					if ip := s.attribute(fmt.Sprint("MasterENI", slot), "PrimaryPrivateIpAddress").(string); !strings.HasPrefix(ip, prefix+".") {
						t.Errorf("slot %d has %s, not in %s", slot, ip, prefix)
					}
				}
			})
		})
	}
}

const precious = "/opt/openvidu/data/recording"

func TestReplacedMastersKeepIpAndData(t *testing.T) {
	scenario(t, Options{}, nil, func(s *Stack) {
		ready(t, s, 1, 2, 3, 4)
		for slot := 1; slot <= 4; slot++ {
			s.Machine(Group(slot)).Shell(fmt.Sprintf("echo %d >%s; sync", slot, precious))
		}
		check := func(slots ...int) {
			ready(t, s, slots...)
			for _, slot := range slots {
				checkMaster(t, s, slot)
				expect(t, "recording", s.Machine(Group(slot)).Shell("cat "+precious), fmt.Sprint(slot))
			}
		}
		quiet := func() bool {
			return strings.HasSuffix(strings.TrimSpace(s.Machine(Group(3)).Log()), "no stack update waits")
		}
		eventually(t, 10, "the last words of slot 3", quiet)
		before := s.Machine(Group(3)).Log()
		// The old instance lets go after a while.
		s.Replace(Group(2), 3*time.Second)
		check(2)
		if refused := strings.Count(s.Machine(Group(2)).Log(), "in use"); refused == 0 {
			t.Error("the replacement did not have to wait for its interface")
		}
		if s.Machine(Group(3)).Log() != before {
			t.Error("another master noticed")
		}
		for slot := 1; slot <= 4; slot++ {
			done := make(chan bool)
			go func() { s.Replace(Group(slot), 500*time.Millisecond); done <- true }()
			if slot%2 == 1 {
				<-done // one after another, and two at once
			}
		}
		eventually(t, 20, "four new machines", func() bool {
			return !slices.ContainsFunc([]int{1, 2, 3, 4}, func(slot int) bool { return s.Machine(Group(slot)) == nil })
		})
		check(1, 2, 3, 4)
	})
}

// Each cut is before the command of that name, after so many calls of it.
func TestPowerCutsLoseNothing(t *testing.T) {
	for _, cut := range []string{"mkfs.xfs 0", "mount 0", "cp 0", "mv 0", "umount 0", "mount 1"} {
		t.Run("first life, before "+cut, func(t *testing.T) {
			scenario(t, Options{Masters: 1, Files: map[string]string{"etc/lab/cut": cut + "\n"}}, nil, func(s *Stack) {
				cutPower(t, s)
				ready(t, s, 1)
				checkMaster(t, s, 1)
				expect(t, "files that were copied", s.Machine(Group(1)).Shell("ls /opt/openvidu/data | wc -l"), "201")
			})
		})
	}
	for _, cut := range []string{"mount 0", "umount 0", "mount 1"} {
		t.Run("later life, before "+cut, func(t *testing.T) {
			options := Options{Masters: 1, Files: map[string]string{}}
			scenario(t, options, nil, func(s *Stack) {
				ready(t, s, 1)
				s.Machine(Group(1)).Shell("echo kept >" + precious + "; sync")
				options.Files["etc/lab/cut"] = cut + "\n"
				s.Replace(Group(1), 0)
				cutPower(t, s)
				ready(t, s, 1)
				expect(t, "recording", s.Machine(Group(1)).Shell("cat "+precious), "kept")
			})
		})
	}
	t.Run("while formatting", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(s *Stack) {
			v := s.volume(1)
			_, err := run("mkfs.xfs", "-q", "-L", "openvidu", v.file)
			must(err)
			// What mkfs.xfs leaves when it is cut off: a superblock that says so.
			file, err := os.OpenFile(v.file, os.O_WRONLY, 0)
			must(err)
			_, err = file.WriteAt([]byte{1}, 126)
			must(err)
			file.Close()
			s.Launch(Group(1))
			ready(t, s, 1)
			checkMaster(t, s, 1)
		})
	})
}

func (s *Stack) volume(slot int) *volume {
	return s.Cloud.volumes[s.attribute(fmt.Sprint("VolumesRetained", slot), "").(string)]
}

// cutPower waits until the machine of slot 1 is where the cut is to be, cuts, and boots it again.
func cutPower(t *testing.T, s *Stack) {
	t.Helper()
	eventually(t, 40, "the step of the cut", func() bool {
		m := s.Machine(Group(1))
		return m != nil && m.Shell("test -e /run/cut-now && echo now") == "now"
	})
	m := s.Machine(Group(1))
	m.PowerOff()
	must(m.PowerOn())
}

// failure waits for the reason that a node gives.
func failure(t *testing.T, s *Stack, handle string, parts ...string) {
	t.Helper()
	var reason string
	eventually(t, 60, "a failure", func() bool {
		for _, signal := range s.Signals(handle) {
			if signal.Status == "FAILURE" {
				reason = signal.Reason
			}
		}
		return reason != ""
	})
	for _, part := range parts {
		if !strings.Contains(reason, part) {
			t.Errorf("the reason lacks %q: %s", part, reason)
		}
	}
}

func TestVolumesThatAreNotBlankAreLeftAsTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		make func(v *volume)
		says string
	}{
		"ext4":        {func(v *volume) { run("mkfs.ext4", "-qF", v.file) }, "TYPE=ext4"},
		"foreign xfs": {func(v *volume) { run("mkfs.xfs", "-q", "-L", "other", v.file) }, "LABEL=other"},
		"partition table": {func(v *volume) {
			record := make([]byte, 512)
			record[450], record[455], record[459], record[510], record[511] = 0x83, 8, 8, 0x55, 0xaa // one Linux partition
			file, _ := os.OpenFile(v.file, os.O_WRONLY, 0)
			file.Write(record)
			file.Close()
		}, "PTTYPE=dos"},
		"unknown content": {func(v *volume) {
			file, _ := os.OpenFile(v.file, os.O_WRONLY, 0)
			file.WriteAt([]byte("precious"), 4096)
			file.Close()
		}, "neither blank nor known"},
		"own label, unknown files": {func(v *volume) {
			run("mkfs.xfs", "-q", "-L", "openvidu", v.file)
			run("sh", "-c", "mkdir -p /mnt/lab && mount "+v.file+" /mnt/lab && echo x >/mnt/lab/x && umount /mnt/lab")
		}, "holds unknown files"},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, Options{Masters: -1}, nil, func(s *Stack) {
				v := s.volume(1)
				c.make(v)
				sum := func() string {
					out, _ := run("sh", "-c", "head -c 67108864 "+v.file+" | sha256sum")
					return out
				}
				before := sum()
				s.Launch(Group(1))
				failure(t, s, "MasterReady", "adopt_volume failed", v.id, c.says, "left as it is")
				if name != "own label, unknown files" && sum() != before {
					t.Error("the volume was written to")
				}
			})
		})
	}
}

func TestVolumesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Run("too small", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(s *Stack) {
			v := s.volume(1)
			must(os.Truncate(v.file, 10<<30))
			s.Launch(Group(1))
			failure(t, s, "MasterReady", "attach_data_volume failed", v.id+" has 10 GiB; DiskSize asks for 50")
		})
	})
	t.Run("never attaches", func(t *testing.T) {
		scenario(t, Options{Masters: -1, Scale: 400}, nil, func(s *Stack) {
			v := s.volume(1)
			cloud.Fault(func(_, action string) (int, string) {
				if action == "AttachVolume" {
					return 400, "<Response><Errors><Error><Code>VolumeInUse</Code><Message>" + v.id + " is already attached to an instance</Message></Error></Errors></Response>"
				}
				return 0, ""
			})
			s.Launch(Group(1))
			eventually(t, 240, "a failure", func() bool { return len(s.Signals("MasterReady")) > 0 })
			failure(t, s, "MasterReady", "attach_data_volume failed", v.id, "never became", "VolumeInUse")
		})
	})
}

const throttled = `{"__type":"ThrottlingException","message":"Rate exceeded"}`

func TestTransientFaultsAreRetried(t *testing.T) {
	t.Run("Secrets Manager throttles", func(t *testing.T) {
		calls := 0
		scenario(t, Options{Masters: -1}, nil, func(s *Stack) {
			cloud.Fault(func(who, action string) (int, string) {
				if calls++; action == "GetSecretValue" && calls < 12 {
					return 400, throttled
				}
				return 0, ""
			})
			s.Launch(Group(1))
			ready(t, s, 1)
		})
	})
	t.Run("download fails twice, then is cut, then works", func(t *testing.T) {
		calls := 0
		scenario(t, Options{Masters: -1}, nil, func(s *Stack) {
			cloud.Serve(func(w http.ResponseWriter, installer []byte) {
				switch calls++; calls {
				case 1, 2:
					w.WriteHeader(http.StatusServiceUnavailable)
				case 3:
					w.Header().Set("Content-Length", fmt.Sprint(len(installer)))
					w.Write(installer[:len(installer)/2])
				default:
					w.Write(installer)
				}
			})
			s.Launch(Group(1))
			ready(t, s, 1)
			if calls != 4 {
				t.Errorf("%d downloads", calls)
			}
		})
	})
	t.Run("package lock is held, installer fails once, health fails at first", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Distribution: Ubuntu24, Files: map[string]string{
			"etc/lab/packages-locked": "2", "etc/lab/installer-fails": "1", "etc/lab/unhealthy": "5"}}, nil, func(s *Stack) {
			ready(t, s, 1)
		})
	})
}

func TestFaultsThatStayAreNamed(t *testing.T) {
	t.Run("download", func(t *testing.T) {
		scenario(t, Options{Masters: -1, Scale: 200}, nil, func(s *Stack) {
			cloud.Serve(func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) })
			s.Launch(Group(1))
			failure(t, s, "MasterReady", "master-1", "install_master failed", "404")
		})
	})
	t.Run("installer, without telling a credential", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 200, Files: map[string]string{"etc/lab/installer-fails": "99"}}, nil, func(s *Stack) {
			failure(t, s, "MasterReady", "install_master failed", "ERROR: no space for the images")
			for key, value := range s.Secret() {
				if strings.HasSuffix(key, "PASSWORD") && strings.Contains(s.Machine(Group(1)).Log(), value.(string)) {
					t.Errorf("the log tells %s", key)
				}
			}
			eventually(t, 20, "a word in CloudWatch Logs", func() bool { return strings.Contains(logged(s), "no space for the images") })
		})
	})
	t.Run("health", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 200, Files: map[string]string{"etc/lab/unhealthy": "9999"}}, nil, func(s *Stack) {
			failure(t, s, "MasterReady", "healthy failed", "503")
		})
	})
	t.Run("operating system", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Distribution: "debian 12"}, nil, func(s *Stack) {
			failure(t, s, "MasterReady", "identify failed", "debian-12 is not supported: use Amazon Linux 2023, Ubuntu 22.04 or 24.04")
		})
	})
}

// logged is all that nodes sent to CloudWatch Logs.
func logged(s *Stack) string {
	group := s.attribute("MasterInfoLogs", "")
	var text strings.Builder
	streams := cloud.call("logs", "Logs_20140328.DescribeLogStreams", map[string]any{"logGroupName": group})
	for _, stream := range cfn.List(streams["logStreams"]) {
		events := cloud.call("logs", "Logs_20140328.GetLogEvents", map[string]any{"logGroupName": group, "logStreamName": cfn.At(stream, "logStreamName")})
		for _, event := range cfn.List(events["events"]) {
			io.WriteString(&text, cfn.At(event, "message").(string))
		}
	}
	return text.String()
}

func TestRebootAppliesTheSecret(t *testing.T) {
	scenario(t, Options{Masters: 1}, nil, func(s *Stack) {
		ready(t, s, 1)
		m := s.Machine(Group(1))
		value := "a/b&c#d\"e'f$g h\\i`j"
		s.SetSecret(map[string]any{"GRAFANA_ADMIN_PASSWORD": value, "DOMAIN_NAME": "new.example.com"})
		reboot := func() {
			signals := len(s.Signals("MasterReady"))
			m.PowerOff()
			must(m.PowerOn())
			eventually(t, 60, "ready again", func() bool { return len(s.Signals("MasterReady")) > signals })
		}
		reboot()
		expect(t, "domain", m.Shell("sed -n 's/^DOMAIN_NAME=//p' /opt/openvidu/config/cluster/openvidu.env"), "new.example.com")
		expect(t, "password", m.Shell(". /opt/openvidu/config/cluster/openvidu.env; echo \"$GRAFANA_ADMIN_PASSWORD\""), value)
		expect(t, "other settings", m.Shell("grep CUSTOM /opt/openvidu/config/cluster/openvidu.env"), "CUSTOM=stays")
		expect(t, "mode", m.Shell("stat -c %a /opt/openvidu/config/cluster/openvidu.env"), "600")
		expect(t, "fixed IP", m.Shell("ip -4 rule show table 1777 | wc -l"), "1")

		cloud.Fault(func(_, action string) (int, string) {
			if action == "GetSecretValue" {
				return 500, `{"__type":"InternalServiceError","message":"down"}`
			}
			return 0, ""
		})
		m.Shell(": >/var/log/openvidu-node.log")
		reboot()
		if !strings.Contains(m.Log(), "OpenVidu starts with what it has") {
			t.Errorf("it does not say so:\n%s", m.Log())
		}
		expect(t, "domain", m.Shell("sed -n 's/^DOMAIN_NAME=//p' /opt/openvidu/config/cluster/openvidu.env"), "new.example.com")
	})
}

// Update changes parameters of the stack as CloudFormation does: what refers to a changed value follows, master groups are
// replaced one after another, and each is waited for by the signal of its new instance.
func TestUpdateRollsOneMasterAfterAnother(t *testing.T) {
	scenario(t, Options{}, nil, func(s *Stack) {
		ready(t, s, 1, 2, 3, 4)
		s.SetSecret(map[string]any{"MINIO_SECRET_KEY": "edited-by-hand"})
		cloud.mu.Lock()
		cloud.stack = "UPDATE_IN_PROGRESS"
		cloud.mu.Unlock()

		const id = "MasterInfoFill"
		old := s.Resolve(cfn.At(s.Resources[id], "Properties")).(map[string]any)
		revision := s.attribute(id, "Revision")
		s.Values["DomainName"] = "new.example.com"
		must(s.invoke(id, "Custom::OpenViduCredentials", "Update", s.Resolve(cfn.At(s.Resources[id], "Properties")).(map[string]any), old))
		if s.attribute(id, "Revision") == revision {
			t.Error("the changed setting gives the same revision: nothing would roll")
		}
		expect(t, "hand edit", s.Secret()["MINIO_SECRET_KEY"].(string), "edited-by-hand")

		for slot := 1; slot <= 4; slot++ {
			group := Group(slot)
			done := make(chan bool)
			go func() { s.Replace(group, time.Second); close(done) }()
			// While this one is away, the others serve.
			for other := 1; other <= 4; other++ {
				if other != slot {
					expect(t, fmt.Sprint("slot ", other, " while ", slot, " rolls"), s.Machine(Group(other)).Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:7880/health/caddy"), "200")
				}
			}
			<-done
			eventually(t, 60, "the signal of "+group, func() bool {
				cloud.mu.Lock()
				defer cloud.mu.Unlock()
				return slices.ContainsFunc(cloud.updates[group], func(signal Signal) bool {
					return signal.Status == "SUCCESS" && signal.UniqueId == s.Machine(group).Id
				})
			})
			expect(t, "domain", s.Machine(group).Shell("sed -n 's/^DOMAIN_NAME=//p' /opt/openvidu/config/cluster/openvidu.env"), "new.example.com")
		}
	})
}

func TestMediaNodes(t *testing.T) {
	fleet := func(t *testing.T, options Options, check func(s *Stack, m *Machine)) {
		options.Masters, options.Media = 1, 1
		scenario(t, options, nil, func(s *Stack) {
			eventually(t, 30, "a Media Node", func() bool { return s.Machine(MediaGroup) != nil })
			check(s, s.Machine(MediaGroup))
		})
	}
	done := func(m *Machine) bool {
		cloud.mu.Lock()
		defer cloud.mu.Unlock()
		return cloud.releases[m.Id]
	}
	beats := func(m *Machine) int {
		cloud.mu.Lock()
		defer cloud.mu.Unlock()
		return cloud.beats[m.Id]
	}
	signals := func(m *Machine) string {
		return m.Shell("grep -c SIGQUIT /var/lib/standin-docker/* | sed 's/.*docker.//' | paste -sd ' '")
	}
	t.Run("installation fails: unhealthy, and the reason outlives it", func(t *testing.T) {
		fleet(t, Options{Scale: 200, Files: map[string]string{"etc/lab/installer-fails": "99"}}, func(s *Stack, m *Machine) {
			failure(t, s, "MediaReady", "install_media failed", "no space for the images")
			eventually(t, 20, "unhealthy", func() bool { cloud.mu.Lock(); defer cloud.mu.Unlock(); return cloud.sick[m.Id] })
			eventually(t, 20, "the log", func() bool { return strings.Contains(logged(s), "no space for the images") })
		})
	})
	t.Run("scale-out after the wait condition's address expired", func(t *testing.T) {
		fleet(t, Options{}, func(s *Stack, m *Machine) {
			ready(t, s, 0)
			cloud.mu.Lock()
			cloud.expired = true
			cloud.mu.Unlock()
			late := s.Launch(MediaGroup)
			eventually(t, 40, "its end of the boot", func() bool { return strings.Contains(late.Log(), "no stack creation waits") })
			expect(t, "health", late.Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:9092/"), "200")
			expect(t, "boot", late.Shell("cat /run/standin-systemd/openvidu-node.code"), "0")
		})
	})
	t.Run("drain waits for rooms, streams, recordings and agents", func(t *testing.T) {
		fleet(t, Options{Scale: 100}, func(s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Shell("printf 'agent-1\\ntrue\\n' >/var/lib/standin-docker/id-agent; printf 'caddy\\n\\n' >/var/lib/standin-docker/id-other")
			must(m.Leave())
			// Far longer, in scaled time, than the hook waits for a heartbeat.
			eventually(t, 60, "an hour of heartbeats", func() bool { return beats(m) > 6 })
			expect(t, "signals", signals(m), "id-agent:1 id-egress:1 id-ingress:1 id-openvidu:1 id-other:0")
			if done(m) {
				t.Error("the hook was completed while calls were live")
			}
			m.Shell("cd /var/lib/standin-docker && rm id-openvidu id-ingress id-egress")
			time.Sleep(3 * time.Second)
			if done(m) {
				t.Error("the hook was completed while an agent was live")
			}
			m.Shell("rm /var/lib/standin-docker/id-agent")
			eventually(t, 20, "the hook is completed", func() bool { return done(m) })
		})
	})
	t.Run("drain goes on while Docker and the API fail", func(t *testing.T) {
		fleet(t, Options{Scale: 100}, func(s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Shell("touch /etc/lab/docker-broken; bash -c 'exec -a containerd-shim sleep.real infinity' >/dev/null 2>&1 </dev/null & disown")
			cloud.Fault(func(who, action string) (int, string) {
				if who == MediaGroup {
					return 503, "down"
				}
				return 0, ""
			})
			must(m.Leave())
			time.Sleep(5 * time.Second)
			if done(m) {
				t.Error("the hook was completed while Docker did not answer")
			}
			m.Shell("rm /etc/lab/docker-broken")
			eventually(t, 20, "signals", func() bool { return signals(m) == "id-egress:1 id-ingress:1 id-openvidu:1" })
			m.Shell("rm /var/lib/standin-docker/*")
			time.Sleep(5 * time.Second)
			cloud.Fault(nil)
			eventually(t, 40, "the hook is completed", func() bool { return done(m) })
		})
	})
	t.Run("drain before Docker exists", func(t *testing.T) {
		fleet(t, Options{Files: map[string]string{"etc/lab/packages-locked": "9999"}}, func(s *Stack, m *Machine) {
			eventually(t, 30, "the step before Docker", func() bool { return strings.Contains(m.Log(), "install_docker") })
			must(m.Leave())
			eventually(t, 30, "the hook is completed", func() bool { return done(m) })
			expect(t, "boot", m.Shell("pgrep -f '[o]penvidu-node boot' | wc -l"), "0")
		})
	})
}
