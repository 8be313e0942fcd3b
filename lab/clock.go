package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"
)

// The lab's time passes as fast as this machine works: when twice as many processes want to run as there are processors, it passes half as
// fast. All waiting of nodes and of Auto Scaling is measured in it (and scaled), so that what a node waits for keeps its chance on a busy
// machine. Nodes read it from a file (lab/tool, sleep).
type clock struct {
	file  *os.File
	nanos atomic.Int64
}

const tick = 10 * time.Millisecond

func newClock(dir string) (*clock, error) {
	file, err := os.OpenFile(filepath.Join(dir, "clock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	c := &clock{file: file}
	c.nanos.Store(time.Now().UnixNano())
	if err := c.publish(); err != nil {
		return nil, err
	}
	go func() {
		for last := time.Now(); ; {
			time.Sleep(tick)
			now := time.Now()
			passed := now.Sub(last)
			last = now
			c.nanos.Add(int64(float64(min(passed, 5*tick)) * pace(runnable(), runtime.NumCPU())))
			if c.publish() != nil {
				return // the lab's directory is gone: so is the lab
			}
		}
	}()
	return c, nil
}

// pace is how fast the lab's time passes.
func pace(runnable, processors int) float64 {
	return min(1, float64(processors)/float64(max(1, runnable)))
}

// runnable is how many processes run or want to, this one left out.
func runnable() int {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 1
	}
	_, line, _ := bytes.Cut(content, []byte("procs_running "))
	var running int
	if _, err := fmt.Sscan(string(line), &running); err != nil {
		return 1
	}
	return running - 1
}

func (c *clock) publish() error {
	_, err := c.file.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(c.nanos.Load())), 0)
	return err
}

// Now in the lab's time.
func (c *clock) Now() time.Time { return time.Unix(0, c.nanos.Load()) }

// Sleep for a duration of the lab's time.
func (c *clock) Sleep(d time.Duration) {
	for end := c.Now().Add(d); ; {
		left := end.Sub(c.Now())
		if left <= 0 {
			return
		}
		time.Sleep(max(left, tick))
	}
}
