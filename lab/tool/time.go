package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	clockFile     = "/run/lab/clock" // nanoseconds of the lab's time
	scaleFile     = "/etc/lab/scale"
	leastVariable = "LAB_LEAST"      // of units that look again and again: how long each of their pauses lasts at least
	hangsFile     = "/etc/lab/hangs" // commands that hang in this scenario: their limits are scaled
)

// scale is how many seconds of a script pass in one second of the lab's time.
func scale() int {
	content, err := os.ReadFile(scaleFile)
	if err != nil {
		return 1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

func labTime() time.Duration {
	content, err := os.ReadFile(clockFile)
	if err != nil || len(content) < 8 {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(binary.LittleEndian.Uint64(content))
}

// sleep waits in the lab's time, which a busy machine makes slower: a node that waits for something waits as long as that takes.
func sleep(arguments []string) error {
	var total time.Duration
	for _, argument := range arguments {
		if argument == "infinity" {
			return hang(nil)
		}
		if strings.Trim(argument, "0123456789.") == "" {
			argument += "s"
		}
		d, err := time.ParseDuration(argument)
		if err != nil {
			return fmt.Errorf("invalid time interval %q", argument)
		}
		total += d
	}
	total /= time.Duration(scale())
	if least, err := time.ParseDuration(os.Getenv(leastVariable)); err == nil {
		total = max(total, least)
	}
	waitLab(total)
	return nil
}

// waitLab waits for a duration of the lab's time, which never passes faster than real time.
func waitLab(d time.Duration) {
	for end := labTime() + d; ; {
		left := end - labTime()
		if left <= 0 {
			return
		}
		time.Sleep(max(left, 10*time.Millisecond)) // in which steps it passes
	}
}

func hang([]string) error {
	for {
		time.Sleep(time.Hour)
	}
}

// timeout is that of coreutils. What it bounds is work, which is not scaled, but for a command that this scenario makes hang.
func timeout(arguments []string) error {
	const real = "/usr/bin/timeout"
	at := 0
	for at < len(arguments) && strings.HasPrefix(arguments[at], "-") {
		if arguments[at] == "-k" || arguments[at] == "-s" {
			at++
		}
		at++
	}
	if hanging, err := os.ReadFile(hangsFile); err == nil && at+1 < len(arguments) && slices.Contains(strings.Fields(string(hanging)), filepath.Base(arguments[at+1])) {
		for i, argument := range arguments[:at+1] { // the limit, and how long it waits before it kills
			if limit, err := strconv.Atoi(argument); err == nil {
				arguments[i] = fmt.Sprint(max(1, limit/scale()))
			}
		}
	}
	return syscall.Exec(real, append([]string{real}, arguments...), os.Environ())
}

// cuttable are the commands before which a scenario cuts the power.
var cuttable = []string{"mkfs.xfs", "cp", "mv", "umount", "mount", "find", "rm", "xfs_growfs"}

// cutBefore runs the command, unless /etc/lab/cut names it (and how many of its calls come first): then it waits for the power to be
// cut, a copy after its first files.
func cutBefore(name string) func(arguments []string) error {
	return func(arguments []string) error {
		const plan = "/etc/lab/cut"
		command, calls := "", 0
		if content, err := os.ReadFile(plan); err == nil {
			_, _ = fmt.Sscan(string(content), &command, &calls)
		}
		caller, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid()))
		if !bytes.Contains(caller, []byte("openvidu-node")) {
			command = "" // a package's or the installer's own
		}
		if command == name && calls == 0 {
			if err := os.Remove(plan); err != nil {
				return err
			}
			if len(arguments) > 2 && arguments[0] == "-a" {
				target := arguments[len(arguments)-1]
				if err := exec.Command("/usr/bin/cp", "-a", "/opt/openvidu/docker-compose.yaml", "/opt/openvidu/config", target).Run(); err != nil {
					return err
				}
			}
			if err := os.WriteFile("/run/cut-now", nil, 0o600); err != nil {
				return err
			}
			return hang(nil)
		}
		if command == name {
			if err := os.WriteFile(plan, fmt.Appendln(nil, command, calls-1), 0o600); err != nil {
				return err
			}
		}
		for _, directory := range []string{"/usr/sbin/", "/usr/bin/"} {
			if err := syscall.Exec(directory+name, append([]string{name}, arguments...), os.Environ()); !errors.Is(err, syscall.ENOENT) {
				return err
			}
		}
		return errors.New("command not found")
	}
}
