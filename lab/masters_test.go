package lab

import (
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const precious = "/opt/openvidu/data/recording"

// watcher asks the four masters for their health, at their fixed IPs, all the time.
type watcher struct {
	mu   sync.Mutex
	most []int        // slots that were down at the same time, at worst
	ever map[int]bool // slots that were down at any time
	stop chan bool
	done chan bool
}

func watch(s *Stack) *watcher {
	w := &watcher{ever: map[int]bool{}, stop: make(chan bool), done: make(chan bool)}
	down := func() (slots []int) {
		var mu sync.Mutex
		var all sync.WaitGroup
		for slot := 1; slot <= 4; slot++ {
			all.Go(func() {
				if !answers(fixedIp(s, slot), "7880", "/health/caddy") {
					mu.Lock()
					slots = append(slots, slot)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		slices.Sort(slots)
		return slots
	}
	go func() {
		defer close(w.done)
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			first := down()
			if len(first) == 0 {
				continue
			}
			// One may have come up while the other went down: what counts is down in two looks.
			second := down()
			both := slices.DeleteFunc(first, func(slot int) bool { return !slices.Contains(second, slot) })
			w.mu.Lock()
			for _, slot := range both {
				w.ever[slot] = true
			}
			if len(both) > len(w.most) {
				w.most = both
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// end gives the slots that were down at the same time, at worst, and those that ever were.
func (w *watcher) end() (most, ever []int) {
	close(w.stop)
	<-w.done
	return w.most, slices.Sorted(maps.Keys(w.ever))
}

// quiet waits for the last words of masters that are ready.
func quiet(t testing.TB, s *Stack, slots ...int) {
	t.Helper()
	eventually(t, fmt.Sprint("last words of ", slots), func() bool {
		return !slices.ContainsFunc(slots, func(slot int) bool {
			return s.Machine(Group(slot)).Shell("systemctl is-active openvidu-node") != "active"
		})
	})
}

func mark(s *Stack, slots ...int) {
	for _, slot := range slots {
		s.Machine(Group(slot)).Shell(fmt.Sprintf("echo %d >%s; sync", slot, precious))
	}
}

// checkKept waits for replacements and looks whether they have what the slots had.
func checkKept(t testing.TB, s *Stack, slots ...int) {
	t.Helper()
	ready(t, s, slots...)
	for _, slot := range slots {
		checkMaster(t, s, slot)
		expect(t, fmt.Sprint("recording of slot ", slot), s.Machine(Group(slot)).Shell("cat "+precious), fmt.Sprint(slot))
	}
}

// TestKilledMastersComeBack with what they had: one, and the others notice nothing; one after another; all at once.
func TestKilledMastersComeBack(t *testing.T) {
	scenario(t, Options{}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1, 2, 3, 4)
		quiet(t, s, 1, 2, 3, 4)
		mark(s, 1, 2, 3, 4)
		others := func() (words string, calls int) {
			for _, slot := range []int{1, 3, 4} {
				words += s.Machine(Group(slot)).Log()
				calls += s.Calls(Group(slot), "")
			}
			return
		}
		words, calls := others()
		id := uuid(t, s.volume(2))
		w := watch(s)
		// The old instance lets go only after EC2 has refused the new one, twice.
		s.Kill(Group(2), func(what string) {
			refusal := map[string]string{"interface": "Interface: ", "volume": "(VolumeInUse)"}[what]
			for range 1000 {
				if m := s.Machine(Group(2)); m != nil && strings.Count(m.Log(), refusal) > 1 {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Errorf("the replacement did not have to wait for its %s", what)
		})
		checkKept(t, s, 2)
		if _, ever := w.end(); !slices.Equal(ever, []int{2}) {
			t.Errorf("slots %v were down", ever)
		}
		if w, c := others(); w != words || c != calls {
			t.Error("other masters noticed")
		}
		expect(t, "file system", uuid(t, s.volume(2)), id)
		for _, slot := range []int{1, 3, 4} { // so that all were replaced, one after another
			s.Kill(Group(slot), After(300*time.Millisecond))
			checkKept(t, s, slot)
		}
		checkKept(t, s, 1, 2, 3, 4)
		// And the whole cluster.
		var all sync.WaitGroup
		for slot := 1; slot <= 4; slot++ {
			all.Go(func() { s.Kill(Group(slot), After(300*time.Millisecond)) })
		}
		all.Wait()
		checkKept(t, s, 1, 2, 3, 4)
	})
}

// uuid of an XFS, which another mkfs would change.
func uuid(t testing.TB, v *volume) string {
	t.Helper()
	file, err := os.Open(v.file)
	must(err)
	defer file.Close()
	block := make([]byte, 48)
	if _, err := file.ReadAt(block, 0); err != nil || string(block[:4]) != "XFSB" {
		t.Errorf("%s holds no XFS", v.id)
	}
	return hex.EncodeToString(block[32:])
}

// Each cut is before the command of that name, after so many calls of it; a copy is cut half-way through.
func TestPowerCutsLoseNothing(t *testing.T) {
	t.Parallel()
	for _, step := range []struct{ name, cut string }{
		{"before mkfs", "mkfs.xfs 0"},
		{"before the first mount", "mount 0"},
		{"before the copy", "find 0"},
		{"half-way through the copy", "cp 0"},
		{"before the marker", "mv 0"},
		{"after the marker", "umount 0"},
		{"before the fresh files go", "rm 2"},
		{"before the mount at opt-openvidu", "mount 1"},
		{"after the mount at opt-openvidu", "xfs_growfs 0"},
	} {
		t.Run("first life, "+step.name, func(t *testing.T) {
			scenario(t, Options{Masters: 1, Files: map[string]string{"etc/lab/cut": step.cut + "\n"}}, nil, func(t testing.TB, s *Stack) {
				eventuallyCut(t, s)
				complete, id := "", ""
				if step.name != "before mkfs" {
					id = uuid(t, s.volume(1))
				}
				if slices.Contains([]string{"umount 0", "rm 2", "mount 1", "xfs_growfs 0"}, step.cut) {
					complete = id // from the marker on it is data
				}
				cutPower(s)
				ready(t, s, 1)
				checkMaster(t, s, 1)
				expect(t, "files that were copied", s.Machine(Group(1)).Shell("ls /opt/openvidu/data | grep -c -e object- -e origin"), "201")
				if now := uuid(t, s.volume(1)); complete != "" && now != complete {
					t.Error("a volume with data was formatted")
				}
			})
		})
	}
	for _, step := range []struct{ name, cut string }{
		{"before the first mount", "mount 0"},
		{"before it is unmounted", "umount 0"},
		{"before the fresh files go", "rm 2"},
		{"before the mount at opt-openvidu", "mount 1"},
		{"after the mount at opt-openvidu", "xfs_growfs 0"},
	} {
		t.Run("later life, "+step.name, func(t *testing.T) {
			second := func(m *Machine) map[string]string {
				if m.stack.Machine(Group(1)) == nil && m.stack.readyOnce() {
					return map[string]string{"etc/lab/cut": step.cut + "\n"}
				}
				return nil
			}
			scenario(t, Options{Masters: 1, NodeFiles: second}, nil, func(t testing.TB, s *Stack) {
				ready(t, s, 1)
				mark(s, 1)
				id := uuid(t, s.volume(1))
				s.Kill(Group(1), nil)
				eventuallyCut(t, s)
				cutPower(s)
				checkKept(t, s, 1)
				expect(t, "file system", uuid(t, s.volume(1)), id)
			})
		})
	}
	t.Run("first life, while mkfs writes", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			v := s.volume(1)
			mustRun("mkfs.xfs", "-q", "-L", "openvidu", v.file)
			// What mkfs.xfs leaves when it is cut off: a superblock that says so.
			write(v, []byte{1}, 126)
			s.Launch(Group(1))
			ready(t, s, 1)
			checkMaster(t, s, 1)
		})
	})
}

// readyOnce tells whether any master ever said that it is ready.
func (s *Stack) readyOnce() bool {
	return slices.ContainsFunc(s.Signals("MasterReady"), func(signal Signal) bool { return signal.Status == "SUCCESS" })
}

// eventuallyCut waits until the machine of slot 1 is where the cut is to be.
func eventuallyCut(t testing.TB, s *Stack) {
	t.Helper()
	eventually(t, "the step of the cut", func() bool {
		m := s.Machine(Group(1))
		return m != nil && m.Shell("test -e /run/cut-now && echo now") == "now"
	})
}

// cutPower cuts, and boots the machine again.
func cutPower(s *Stack) {
	m := s.Machine(Group(1))
	m.PowerOff()
	must(m.PowerOn())
}

// reboot cuts the power, too: what a node needs is on its disks.
func reboot(t testing.TB, s *Stack) {
	t.Helper()
	quiet(t, s, 1)
	signals := len(s.Signals("MasterReady"))
	cutPower(s)
	readyAgain(t, s, signals)
}

// readyAgain waits for slot 1 to say that it is ready, after so many signals of all slots. A boot that fails is another's word.
func readyAgain(t testing.TB, s *Stack, signals int) {
	t.Helper()
	id := s.Machine(Group(1)).Id
	eventually(t, "ready again", func() bool {
		return slices.ContainsFunc(s.Signals("MasterReady")[signals:], func(signal Signal) bool {
			if signal.Data == id && signal.Status != "SUCCESS" {
				t.Fatalf("the next boot failed: %s", signal.Reason)
			}
			return signal.Data == id
		})
	})
}

func TestRebootAppliesTheSecret(t *testing.T) {
	scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		m := s.Machine(Group(1))
		const file = "/opt/openvidu/config/cluster/openvidu.env"
		for _, value := range []string{"a/b&c#d\"ef$g h\\i`j", "/ & # $HOME and spaces", `"quoted" and $(id)`, "it's"} {
			s.SetSecret(map[string]any{"GRAFANA_ADMIN_PASSWORD": value, "DOMAIN_NAME": "new.example.com"})
			reboot(t, s)
			expect(t, "password", m.Shell(". "+file+"; echo \"$GRAFANA_ADMIN_PASSWORD\""), value)
		}
		// What bash and Docker Compose would read differently is refused, and the node starts with what it has.
		s.SetSecret(map[string]any{"GRAFANA_ADMIN_PASSWORD": "a'b`c"})
		reboot(t, s)
		expect(t, "password", m.Shell(". "+file+"; echo \"$GRAFANA_ADMIN_PASSWORD\""), "it's")
		if !strings.Contains(m.Log(), "GRAFANA_ADMIN_PASSWORD holds a backtick") {
			t.Error("it does not say which setting it cannot take")
		}
		expect(t, "domain", m.Shell("sed -n 's/^DOMAIN_NAME=//p' "+file), "new.example.com")
		expect(t, "other settings", m.Shell("grep CUSTOM "+file), "CUSTOM=stays")
		expect(t, "mode", m.Shell("stat -c %a "+file), "600")
		expect(t, "rules for the fixed IP", m.Shell("ip -4 rule show table 1777 | wc -l"), "1")
	})
}

func TestRebootWithoutSecretsManagerStartsWithWhatItHas(t *testing.T) {
	scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		m := s.Machine(Group(1))
		before := m.Shell("cat /opt/openvidu/config/cluster/openvidu.env")
		s.SetSecret(map[string]any{"DOMAIN_NAME": "new.example.com"})
		s.Fault(func(_, action string) (int, string) {
			if action == "GetSecretValue" {
				return 500, `{"__type":"InternalServiceError","message":"down"}`
			}
			return 0, ""
		})
		m.Shell(": >/var/log/openvidu-node.log")
		reboot(t, s)
		if !strings.Contains(m.Log(), "OpenVidu starts with what it has") {
			t.Errorf("it does not say so:\n%s", m.Log())
		}
		expect(t, "configuration", m.Shell("cat /opt/openvidu/config/cluster/openvidu.env"), before)
		expect(t, "health", m.Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:7880/health/caddy"), "200")
	})
}
