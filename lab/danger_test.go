package lab

import (
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// detach takes a slot's volume from an instance that is off.
func detach(s *Stack, slot int) {
	v := s.volume(slot)
	s.Cloud.query("ec2", "Action", "DetachVolume", "VolumeId", v.id, "InstanceId", v.holder.Id, "Device", "/dev/sdf")
	v.unplug()
	s.mu.Lock()
	v.holder = nil
	s.mu.Unlock()
}

// below are the files that a node has written below its volume's mount point, on the root disk.
func below(t testing.TB, m *Machine) (files []string) {
	t.Helper()
	root := filepath.Join(m.dir, "upper/opt/openvidu")
	must(filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, strings.TrimPrefix(file, root))
		}
		return err
	}))
	return files
}

// Containers that Docker restarts of its own accord must not write to the root disk while the volume is away.
func TestVolumeThatIsAbsentAtAReboot(t *testing.T) {
	scenario(t, Options{Masters: 1, Files: map[string]string{"etc/lab/openvidu": "restart=always\n"}}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		quiet(t, s, 1)
		mark(s, 1)
		m, signals := s.Machine(Group(1)), len(s.Signals("MasterReady"))
		m.PowerOff()
		detach(s, 1)
		on(s, "AttachVolume", func(call int64) (int, string) {
			if call < 4 {
				return 400, "<Response><Errors><Error><Code>IncorrectState</Code><Message>detaching</Message></Error></Errors></Response>"
			}
			return 0, ""
		})
		must(m.PowerOn())
		readyAgain(t, s, signals)
		checkKept(t, s, 1)
		if files := below(t, m); len(files) > 0 {
			t.Errorf("written to the root disk: %v", files)
		}
		expect(t, "Docker", m.Shell("systemctl is-active docker"), "active")
	})
}

func TestInstallationThatIsNotComplete(t *testing.T) {
	t.Parallel()
	t.Run("installer ends with success half done", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 100, Files: map[string]string{"etc/lab/openvidu": "half\n"}}, nil, func(t testing.TB, s *Stack) {
			failure(t, s, "MasterReady", "install_master failed", "incomplete")
			m := s.Machine(Group(1))
			m.Shell("rm /etc/lab/openvidu")
			eventually(t, "ready after all", func() bool { return !s.readyAt(m).IsZero() })
			checkMaster(t, s, 1)
		})
	})
	t.Run("download is empty", func(t *testing.T) {
		var calls atomic.Int64
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			s.Serve(func(w http.ResponseWriter, installer []byte) {
				if calls.Add(1) > 2 {
					w.Write(installer)
				}
			})
			s.Launch(Group(1))
			ready(t, s, 1)
			checkMaster(t, s, 1)
		})
	})
}

func TestInstallerThatHangs(t *testing.T) {
	scenario(t, Options{Masters: -1, Scale: 200, Hangs: []string{"bash"}}, nil, func(t testing.TB, s *Stack) {
		s.Serve(func(w http.ResponseWriter, _ []byte) {
			_, _ = fmt.Fprint(w, "#!/bin/bash\ntrap '' TERM\n(setsid sleep infinity &)\necho waiting\nwhile :; do sleep 20; done\n")
		})
		s.Launch(Group(1))
		failure(t, s, "MasterReady", "install_master failed", "did not end within 900 s")
	})
}

// What Auto Scaling wants of a node is known, or the node does not begin to carry calls.
func TestWarmPoolMetadata(t *testing.T) {
	t.Parallel()
	t.Run("no metadata at the moment of the question", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			var m *Machine
			eventually(t, "the end of the installation", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, other := range s.all {
					if other.Group == MediaGroup {
						m = other
					}
				}
				return m != nil && strings.Contains(m.Log(), "== install_media")
			})
			eventually(t, "the installer", func() bool { return m.Shell("test -e /etc/lab/installer-flags && echo yes") == "yes" })
			must(m.metadata.Process.Signal(syscall.SIGSTOP))
			eventually(t, "the end of the installation", func() bool { return strings.Contains(m.Log(), "== before_start") })
			time.Sleep(45 * time.Second) // longer than five tries of curl, whose limit is not scaled
			if strings.Contains(m.Log(), "== wait_for_masters") {
				t.Error("it goes on as if it were in service")
			}
			must(m.metadata.Process.Signal(syscall.SIGCONT))
			eventually(t, "a stopped instance", func() bool { return len(s.Stopped()) == 1 })
			if strings.Contains(m.Log(), "== start_openvidu") {
				t.Error("OpenVidu was started on a node that is to be stopped")
			}
		})
	})
	t.Run("a node in service reads for a while that it is warmed", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			eventually(t, "a stopped instance", func() bool { return len(s.Stopped()) == 1 })
			m := s.ScaleOut()
			must(m.announce("Warmed:Stopped"))
			eventually(t, "what a warm node does", func() bool { return strings.Count(m.Log(), "== report_ready") == 2 })
			must(m.announce("InService"))
			eventually(t, "its success", func() bool { return !s.readyAt(m).IsZero() })
			expect(t, "health", m.Shell("curl -so /dev/null -w '%{http_code}' http://127.0.0.1:9092/"), "200")
		})
	})
}

