package measure

import (
	"sync"
	"time"
)

// maxNumber bounds the memory of a flow to 4 MB. It is a week of audio, so that a greater number is a broken packet.
const maxNumber = 1 << 25

// Flow is what one subscriber gets of one kind from one publisher, across all of its reconnections.
type Flow struct {
	mu        sync.Mutex
	threshold time.Duration
	since     time.Time
	runs      map[uint32]*heardRun
	order     []uint32 // of the runs, as they were first heard

	first, last time.Time
	duplicates  uint64
	reordered   uint64
	foreign     uint64
	silences    pauses
	delaySum    time.Duration
	delayMax    time.Duration
}

type heardRun struct {
	seen      []uint64 // a bit for each number
	received  uint64
	low, high uint64
}

// NewFlow makes a flow that could be heard from the given time on. It lists each silence over the threshold.
func NewFlow(since time.Time, threshold time.Duration) *Flow {
	return &Flow{threshold: threshold, since: since, runs: map[uint32]*heardRun{}}
}

// Packet counts a packet that arrived now. It returns the silence that the packet ended, if it was over the threshold.
func (f *Flow) Packet(payload []byte, now time.Time) (Silence, bool) {
	mark, ok := FindMark(payload)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || mark.Number >= maxNumber {
		f.foreign++ // padding, with which a media server probes the bandwidth
		return Silence{}, false
	}
	r := f.runs[mark.Run]
	if r == nil {
		r = &heardRun{low: mark.Number, high: mark.Number}
		f.runs[mark.Run] = r
		f.order = append(f.order, mark.Run)
	}
	if !r.add(mark.Number) {
		f.duplicates++
		return Silence{}, false
	}
	if mark.Number < r.high {
		f.reordered++
	}
	r.low, r.high = min(r.low, mark.Number), max(r.high, mark.Number)
	delay := now.Sub(mark.Sent)
	f.delaySum += delay
	f.delayMax = max(f.delayMax, delay)

	before := f.last
	f.last = now
	if before.IsZero() {
		f.first = now
		return Silence{}, false
	}
	if f.silences.add(before, now.Sub(before), f.threshold) {
		return f.silences.over[len(f.silences.over)-1], true
	}
	return Silence{}, false
}

func (r *heardRun) add(number uint64) bool {
	word, bit := int(number/64), uint64(1)<<(number%64)
	for len(r.seen) <= word {
		r.seen = append(r.seen, 0)
	}
	if r.seen[word]&bit != 0 {
		return false
	}
	r.seen[word] |= bit
	r.received++
	return true
}

// Heard tells whether anything arrived.
func (f *Flow) Heard() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.last.IsZero()
}

// Missing returns how many packets that the publisher sent have not arrived.
func (f *Flow) Missing(counter *Counter) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	expected, received := f.count(counter)
	return expected - received
}

// count returns how many packets should have arrived, and did. What was sent before the first packet that a subscriber got is not
// expected: it had not joined. A run that began after that is expected from its first packet on, whether or not any of it arrived.
// Without the publisher's counter, only what is missing before the last packet that arrived is known.
func (f *Flow) count(counter *Counter) (expected, received uint64) {
	if counter == nil {
		for i, id := range f.order {
			r := f.runs[id]
			received += r.received
			expected += r.high + 1
			if i == 0 {
				expected -= r.low
			}
		}
		return expected, received
	}
	joined := len(f.runs) == 0
	for _, sent := range counter.snapshot() {
		r := f.runs[sent.id]
		if r != nil {
			received += r.received
		}
		switch {
		case joined:
			expected += sent.sent
		case r != nil:
			expected += sent.sent - r.low
			joined = true
		}
	}
	return expected, received
}

// Result sums the flow up. The silence after the last packet counts up to the given end. The counter is the publisher's, or nil if
// another program published.
func (f *Flow) Result(counter *Counter, end time.Time) FlowResult {
	f.mu.Lock()
	defer f.mu.Unlock()
	expected, received := f.count(counter)
	result := FlowResult{
		Expected: expected, Received: received, Lost: expected - received,
		Duplicates: f.duplicates, Reordered: f.reordered,
		MaxDelayMs: f.delayMax.Milliseconds(),
		Pauses:     []Silence{},
	}
	if counter != nil {
		result.Sent, _ = counter.Sent()
		result.Pauses = counter.Pauses()
	}
	if received > 0 {
		result.MeanDelayMs = float64((f.delaySum / time.Duration(received)).Microseconds()) / 1000
		result.FirstPacketMs = f.first.Sub(f.since).Milliseconds()
	}
	silences := pauses{longest: f.silences.longest, over: append([]Silence{}, f.silences.over...)}
	last := f.last
	if last.IsZero() {
		last = f.since
	}
	silences.add(last, end.Sub(last), f.threshold)
	result.Longest, result.Silences = silences.longest, silences.over
	return result
}
