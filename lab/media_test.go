package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestMediaNodes(t *testing.T) {
	t.Parallel()
	fleet := func(t *testing.T, options Options, check func(t *testing.T, s *Stack, m *Machine)) {
		t.Helper()
		options.Masters, options.Media = 1, 1
		scenario(t, options, nil, func(t *testing.T, s *Stack) {
			eventually(t, "a Media Node", func() bool { return s.Machine(MediaGroup) != nil })
			check(t, s, s.Machine(MediaGroup))
		})
	}
	beats := func(s *Stack, m *Machine) int { _, beats := s.Hook(m); return beats }
	waits := func(t *testing.T, s *Stack, m *Machine, while string) {
		t.Helper()
		if result, _ := s.Hook(m); result != "" {
			t.Errorf("the hook ended (%s) %s", result, while)
		}
	}
	completed := func(t *testing.T, s *Stack, m *Machine) {
		t.Helper()
		eventually(t, "the end of the hook", func() bool { result, _ := s.Hook(m); return result != "" })
		result, beats := s.Hook(m)
		expect(t, "end of the hook", result, "CONTINUE")
		eventually(t, "the end of the instance", m.gone)
		s.mu.Lock()
		s.figures = fmt.Sprint(beats, " heartbeats")
		s.mu.Unlock()
	}
	// outlast what the hook waits for a heartbeat, and a fifth more.
	outlast := func(s *Stack) { time.Sleep(3600 * time.Second / time.Duration(s.Options.Scale) * 6 / 5) }
	signals := func(m *Machine) string {
		return m.Shell("grep -c SIGQUIT /var/lib/standin-docker/* | sed 's/.*docker.//' | paste -sd ' '")
	}
	t.Run("installation fails: unhealthy, and the reason outlives it", func(t *testing.T) {
		fleet(t, Options{Scale: 200, Files: map[string]string{"etc/lab/installer-fails": "99"}}, func(t *testing.T, s *Stack, m *Machine) {
			failure(t, s, "MediaReady", "install_media failed", "no space for the images")
			eventually(t, "unhealthy", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.sick[m.Id] })
			eventually(t, "the log", func() bool { return strings.Contains(logged(s), "no space for the images") })
		})
	})
	t.Run("scale-out after the wait condition's address expired", func(t *testing.T) {
		fleet(t, Options{}, func(t *testing.T, s *Stack, m *Machine) {
			ready(t, s, 0)
			s.Expire()
			late := s.Launch(MediaGroup)
			eventually(t, "its end of the boot", func() bool { return strings.Contains(late.Log(), "no stack creation waits") })
			expect(t, "health", late.Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:9092/"), "200")
			eventually(t, "code of the boot", func() bool { return late.Shell("cat /run/standin-systemd/openvidu-node.code") == "0" })
		})
	})
	t.Run("drain waits for rooms, streams, recordings and agents", func(t *testing.T) {
		fleet(t, Options{Scale: 300}, func(t *testing.T, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Shell("printf 'agent-1\\ntrue\\n' >/var/lib/standin-docker/id-agent; printf 'caddy\\n\\n' >/var/lib/standin-docker/id-other")
			s.ScaleIn(m)
			outlast(s)
			expect(t, "signals", signals(m), "id-agent:1 id-egress:1 id-ingress:1 id-openvidu:1 id-other:0")
			waits(t, s, m, "while calls were live")
			m.Shell("cd /var/lib/standin-docker && rm id-openvidu id-ingress id-egress")
			before := beats(s, m)
			eventually(t, "more heartbeats", func() bool { return beats(s, m) > before+2 })
			waits(t, s, m, "while an agent was live")
			m.Shell("rm /var/lib/standin-docker/id-agent")
			completed(t, s, m)
			eventually(t, "its log", func() bool { return strings.Contains(logged(s), "no call is left") })
		})
	})
	t.Run("drain goes on while systemctl, Docker and the API fail", func(t *testing.T) {
		fleet(t, Options{Scale: 120}, func(t *testing.T, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Shell("touch /etc/lab/docker-broken /etc/lab/stop-fails")
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
			m.Shell("rm /etc/lab/docker-broken")
			eventually(t, "signals", func() bool { return signals(m) == "id-egress:1 id-ingress:1 id-openvidu:1" })
			s.Fault(nil)
			outlast(s)
			waits(t, s, m, "while calls were live")
			s.Fault(func(who, action string) (int, string) {
				if who == MediaGroup {
					return 503, "down"
				}
				return 0, ""
			})
			m.Shell("rm /var/lib/standin-docker/*")
			eventually(t, "a completion that fails", func() bool { return s.Calls(MediaGroup, "CompleteLifecycleAction") > 0 })
			s.Fault(nil)
			completed(t, s, m)
		})
	})
	t.Run("drain goes on while Docker hangs", func(t *testing.T) {
		fleet(t, Options{Scale: 120}, func(t *testing.T, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Shell("touch /etc/lab/docker-hangs")
			s.ScaleIn(m)
			outlast(s)
			waits(t, s, m, "while Docker hung")
			m.Shell("rm /etc/lab/docker-hangs")
			eventually(t, "signals", func() bool { return signals(m) == "id-egress:1 id-ingress:1 id-openvidu:1" })
			waits(t, s, m, "while calls were live")
			m.Shell("rm /var/lib/standin-docker/*")
			completed(t, s, m)
		})
	})
	t.Run("drain after a reboot in the middle of it", func(t *testing.T) {
		fleet(t, Options{Scale: 120}, func(t *testing.T, s *Stack, m *Machine) {
			ready(t, s, 0)
			s.ScaleIn(m)
			eventually(t, "a heartbeat", func() bool { return beats(s, m) > 0 })
			m.Shell("rm /var/lib/standin-docker/*") // its calls went with its power
			m.PowerOff()
			must(m.PowerOn())
			completed(t, s, m)
			expect(t, "calls that a leaving node took", fmt.Sprint(m.carriers()), "[]")
		})
	})
	t.Run("drain during the boot", func(t *testing.T) {
		fleet(t, Options{Files: map[string]string{"etc/lab/unhealthy": "9999"}}, func(t *testing.T, s *Stack, m *Machine) {
			eventually(t, "the step after the start", func() bool { return strings.Contains(m.Log(), "== healthy") })
			eventually(t, "calls", func() bool { return len(m.carriers()) == 3 })
			s.ScaleIn(m)
			eventually(t, "signals", func() bool { return signals(m) == "id-egress:1 id-ingress:1 id-openvidu:1" })
			if boots := m.Shell("pgrep -fc '[o]penvidu-node boot'"); !strings.HasPrefix(boots, "0") {
				t.Error("the boot went on beside the drain")
			}
			m.Shell("rm /var/lib/standin-docker/*")
			completed(t, s, m)
		})
	})
	t.Run("drain before Docker exists", func(t *testing.T) {
		fleet(t, Options{Files: map[string]string{"etc/lab/packages-locked": "9999"}}, func(t *testing.T, s *Stack, m *Machine) {
			eventually(t, "the step before Docker", func() bool { return strings.Contains(m.Log(), "install_docker") })
			s.ScaleIn(m)
			completed(t, s, m)
		})
	})
}
