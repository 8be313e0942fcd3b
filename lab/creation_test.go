package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func someDelay() time.Duration { return time.Duration(rand.IntN(1000)) * time.Millisecond }

// TestCreationAgainAndAgain: whichever node is late, on every distribution, the cluster is the same.
func TestCreationAgainAndAgain(t *testing.T) {
	t.Parallel()
	for i, distribution := range []Distribution{AmazonLinux, Ubuntu22, Ubuntu24, AmazonLinux} {
		t.Run(fmt.Sprintf("%d on %s", i+1, distribution), func(t *testing.T) {
			scenario(t, Options{Distribution: distribution, Media: 2, Delay: someDelay}, nil, func(t testing.TB, s *Stack) {
				checkCluster(t, s)
				checkInstaller(t, s)
				checkUnits(t, s)
			})
		})
	}
}

// recording is how often the master reads secrets that records the SHA-256 of installers, besides once for itself.
const recording = 5

// checkCluster waits for four masters and all Media Nodes, which boot at once, and looks at them.
func checkCluster(t testing.TB, s *Stack) {
	t.Helper()
	ready(t, s, 0, 1, 2, 3, 4)
	for slot := 1; slot <= 4; slot++ {
		checkMaster(t, s, slot)
		// The first slot also records the installers of the release, in two secrets that others may write meanwhile.
		if calls := s.Calls(Group(slot), "GetSecretValue"); calls > 2 && slot != 1 || calls > 1+recording {
			t.Errorf("slot %d read secrets %d times", slot, calls)
		}
	}
	if masters, media := s.Signals("MasterReady"), s.Signals("MediaReady"); len(masters) != 4 || len(media) != s.Options.Media {
		t.Errorf("signals: %v %v", masters, media)
	}
	// Nobody waits for somebody else's turn: the whole takes hardly longer than the slowest node by itself.
	s.mu.Lock()
	all := slices.Clone(s.all)
	s.mu.Unlock()
	var slowest time.Duration
	first, last := all[0].Launched, time.Time{}
	for _, m := range all {
		at := s.readyAt(m)
		slowest = max(slowest, at.Sub(m.Launched))
		if m.Launched.Before(first) {
			first = m.Launched
		}
		if at.After(last) {
			last = at
		}
	}
	ratio := last.Sub(first).Seconds() / slowest.Seconds()
	s.mu.Lock()
	s.figures = fmt.Sprintf("ready in %.2f times the slowest node's %.1f s", ratio, slowest.Seconds())
	s.mu.Unlock()
	if ratio > 1.5 {
		t.Errorf("the cluster took %.2f times as long as its slowest node", ratio)
	}
}

// checkInstaller compares the flags with OpenVidu's documentation.
func checkInstaller(t testing.TB, s *Stack) {
	t.Helper()
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
		"livekit-api-key": "LIVEKIT_API_KEY", "livekit-api-secret": "LIVEKIT_API_SECRET", "turn-domain-name": "LIVEKIT_TURN_DOMAIN_NAME",
	} {
		value := fmt.Sprint(secret[key])
		if key == "LIVEKIT_TURN_DOMAIN_NAME" && !strings.Contains(value, ".") || key == "MEET_INITIAL_API_KEY" && value == "" {
			continue // there is none
		}
		want = append(want, "--"+flag+"="+value)
	}
	slices.Sort(want)
	got := strings.Split(s.Machine(Group(1)).Shell("cat /etc/lab/installer-flags"), "\n")
	slices.Sort(got)
	expect(t, "list of the installer's flags", strings.Join(got, "\n"), strings.Join(want, "\n"))
	media := s.Machine(MediaGroup)
	if media == nil {
		return
	}
	want = []string{"--no-tty", "--install", "--environment=aws", "--deployment-type=ha", "--node-role=media-node",
		"--master-node-private-ip-list=" + masterIps(s), "--private-ip=" + media.Ip, fmt.Sprint("--redis-password=", secret["REDIS_PASSWORD"])}
	expect(t, "list of the installer's flags", media.Shell("cat /etc/lab/installer-flags"), strings.Join(want, "\n"))
}

// checkUnits lets systemd itself read the unit files, with the drop-ins and with what it made of /etc/fstab.
func checkUnits(t testing.TB, s *Stack) {
	t.Helper()
	for group, units := range map[string]string{
		Group(2):   "openvidu-node.service openvidu.service docker.service /run/systemd/generator/opt-openvidu.mount",
		MediaGroup: "openvidu-node.service openvidu-drain.service openvidu.service docker.service",
	} {
		m := s.Machine(group)
		expect(t, "what systemd says of the units of "+group, m.Shell("systemctl daemon-reload; systemd-analyze verify --man=no --recursive-errors=yes "+units+" 2>&1"), "")
	}
	master := s.Machine(Group(2))
	show := func(property, unit string) string {
		return " " + master.Shell("systemctl show -P "+property+" "+unit) + " "
	}
	if before := show("Before", "opt-openvidu.mount"); !strings.Contains(before, " docker.service ") {
		t.Errorf("the volume is mounted before %s", before)
	}
	if after := show("After", "openvidu.service"); !strings.Contains(after, " opt-openvidu.mount ") {
		t.Errorf("OpenVidu starts after %s", after)
	}
}

// TestSubnetsAreUsedInTurn: with one, all masters are neighbours; with two, some are (TestMastersSpeakFromTheirFixedIps boots that one); with four, none.
func TestSubnetsAreUsedInTurn(t *testing.T) {
	t.Parallel()
	for count := 1; count <= 3; count++ {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			options := Options{Masters: -1}
			if count == 1 {
				options.Masters = 0
			}
			scenario(t, options, map[string]any{"OpenViduMasterNodeSubnets": subnets[:count]}, func(t testing.TB, s *Stack) {
				for slot := 1; slot <= 4; slot++ {
					subnet := subnets[(slot-1)%count].(string)
					if ip := fixedIp(s, slot); !within(ip, subnet) {
						t.Errorf("slot %d has %s, not in %s", slot, ip, network[subnet])
					}
				}
				if count > 1 {
					return
				}
				ready(t, s, 1, 2, 3, 4)
				for slot := 1; slot <= 4; slot++ {
					checkMaster(t, s, slot)
					_, volumes := s.Machine(Group(slot)).held()
					if len(volumes) != 1 || volumes[0] != s.volume(slot) {
						t.Errorf("slot %d holds %v", slot, volumes)
					}
				}
			})
		})
	}
}

func TestTurnDomainReachesTheInstaller(t *testing.T) {
	change := map[string]any{"TurnDomainName": "turn.example.com", "RTCEngine": "mediasoup", "RetainVolumes": "false", "TurnCertificateARN": importCertificate("turn.example.com")}
	scenario(t, Options{Masters: 1}, change, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		checkMaster(t, s, 1)
		expect(t, "domain", s.Secret()["LIVEKIT_TURN_DOMAIN_NAME"].(string), "turn.example.com")
		checkInstaller(t, s)
	})
}

func within(ip, subnet string) bool {
	_, block, err := net.ParseCIDR(network[subnet] + ".0/20")
	must(err)
	return block.Contains(net.ParseIP(ip))
}

// volume of a slot.
func (s *Stack) volume(slot int) *volume {
	for _, kind := range []string{"VolumesRetained", "VolumesDeleted"} {
		if v := s.volumeOf(fmt.Sprint(kind, slot)); v != nil {
			return v
		}
	}
	return nil
}
