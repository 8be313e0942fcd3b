package measure

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const threshold = 250 * time.Millisecond

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// link is a publisher and a subscriber with a network between them that a test controls.
type link struct {
	counter *Counter
	flow    *Flow
	now     time.Time
}

func newLink() *link {
	return &link{NewCounter(threshold), NewFlow(start, threshold), start}
}

// send sends a packet every 20 ms and returns their payloads.
func (l *link) send(n int) (payloads [][]byte) {
	for range n {
		l.now = l.now.Add(20 * time.Millisecond)
		payload := make([]byte, 100)
		l.counter.Next(l.now).Put(payload[11:])
		payloads = append(payloads, payload)
	}
	return payloads
}

func (l *link) receive(payloads ...[]byte) {
	for _, p := range payloads {
		mark, _ := FindMark(p)
		l.flow.Packet(p, mark.Sent.Add(5*time.Millisecond))
	}
}

func (l *link) result() FlowResult { return l.flow.Result(l.counter, l.now) }

func (l *link) expect(t *testing.T, sent, expected, received, lost, duplicates, reordered uint64) {
	t.Helper()
	r := l.result()
	got := [6]uint64{r.Sent, r.Expected, r.Received, r.Lost, r.Duplicates, r.Reordered}
	if want := [6]uint64{sent, expected, received, lost, duplicates, reordered}; got != want {
		t.Errorf("sent, expected, received, lost, duplicates, reordered = %v, want %v", got, want)
	}
	if missing := l.flow.Missing(l.counter); missing != lost {
		t.Errorf("missing %d, lost %d", missing, lost)
	}
}

func TestMarkIsFoundWhereverTheDescriptorEnds(t *testing.T) {
	want := Mark{Run: 7, Number: 1 << 20, Sent: start}
	for offset := range markSearch + 1 {
		payload := make([]byte, offset+MarkSize)
		want.Put(payload[offset:])
		got, ok := FindMark(payload)
		if !ok || got.Run != want.Run || got.Number != want.Number || !got.Sent.Equal(want.Sent) {
			t.Fatalf("at %d: %v %v", offset, got, ok)
		}
		if _, ok := FindMark(payload[:len(payload)-1]); ok {
			t.Fatalf("at %d: found in a payload that is cut off", offset)
		}
	}
	for _, payload := range [][]byte{nil, {1}, bytes.Repeat([]byte{0}, 1000)} {
		if _, ok := FindMark(payload); ok {
			t.Errorf("found in %d bytes without one", len(payload))
		}
	}
}

func TestNothingIsLost(t *testing.T) {
	l := newLink()
	l.receive(l.send(100)...)
	l.expect(t, 100, 100, 100, 0, 0, 0)
	r := l.result()
	if r.Longest.Ms != 20 || len(r.Silences) != 0 || r.MeanDelayMs != 5 || r.MaxDelayMs != 5 || r.FirstPacketMs != 25 {
		t.Errorf("%+v", r)
	}
}

func TestLossAtTheBeginningInTheMiddleAndAtTheEnd(t *testing.T) {
	l := newLink()
	packets := l.send(1000)
	l.receive(packets[130:200]...) // before 130 nobody had subscribed
	l.receive(packets[203:990]...)
	l.expect(t, 1000, 870, 857, 13, 0, 0)
}

func TestDuplicatesAndLatePacketsAreNotLost(t *testing.T) {
	l := newLink()
	p := l.send(10)
	l.receive(p[1], p[0], p[2], p[2], p[4], p[5], p[3], p[5], p[6], p[7], p[8], p[9])
	l.expect(t, 10, 10, 10, 0, 2, 2)
}

func TestCountersThatRestart(t *testing.T) {
	l := newLink()
	before := l.send(100)
	l.counter.Restart()
	after := l.send(50)
	l.receive(before[10:90]...)
	l.receive(after[5:]...) // the run's first packets are lost: the subscriber was there
	l.expect(t, 150, 140, 125, 15, 0, 0)
	l.receive(before[95]) // of the run before, late
	l.expect(t, 150, 140, 126, 14, 0, 0)
}

func TestRunsThatWereNeverHeard(t *testing.T) {
	l := newLink()
	l.send(10)
	l.expect(t, 10, 10, 0, 10, 0, 0) // nothing at all arrives
	l.counter.Restart()
	l.receive(l.send(10)[2:]...)
	l.expect(t, 20, 8, 8, 0, 0, 0) // the first run was over before the subscriber came
	l.counter.Restart()
	l.send(10)
	l.expect(t, 30, 18, 8, 10, 0, 0)
}

func TestWithoutThePublishersCounter(t *testing.T) {
	l := newLink()
	p := l.send(100)
	l.receive(p[20:50]...)
	l.receive(p[60:90]...)
	l.counter.Restart()
	l.receive(l.send(10)[1:9]...)
	r := l.flow.Result(nil, l.now)
	if r.Expected != 79 || r.Received != 68 || r.Lost != 11 { // what follows the last packet of a run is unknown
		t.Errorf("%+v", r)
	}
}

func TestAnotherPublishersRunDoesNotCount(t *testing.T) {
	l, other := newLink(), newLink()
	l.receive(l.send(10)...)
	l.receive(other.send(5)...)
	l.expect(t, 10, 10, 10, 0, 0, 0)
}