// aMediaNode of a cluster with one of each.
func aMediaNode(t *testing.T, options Options, check func(t testing.TB, s *Stack, m *Machine)) {
	t.Helper()
	options.Masters, options.Media = 1, 1
	scenario(t, options, nil, func(t testing.TB, s *Stack) {
		eventually(t, "a Media Node", func() bool { return s.Machine(MediaGroup) != nil })
		check(t, s, s.Machine(MediaGroup))
	})
}

func drained(t testing.TB, s *Stack, m *Machine) {
	t.Helper()
	eventually(t, "the end of the hook", func() bool { result, _ := s.Hook(m); return result != "" })
	result, _ := s.Hook(m)
	expect(t, "end of the hook", result, "CONTINUE")
}

func TestLaunchHookOfAMediaNode(t *testing.T) {
	t.Parallel()
	t.Run("a node that carries calls and fails after a reboot is not abandoned", func(t *testing.T) {
		aMediaNode(t, Options{Scale: 100, Files: map[string]string{"etc/lab/openvidu": "restart=always\n"}}, func(t testing.TB, s *Stack, m *Machine) {
			on(s, "CompleteLifecycleAction", func(int64) (int, string) { return 503, "down" })
			ready(t, s, 0)
			eventually(t, "tries to end the launch", func() bool { return s.Calls(MediaGroup, "CompleteLifecycleAction") > 0 })
			m.PowerOff()
			must(m.PowerOn())
			eventually(t, "services", func() bool { return running(m) == "egress ingress openvidu" })
			m.Call("openvidu")
			m.Shell(`printf 'ID=debian\nVERSION_ID=12\n' >/etc/os-release; systemctl restart --no-block openvidu-node`)
			s.Fault(nil)
			// It ends its launch, goes into service, and asks for its end, by which the drain's hook takes the place of the launch's. Given up
			// instead, it would be gone with its call, which fails every scenario.
			eventually(t, "unhealthy", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.sick[m.Id] })
			s.ScaleIn(m)
			eventually(t, "signals", func() bool { return strings.Contains(m.told(), "openvidu:quit") })
			m.HangUp()
			drained(t, s, m)
		})
	})
	t.Run("completion fails for minutes", func(t *testing.T) {
		aMediaNode(t, Options{}, func(t testing.TB, s *Stack, m *Machine) {
			on(s, "CompleteLifecycleAction", func(call int64) (int, string) {
				if call < 14 { // a try has four
					return 503, "down"
				}
				return 0, ""
			})
			ready(t, s, 0)
			drained(t, s, m)
		})
	})
}

func TestDrainOfContainers(t *testing.T) {
	t.Parallel()
	t.Run("docker kill hangs, for many agents", func(t *testing.T) {
		aMediaNode(t, Options{Scale: 120, Hangs: []string{"docker"}}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			want := ""
			for i := range 15 {
				m.Shell(fmt.Sprintf("docker run -d --network host -v /var/lib/lab-calls:/var/lib/lab-calls -v /etc/lab:/etc/lab --name agent-%[1]d --label openvidu-agent=true docker.io/openvidu/egress:3.9.0 carrier agent%[1]d %[1]d", 9150+i))
				m.Call(fmt.Sprint("agent", 9150+i))
				want += fmt.Sprintf("agent%d:quit ", 9150+i)
			}
			m.put("usr/local/bin/docker", "#!/bin/bash\ncase $1 in kill | update) exec sleep infinity ;; esac\nexec /usr/bin/docker \"$@\"")
			m.Shell("chmod 755 /usr/local/bin/docker")
			m.Call("openvidu")
			s.ScaleIn(m)
			// Longer than the hook waits for a heartbeat.
			start := time.Now()
			eventually(t, "heartbeats", func() bool {
				result, beats := s.Hook(m)
				return result != "" || beats > 5 && time.Since(start) > 3600*time.Second/120*3/2
			})
			if result, beats := s.Hook(m); result != "" {
				t.Fatalf("the hook ended (%s) after %d heartbeats", result, beats)
			}
			m.Shell("rm /usr/local/bin/docker")
			eventually(t, "signals", func() bool { return strings.HasPrefix(m.told(), want) && strings.Contains(m.told(), "openvidu:quit") })
			m.HangUp()
			drained(t, s, m)
		})
	})
	t.Run("another stop signal, and restart: always", func(t *testing.T) {
		aMediaNode(t, Options{Scale: 120, Files: map[string]string{"etc/lab/openvidu": "restart=always stop_signal=SIGTERM\n"}}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Call("openvidu")
			s.ScaleIn(m)
			eventually(t, "signals", func() bool { return strings.Contains(m.told(), "openvidu:quit") })
			cloud.clock.Sleep(3 * time.Second)
			expect(t, "what carries a call was told", m.Shell("cat /var/lib/lab-calls/told-openvidu"), "quit")
			m.HangUp()
			drained(t, s, m)
		})
	})
	t.Run("after almost 48 hours the node is kept", func(t *testing.T) {
		aMediaNode(t, Options{Scale: 120}, func(t testing.TB, s *Stack, m *Machine) {
			ready(t, s, 0)
			m.Call("openvidu")
			m.Shell("echo $(($(date +%s) - 48 * 3600)) >/var/lib/openvidu-node/drain")
			s.ScaleIn(m)
			eventually(t, "the end of the hook", func() bool { result, _ := s.Hook(m); return result != "" })
			result, _ := s.Hook(m)
			expect(t, "end of the hook", result, "ABANDON")
			eventually(t, "signals", func() bool { return strings.Contains(m.told(), "openvidu:quit") })
			if m.gone() {
				t.Error("its calls were cut")
			}
			m.HangUp()
		})
	})
}

