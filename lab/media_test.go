package lab

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// shared makes a master hand what was edited in the cluster's secret to that of the Media Nodes, as its next boot would.
func shared(t testing.TB, s *Stack) {
	t.Helper()
	ready(t, s, 1)
	quiet(t, s, 1)
	if _, err := s.Machine(Group(1)).Run("/usr/local/bin/update_config_from_secret.sh"); err != nil {
		t.Fatal(err)
	}
}

func TestMediaNodes(t *testing.T) {
	t.Parallel()
	fleet := func(t *testing.T, options Options, check func(t testing.TB, s *Stack, m *Machine)) {
		t.Helper()
		options.Masters, options.Media = 1, 1
		scenario(t, options, nil, func(t testing.TB, s *Stack) {
			eventually(t, "a Media Node", func() bool { return s.Machine(MediaGroup) != nil })
			check(t, s, s.Machine(MediaGroup))
		})
	}
	beats := func(s *Stack, m *Machine) int { _, beats := s.Hook(m); return beats }
	waits := func(t testing.TB, s *Stack, m *Machine, while string) {
		t.Helper()
		if result, _ := s.Hook(m); result != "" {
			t.Fatalf("the hook ended (%s) %s", result, while)
		}
	}
	completed := func(t testing.TB, s *Stack, m *Machine) {
		t.Helper()
		eventually(t, "the end of the hook", func() bool { result, _ := s.Hook(m); return result != "" })
		result, beats := s.Hook(m)
		expect(t, "end of the hook", result, "CONTINUE")
		eventually(t, "the end of the instance", m.gone)
		s.mu.Lock()
		s.figures = fmt.Sprint(beats, " heartbeats")
		s.mu.Unlock()
	}
	// outlast what the hook waits for a heartbeat, and a fifth more; it waits once the instance is deregistered.
	outlast := func(t testing.TB, s *Stack, m *Machine) {
		t.Helper()
		eventually(t, "Terminating:Wait", func() bool { return s.State(m) == "Terminating:Wait" })
		cloud.clock.Sleep(3600 * time.Second / time.Duration(s.Options.Scale) * 6 / 5)
	}
	// first gives files to the first Media Node alone: what replaces it is well.
	first := func(files map[string]string) func(m *Machine) map[string]string {
		var given sync.Once
		return func(m *Machine) (mine map[string]string) {
			if m.Group == MediaGroup {
				given.Do(func() { mine = files })
			}
			return mine
		}
	}
	replaced := func(t testing.TB, s *Stack, m *Machine) {
		t.Helper()
		eventually(t, "a replacement that is ready", func() bool {
			fresh := s.Machine(MediaGroup)
			return fresh != nil && fresh != m && !s.readyAt(fresh).IsZero() && s.State(fresh) == "InService"
		})
	}
	// installations of a node, by its log: each is a download.
	installations := func(m *Machine) int { return strings.Count(m.Log(), "== install_media") }
	const all = "egress:quit ingress:quit openvidu:quit"
	t.Run("installation fails: given up at once, and the reason outlives it", func(t *testing.T) {
		fleet(t, Options{Scale: 200, NodeFiles: first(map[string]string{"etc/lab/installer-fails": "99"})}, func(t testing.TB, s *Stack, m *Machine) {
			failure(t, s, "MediaReady", "install_media failed", "no space for the images")
			eventually(t, "its end", m.gone)
			result, _ := s.Hook(m)
			expect(t, "end of its launch", result, "ABANDON")
			eventually(t, "the log", func() bool { return strings.Contains(logged(s), "no space for the images") })
			replaced(t, s, m)
		})
	})
	t.Run("health fails after the start: it is in service before it calls itself unhealthy, so it drains", func(t *testing.T) {
		fleet(t, Options{Scale: 200, NodeFiles: first(map[string]string{"etc/lab/unhealthy": "9999"})}, func(t testing.TB, s *Stack, m *Machine) {
			// OpenVidu is started once more while it carries nothing; what that told the services is not the drain's.
			eventually(t, "another start", func() bool {
				return strings.Contains(m.Log(), "OpenVidu is restarted") && running(m) == "egress ingress openvidu" && m.told() != ""
			})
			eventually(t, "services", func() bool { return running(m) == "egress ingress openvidu" })
			m.Shell("rm -f /var/lib/lab-calls/told-*")
			m.Call("openvidu")
			failure(t, s, "MediaReady", "healthy failed", "503")
			eventually(t, "unhealthy", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.sick[m.Id] })
			expect(t, "services", running(m), "egress ingress openvidu")
			expect(t, "its way", strings.Join(s.Lifecycle(m)[:5], " "), "Pending Pending:Wait Pending:Proceed InService Terminating")
			eventually(t, "signals", func() bool { return m.told() == all })
			replaced(t, s, m) // while it drains
			waits(t, s, m, "while calls were live")
			m.HangUp()
			completed(t, s, m)
		})
	})
	t.Run("scale-out after the wait condition's address expired", func(t *testing.T) {
		fleet(t, Options{}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			s.Expire()
			late := s.Launch(MediaGroup)
			eventually(t, "its end of the boot", func() bool { return strings.Contains(late.Log(), "no stack creation waits") })
			expect(t, "health", late.Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:9092/"), "200")
			eventually(t, "code of the boot", func() bool { return late.Shell("systemctl is-active openvidu-node") == "active" })
		})
	})
	t.Run("drain waits for rooms, streams, recordings and agents", func(t *testing.T) {
		fleet(t, Options{Scale: 300}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			const container = "docker run -d --network host -v /var/lib/lab-calls:/var/lib/lab-calls -v /etc/lab:/etc/lab "
			m.Shell(container + "--name agent-1 --label openvidu-agent=true docker.io/openvidu/egress:3.9.0 carrier agent 9191")
			m.Shell(container + "--name other docker.io/openvidu/egress:3.9.0 carrier other 9192")
			m.Call("openvidu", "ingress", "egress", "agent")
			s.ScaleIn(m)
			outlast(t, s, m)
			expect(t, "signals", m.told(), "agent:quit egress:quit ingress:quit openvidu:quit")
			waits(t, s, m, "while calls were live")
			m.HangUp("openvidu", "ingress", "egress")
			before := beats(s, m)
			eventually(t, "more heartbeats", func() bool { return beats(s, m) > before+2 })
			waits(t, s, m, "while an agent was live")
			m.HangUp("agent")
			completed(t, s, m)
			eventually(t, "its log", func() bool { return strings.Contains(logged(s), "no call is left") })
			s.mu.Lock()
			defer s.mu.Unlock()
			for i, datum := range s.metrics["DrainMinutes"] {
				expect(t, "minutes of the drain", fmt.Sprintf("%v %v", cfn.At(datum, "Value"), cfn.At(datum, "Dimensions")), fmt.Sprintf("%d [map[Name:Cluster Value:%s/Master]]", i, s.id))
			}
			if len(s.metrics["DrainMinutes"]) == 0 {
				t.Error("nobody is told how long it drains")
			}
		})
	})
	t.Run("drain goes on while systemctl, Docker and the API fail", func(t *testing.T) {
		fleet(t, Options{Scale: 120}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			eventually(t, "service", func() bool { return s.State(m) == "InService" })
			m.Call("openvidu", "egress")
			m.Shell("for c in docker systemctl; do mount --bind /bin/false /usr/bin/$c; done")
			s.Fault(func(who, action string) (int, string) {
				if who == MediaGroup {
					return 503, "down"
				}
				return 0, ""
			})
			s.ScaleIn(m)
			tried := s.Calls(MediaGroup, "RecordLifecycleActionHeartbeat")
			eventually(t, "heartbeats that fail", func() bool { return s.Calls(MediaGroup, "RecordLifecycleActionHeartbeat") > tried+4 })
			waits(t, s, m, "while Docker did not answer")
			m.Shell("umount /usr/bin/docker")
			eventually(t, "signals", func() bool { return m.told() == all })
			s.Fault(nil)
			outlast(t, s, m)
			waits(t, s, m, "while calls were live")
			s.Fault(func(who, action string) (int, string) {
				if who == MediaGroup {
					return 503, "down"
				}
				return 0, ""
			})
			m.HangUp()
			eventually(t, "a completion that fails", func() bool { return s.Calls(MediaGroup, "CompleteLifecycleAction") > 0 })
			s.Fault(nil)
			completed(t, s, m)
		})
	})
	t.Run("drain goes on while Docker hangs", func(t *testing.T) {
		fleet(t, Options{Scale: 120, Hangs: []string{"docker"}}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Call("openvidu")
			m.Shell("pkill -STOP dockerd")
			s.ScaleIn(m)
			outlast(t, s, m)
			waits(t, s, m, "while Docker hung")
			m.Shell("pkill -CONT dockerd")
			eventually(t, "signals", func() bool { return m.told() == all })
			waits(t, s, m, "while calls were live")
			m.HangUp()
			completed(t, s, m)
		})
	})
	t.Run("drain after a reboot in the middle of it", func(t *testing.T) {
		fleet(t, Options{Scale: 120}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Call("openvidu")
			s.ScaleIn(m)
			eventually(t, "a heartbeat", func() bool { return beats(s, m) > 0 })
			m.HangUp() // its calls went with its power
			m.PowerOff()
			must(m.PowerOn())
			completed(t, s, m)
			if strings.Count(m.Log(), "== start_openvidu") > 1 {
				t.Error("a leaving node started OpenVidu")
			}
		})
	})
	t.Run("drain during the boot", func(t *testing.T) {
		fleet(t, Options{Files: map[string]string{"etc/lab/unhealthy": "9999"}}, func(t testing.TB, s *Stack, m *Machine) {
			eventually(t, "the step after the start", func() bool { return strings.Contains(m.Log(), "== healthy") })
			eventually(t, "services", func() bool { return running(m) == "egress ingress openvidu" })
			m.Call("openvidu")
			s.ScaleIn(m)
			eventually(t, "signals", func() bool { return m.told() == all })
			if boots := m.Shell("pgrep -fc '[o]penvidu-node boot'"); !strings.HasPrefix(boots, "0") {
				t.Error("the boot went on beside the drain")
			}
			m.HangUp()
			completed(t, s, m)
		})
	})
	t.Run("warm pool: installed, stopped, started when it is needed", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Scale: 120}, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			cold := s.Machine(MediaGroup)
			eventually(t, "end of its launch", func() bool { result, _ := s.Hook(cold); return result != "" })
			result, _ := s.Hook(cold)
			expect(t, "end of its launch", result, "CONTINUE")
			eventually(t, "a stopped instance", func() bool { return len(s.Stopped()) == 1 })
			m := s.Stopped()[0]
			if log := m.Log(); !strings.Contains(log, "== pull_images") || strings.Contains(log, "== start_openvidu") || strings.Contains(log, "== signal") {
				t.Errorf("it was not only warmed:\n%s", log)
			}
			s.SetSecret(map[string]any{"REDIS_PASSWORD": "rotated-meanwhile"})
			shared(t, s)
			before, start := installations(m), time.Now()
			expect(t, "the instance", s.ScaleOut().Id, m.Id)
			eventually(t, "its success", func() bool { return !s.readyAt(m).IsZero() })
			warm := s.readyAt(m).Sub(start)
			eventually(t, "the end of its launch", func() bool { result, _ := s.Hook(m); return result == "CONTINUE" })
			expect(t, "health", m.Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:9092/"), "200")
			expect(t, "settings", m.Shell("grep REDIS_PASSWORD /opt/openvidu/config/node/media_node.env"), "REDIS_PASSWORD=rotated-meanwhile")
			expect(t, "downloads", fmt.Sprint(installations(m)-before), "0")
			eventually(t, "another stopped instance", func() bool { return len(s.Stopped()) == 1 && s.Stopped()[0] != m })
			m.Call("openvidu")
			s.ScaleIn(m)
			eventually(t, "signals", func() bool { return m.told() == all })
			m.HangUp()
			completed(t, s, m)
			first := s.readyAt(cold).Sub(cold.Launched)
			s.mu.Lock()
			s.figures = fmt.Sprintf("ready after %.1f s, a new one after %.1f s", warm.Seconds(), first.Seconds())
			s.mu.Unlock()
		})
	})
	t.Run("warm pool: installed anew when the cluster was upgraded meanwhile", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			eventually(t, "a stopped instance", func() bool { return len(s.Stopped()) == 1 })
			s.SetSecret(map[string]any{"OPENVIDU_VERSION": "3.10.0"})
			shared(t, s)
			before := installations(s.Stopped()[0])
			m := s.ScaleOut()
			eventually(t, "its success", func() bool { return !s.readyAt(m).IsZero() })
			expect(t, "downloads", fmt.Sprint(installations(m)-before), "1")
			// A node in service is upgraded as OpenVidu documents: a reboot leaves its installation alone.
			s.SetSecret(map[string]any{"OPENVIDU_VERSION": "3.11.0"})
			shared(t, s)
			m.HangUp()
			m.PowerOff()
			must(m.PowerOn())
			eventually(t, "ready again", func() bool { return strings.Count(m.Log(), "== report_ready") == 3 })
			expect(t, "downloads", fmt.Sprint(installations(m)-before), "1")
		})
	})
	t.Run("a node in service that fails after a reboot calls itself unhealthy", func(t *testing.T) {
		fleet(t, Options{Scale: 200}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			eventually(t, "the end of its launch", func() bool { result, _ := s.Hook(m); return result == "CONTINUE" })
			m.HangUp()
			m.put("etc/lab/unhealthy", "9999")
			m.PowerOff()
			must(m.PowerOn())
			eventually(t, "unhealthy", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.sick[m.Id] })
			replaced(t, s, m)
		})
	})
	t.Run("warm pool: what cannot be installed is given up at once", func(t *testing.T) {
		options := Options{Masters: 1, Scale: 200, NodeFiles: func(m *Machine) map[string]string {
			if strings.HasPrefix(m.state, "Warmed") {
				return map[string]string{"etc/lab/installer-fails": "99"}
			}
			return nil
		}}
		scenario(t, options, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			failure(t, s, "MediaReady", "install_media failed", "no space for the images")
			var m *Machine
			eventually(t, "its end", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, other := range s.all {
					if other.Group == MediaGroup {
						m = other
					}
				}
				return m != nil && m.gone()
			})
			result, _ := s.Hook(m)
			expect(t, "end of its launch", result, "ABANDON")
		})
	})
	t.Run("drain before Docker exists", func(t *testing.T) {
		fleet(t, Options{Files: map[string]string{"etc/lab/packages-locked": "9999"}}, func(t testing.TB, s *Stack, m *Machine) {
			eventually(t, "the step before Docker", func() bool { return strings.Contains(m.Log(), "install_docker") })
			s.ScaleIn(m)
			completed(t, s, m)
		})
	})
}

// running are the names of the containers that run.
func running(m *Machine) string {
	return m.Shell("docker ps --format '{{.Names}}' | sort | paste -sd ' '")
}