func TestPacketsWithoutAMark(t *testing.T) {
	l := newLink()
	l.receive(l.send(2)...)
	l.flow.Packet(make([]byte, 200), l.now.Add(10*time.Second))
	broken := make([]byte, MarkSize)
	Mark{Number: maxNumber}.Put(broken)
	l.flow.Packet(broken, l.now.Add(20*time.Second))
	l.expect(t, 2, 2, 2, 0, 0, 0)
	if r := l.result(); r.Longest.Ms != 20 {
		t.Errorf("padding ended a silence: %+v", r.Longest)
	}
}

func TestSilences(t *testing.T) {
	l := newLink()
	p := l.send(500) // 10 s
	l.receive(p[:100]...)
	if _, over := l.flow.Packet(p[50], start.Add(4*time.Second)); over {
		t.Error("a duplicate ended a silence")
	}
	l.receive(p[112:200]...) // 260 ms
	l.receive(p[212:300]...)
	l.receive(p[310:400]...) // 220 ms
	r := l.result()
	want := []Silence{
		{At: start.Add(100*20*time.Millisecond + 5*time.Millisecond), Ms: 260},
		{At: start.Add(200*20*time.Millisecond + 5*time.Millisecond), Ms: 260},
		{At: start.Add(400*20*time.Millisecond + 5*time.Millisecond), Ms: 1995}, // to the end
	}
	if len(r.Silences) != len(want) {
		t.Fatalf("%+v", r.Silences)
	}
	for i := range want {
		if !r.Silences[i].At.Equal(want[i].At) || r.Silences[i].Ms != want[i].Ms {
			t.Errorf("silence %d is %+v, want %+v", i, r.Silences[i], want[i])
		}
	}
	if r.Longest != r.Silences[2] {
		t.Errorf("longest %+v", r.Longest)
	}
	if again := l.result(); len(again.Silences) != len(want) {
		t.Errorf("a result changes the next: %+v", again.Silences)
	}
}

func TestPacketReportsTheSilenceThatItEnds(t *testing.T) {
	l := newLink()
	p := l.send(100)
	l.receive(p[0])
	mark, _ := FindMark(p[99])
	silence, over := l.flow.Packet(p[99], mark.Sent)
	if !over || silence.Ms != 99*20-5 {
		t.Errorf("%v %v", silence, over)
	}
}

func TestSilenceFromTheBeginningToTheEnd(t *testing.T) {
	l := newLink()
	l.send(500)
	r := l.result()
	if r.Longest.Ms != 10000 || !r.Longest.At.Equal(start) || len(r.Silences) != 1 || l.flow.Heard() {
		t.Errorf("%+v", r)
	}
}

func TestPausesOfThePublisher(t *testing.T) {
	l := newLink()
	l.receive(l.send(10)...)
	l.now = l.now.Add(time.Second)
	l.receive(l.send(10)...)
	r := l.result()
	if len(r.Pauses) != 1 || r.Pauses[0].Ms != 1020 || !r.Pauses[0].At.Equal(start.Add(200*time.Millisecond)) {
		t.Errorf("%+v", r.Pauses)
	}
}

func TestTotalCountsEachPublisherOnce(t *testing.T) {
	flow := FlowResult{From: "a", Kind: "audio", Sent: 10, Expected: 9, Received: 7, Lost: 2, Duplicates: 1, Longest: Silence{Ms: 30}}
	silent := flow
	silent.Longest = Silence{At: start, Ms: 40}
	r := Result{Calls: []Call{
		{Room: "1", Parties: []Party{{Identity: "b", Flows: []FlowResult{flow}}, {Identity: "c", Flows: []FlowResult{silent}}}},
		{Room: "2", Parties: []Party{{Identity: "b", Flows: []FlowResult{flow}}}},
	}}
	r.Total()
	r.Total()
	if want := (Packets{Sent: 20, Expected: 27, Received: 21, Lost: 6, Duplicates: 3}); r.Packets != want {
		t.Errorf("%+v, want %+v", r.Packets, want)
	}
	if r.Longest == nil || r.Longest.Ms != 40 || r.Where != "c audio in 1" {
		t.Errorf("%+v %s", r.Longest, r.Where)
	}
	empty := Result{}
	empty.Total()
	if empty.Longest != nil {
		t.Error("a silence where nobody listened")
	}
}

func TestJoins(t *testing.T) {
	var j Joins
	var times []int64
	for _, ms := range []int{30, 10, 500} {
		j.Add(time.Duration(ms)*time.Millisecond, nil, &times)
	}
	j.Add(time.Hour, &Failure{Step: "join"}, &times)
	if j.Tried != 4 || j.Failed != 1 || j.MedianMs != 30 || j.LongestMs != 500 || len(j.Failures) != 1 {
		t.Errorf("%+v", j)
	}
}

func TestEventsAreLinesOfJSON(t *testing.T) {
	var out bytes.Buffer
	events := NewEvents(&out)
	events.Write(Event{Event: "joined", Party: "a\nb"})
	events.Write(Event{Time: start, Event: "silence", Ms: 300})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	var event Event
	if err := json.Unmarshal([]byte(lines[0]), &event); err != nil || event.Party != "a\nb" || event.Time.IsZero() {
		t.Errorf("%v %+v", err, event)
	}
	if lines[1] != `{"time":"2026-01-02T03:04:05Z","event":"silence","ms":300}` {
		t.Error(lines[1])
	}
}