func TestSignalsAreRepeated(t *testing.T) {
	t.Parallel()
	t.Run("a creation's address answers 503, and cuts connections", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			on(s, "Signal", func(call int64) (int, string) {
				switch {
				case call > 12:
					return 0, ""
				case call%2 == 0:
					return reset, ""
				default:
					return 503, "<Error><Code>SlowDown</Code></Error>"
				}
			})
			s.Launch(Group(1))
			ready(t, s, 1)
		})
	})
	t.Run("an update's signal is throttled", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 1)
			on(s, "SignalResource", func(call int64) (int, string) {
				if call < 10 {
					return 503, "down"
				}
				return 0, ""
			})
			s.mu.Lock()
			s.rolling[Group(1)] = true
			s.mu.Unlock()
			m := s.Kill(Group(1), nil)
			eventually(t, "its signal", func() bool { return s.updateSignal(Group(1), m.Id) == "SUCCESS" })
		})
	})
}

// A race at the first start: OpenVidu is healthy from its second start on.
func TestOpenViduIsStartedAgain(t *testing.T) {
	scenario(t, Options{Masters: 1, Scale: 60, Files: map[string]string{"etc/lab/unhealthy": "99999",
		"etc/systemd/system/openvidu.service.d/lab.conf": "[Service]\nExecStopPost=/bin/sh -c 'echo 0 >/etc/lab/unhealthy'\n"}}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		checkMaster(t, s, 1)
	})
}

func TestDisksThatAreFull(t *testing.T) {
	t.Parallel()
	t.Run("logs", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 1)
			quiet(t, s, 1)
			s.Machine(Group(1)).Shell("echo 'tmpfs /var/log tmpfs size=4k 0 0' >>/etc/fstab; sync")
			reboot(t, s)
			expect(t, "left", s.Machine(Group(1)).Shell("findmnt -no SIZE /var/log"), "4K")
		})
	})
	t.Run("a replaced master's volume", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 1)
			quiet(t, s, 1)
			mark(s, 1)
			m := s.Machine(Group(1))
			m.Shell(`cd /opt/openvidu/data && n=0; for size in 1G 64M 4M 64K 4K; do while fallocate -l $size full-$((n++)) 2>/dev/null; do :; done; done; for i in $(seq 5000); do echo >more-$i || break; done; sync`)
			if left := m.Shell("cd /opt/openvidu/config/node && cp --attributes-only master_node.env x && echo full >>x && echo left"); strings.HasSuffix(left, "left") {
				t.Fatal("the volume is not full: ", left)
			}
			s.Kill(Group(1), nil)
			checkKept(t, s, 1)
		})
	})
}

func TestDockerIsWhatTheInstallerWants(t *testing.T) {
	scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
		s.Serve(func(w http.ResponseWriter, installer []byte) {
			_, _ = fmt.Fprint(w, strings.ReplaceAll(string(installer), "29.5.3", "29.7.0"))
		})
		s.Launch(Group(1))
		ready(t, s, 1)
		expect(t, "Docker", s.Machine(Group(1)).Shell("docker --version"), "Docker version 29.7.0, build lab")
	})
}

func TestPackagesThatWereCutOff(t *testing.T) {
	scenario(t, Options{Masters: 1, Distribution: Ubuntu24, Files: map[string]string{"var/lib/dpkg/updates/0001": "",
		"etc/systemd/system/unattended-upgrades.service": holdsLock, "etc/systemd/system/multi-user.target.wants/unattended-upgrades.service": holdsLock}}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		checkMaster(t, s, 1)
	})
}
