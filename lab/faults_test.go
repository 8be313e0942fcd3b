package lab

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestVolumesThatAreNotBlankAreLeftAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make func(v *volume)
		says string
	}{
		"ext4":        {func(v *volume) { mustRun("mkfs.ext4", "-qF", v.file) }, "TYPE=ext4"},
		"foreign xfs": {func(v *volume) { mustRun("mkfs.xfs", "-q", "-L", "other", v.file) }, "LABEL=other"},
		"partition table": {func(v *volume) {
			record := make([]byte, 512)
			record[450], record[455], record[459], record[510], record[511] = 0x83, 8, 8, 0x55, 0xaa // one Linux partition
			write(v, record, 0)
		}, "PTTYPE=dos"},
		"unknown content": {func(v *volume) {
			write(v, []byte("precious"), 4096)
		}, "neither blank nor known"},
		"own label, unknown files": {func(v *volume) {
			mustRun("mkfs.xfs", "-q", "-L", "openvidu", v.file)
			mustRun("sh", "-c", "d=$(mktemp -d) && mount "+v.file+" $d && echo x >$d/x && umount $d")
		}, "holds unknown files"},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
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

func write(v *volume, content []byte, at int64) {
	file, err := os.OpenFile(v.file, os.O_WRONLY, 0)
	must(err)
	defer file.Close()
	_, err = file.WriteAt(content, at)
	must(err)
}

func TestVolumesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	t.Run("too small", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			v := s.volume(1)
			must(os.Truncate(v.file, 10<<30))
			s.Launch(Group(1))
			failure(t, s, "MasterReady", "attach_data_volume failed", v.id+" has 10 GiB; DiskSize asks for 50")
		})
	})
	t.Run("never attaches", func(t *testing.T) {
		scenario(t, Options{Masters: -1, Scale: 400}, nil, func(t testing.TB, s *Stack) {
			v := s.volume(1)
			s.Fault(func(_, action string) (int, string) {
				if action == "AttachVolume" {
					return 400, "<Response><Errors><Error><Code>VolumeInUse</Code><Message>" + v.id + " is already attached to an instance</Message></Error></Errors></Response>"
				}
				return 0, ""
			})
			s.Launch(Group(1))
			failure(t, s, "MasterReady", "attach_data_volume failed", v.id, "never became", "VolumeInUse")
		})
	})
}

const (
	throttled = `{"__type":"ThrottlingException","message":"Rate exceeded"}`
	broken    = `{"__type":"InternalServiceError","message":"the vault is closed"}`
)

// on is a fault of one action alone, which knows how often it was asked.
func on(s *Stack, wanted string, fault func(call int64) (int, string)) {
	var calls atomic.Int64
	s.Fault(func(_, action string) (int, string) {
		if action == wanted {
			return fault(calls.Add(1))
		}
		return 0, ""
	})
}

func TestTransientFaultsAreRetried(t *testing.T) {
	t.Parallel()
	t.Run("Secrets Manager throttles", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			on(s, "GetSecretValue", func(call int64) (int, string) {
				if call < 12 {
					return 400, throttled
				}
				return 0, ""
			})
			s.Launch(Group(1))
			ready(t, s, 1)
			if calls := s.Calls(Group(1), "GetSecretValue"); calls != 12+recording {
				t.Errorf("%d calls", calls)
			}
		})
	})
	t.Run("Secrets Manager is slow", func(t *testing.T) {
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			on(s, "GetSecretValue", func(int64) (int, string) { time.Sleep(5 * time.Second); return 0, "" })
			s.Launch(Group(1))
			ready(t, s, 1)
			if calls := s.Calls(Group(1), "GetSecretValue"); calls > 1+recording {
				t.Errorf("%d calls", calls)
			}
		})
	})
	t.Run("download fails twice, then is cut, then works", func(t *testing.T) {
		var calls atomic.Int64
		scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
			s.Serve(func(w http.ResponseWriter, installer []byte) {
				switch calls.Add(1) {
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
			// Two fail, one is cut; then the installers of both roles are recorded, and the master's is installed.
			if calls.Load() != 6 {
				t.Errorf("%d downloads", calls.Load())
			}
		})
	})
	t.Run("package lock is held, installer fails once, health fails at first", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Distribution: Ubuntu24, Files: map[string]string{
			"etc/lab/installer-fails": "1", "etc/lab/unhealthy": "5", "etc/systemd/system/unattended-upgrades.service": holdsLock, "etc/systemd/system/multi-user.target.wants/unattended-upgrades.service": holdsLock}}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 1)
			checkMaster(t, s, 1)
		})
	})
	t.Run("metadata are absent, then slow", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, LateMetadata: true}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			checkMaster(t, s, 1)
		})
	})
}

// holdsLock is a unit that holds dpkg's lock for a while from the boot on, as unattended-upgrades does.
const holdsLock = `[Service]
ExecStart=/usr/bin/python3 -c "import fcntl, subprocess; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); subprocess.call(['sleep', '90'])"
`

func TestFaultsThatStayAreNamed(t *testing.T) {
	t.Parallel()
	t.Run("Secrets Manager", func(t *testing.T) {
		scenario(t, Options{Masters: -1, Scale: 200}, nil, func(t testing.TB, s *Stack) {
			on(s, "GetSecretValue", func(int64) (int, string) { return 500, broken })
			s.Launch(Group(1))
			failure(t, s, "MasterReady", "master-1", "read_secret failed", "the vault is closed")
		})
	})
	t.Run("download", func(t *testing.T) {
		scenario(t, Options{Masters: -1, Scale: 200}, nil, func(t testing.TB, s *Stack) {
			s.Serve(func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) })
			s.Launch(Group(1))
			failure(t, s, "MasterReady", "master-1", "download_installer failed", "404")
		})
	})
	t.Run("installer, without telling a credential", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 200, Files: map[string]string{"etc/lab/installer-fails": "99"}}, nil, func(t testing.TB, s *Stack) {
			failure(t, s, "MasterReady", "install_master failed", "ERROR: no space for the images")
			eventually(t, "a word in CloudWatch Logs", func() bool { return strings.Contains(logged(s), "no space for the images") })
		})
	})
	t.Run("health", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 60, Files: map[string]string{"etc/lab/unhealthy": "9999"}}, nil, func(t testing.TB, s *Stack) {
			failure(t, s, "MasterReady", "healthy failed", "503")
			if s.readyOnce() {
				t.Error("the node said that it is ready")
			}
		})
	})
	t.Run("health, of an installed node", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 60}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 1)
			s.Machine(Group(1)).put("etc/lab/unhealthy", "9999")
			cutPower(s)
			failure(t, s, "MasterReady", "healthy failed", "503")
			// systemd tries again: what heals by itself needs nobody.
			signals := len(s.Signals("MasterReady"))
			s.Machine(Group(1)).put("etc/lab/unhealthy", "0")
			eventually(t, "ready after all", func() bool {
				now := s.Signals("MasterReady")
				return len(now) > signals && now[len(now)-1].Status == "SUCCESS"
			})
		})
	})
	t.Run("operating system", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Distribution: "debian 12"}, nil, func(t testing.TB, s *Stack) {
			failure(t, s, "MasterReady", "identify failed", "debian-12 is not supported: use Amazon Linux 2023, Ubuntu 22.04 or 24.04")
		})
	})
}
