package measure

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Counter numbers the packets that one publisher sends of one kind.
type Counter struct {
	mu        sync.Mutex
	threshold time.Duration
	runs      []run
	last      time.Time
	sent      uint64
	pauses    pauses
}

type run struct {
	id   uint32
	sent uint64
}

// NewCounter makes a counter that notes each of its own pauses over the threshold. A subscriber hears nothing either while its
// publisher does not get to send, on a machine that is too busy.
func NewCounter(threshold time.Duration) *Counter {
	c := &Counter{threshold: threshold}
	c.Restart()
	return c
}

// Restart begins again from zero, as a publisher does that was started anew.
func (c *Counter) Restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = append(c.runs, run{id: rand.Uint32()})
}

// Next returns the mark of the packet that is sent now.
func (c *Counter) Next(now time.Time) Mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() {
		c.pauses.add(c.last, now.Sub(c.last), c.threshold)
	}
	c.last = now
	current := &c.runs[len(c.runs)-1]
	mark := Mark{Run: current.id, Number: current.sent, Sent: now}
	current.sent++
	c.sent++
	return mark
}

// Sent returns how many packets were sent, and when the last one was.
func (c *Counter) Sent() (uint64, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.last
}

// Pauses returns the pauses over the threshold.
func (c *Counter) Pauses() []Silence {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Silence{}, c.pauses.over...)
}

func (c *Counter) snapshot() []run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]run(nil), c.runs...)
}

// pauses keeps the longest of many gaps and lists those over a threshold.
type pauses struct {
	longest Silence
	over    []Silence
}

func (p *pauses) add(from time.Time, gap, threshold time.Duration) bool {
	s := Silence{At: from, Ms: gap.Milliseconds()}
	if gap.Milliseconds() > p.longest.Ms {
		p.longest = s
	}
	if gap <= threshold {
		return false
	}
	p.over = append(p.over, s)
	return true
}
