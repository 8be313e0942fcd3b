package measure

import (
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"
)

// Result is what a program that makes calls writes to its standard output.
type Result struct {
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`

	Packets Packets  `json:"packets"`         // of all calls, without the short ones
	Longest *Silence `json:"longest_silence"` // of all calls; null if nobody listened
	Where   string   `json:"longest_silence_where,omitempty"`
	// Joins counts the participants of the calls; Short the calls that were made in addition, one after another, to see whether
	// new calls are possible at each moment.
	Joins Joins `json:"joins"`
	Short Joins `json:"short_calls"`
	// Stalls are the times at which this program itself did not get to run. A silence at such a time is not the network's.
	Stalls     []Silence `json:"stalls"`
	CPUSeconds float64   `json:"cpu_seconds"`
	Calls      []Call    `json:"calls"`
}

// Packets counts packets.
type Packets struct {
	Sent       uint64 `json:"sent"`
	Expected   uint64 `json:"expected"` // sent while somebody listened, once for each who did
	Received   uint64 `json:"received"`
	Lost       uint64 `json:"lost"`
	Duplicates uint64 `json:"duplicates"`
	Reordered  uint64 `json:"reordered"`
}

// Silence is a time in which nothing was heard.
type Silence struct {
	At time.Time `json:"at"` // when it began
	Ms int64     `json:"ms"`
}

// Joins counts what was tried and what failed.
type Joins struct {
	Tried     int       `json:"tried"`
	Failed    int       `json:"failed"`
	MedianMs  int64     `json:"median_ms"` // of those that succeeded
	LongestMs int64     `json:"longest_ms"`
	Failures  []Failure `json:"failures"`
}

// Failure is a join that failed.
type Failure struct {
	At    time.Time `json:"at"` // when it was tried
	Room  string    `json:"room"`
	Step  string    `json:"step"` // create, join, publish, or media: nothing was heard
	Error string    `json:"error"`
	Ms    int64     `json:"ms"`
}

// Call is a room with its participants.
type Call struct {
	Room    string  `json:"room"`
	Node    string  `json:"node"` // the media server's id, at the end
	Parties []Party `json:"parties"`
	// Late are the participants who heard nobody for longer than the option -late, and then did again.
	Late []string `json:"late"`
}

// Party is a participant.
type Party struct {
	Identity      string         `json:"identity"`
	Node          string         `json:"node"`
	JoinMs        int64          `json:"join_ms"`
	Pairs         Pairs          `json:"candidate_pairs"`
	Interruptions []Interruption `json:"interruptions"`
	Disconnected  *Disconnect    `json:"disconnected,omitempty"`
	Flows         []FlowResult   `json:"flows"`
}

// Pairs are the selected ICE candidate pairs of the two peer connections.
type Pairs struct {
	Publisher  string `json:"publisher,omitempty"`
	Subscriber string `json:"subscriber,omitempty"`
}

// Interruption is a time in which the SDK reconnected.
type Interruption struct {
	At time.Time `json:"at"`
	Ms int64     `json:"ms"`             // until it had reconnected, or to the end
	To string    `json:"node,omitempty"` // the media server's id afterwards; missing if it did not reconnect
}

// Disconnect is the end of a participation that nobody asked for.
type Disconnect struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// FlowResult is what one participant got of one kind from another.
type FlowResult struct {
	From       string `json:"from"`
	Kind       string `json:"kind"`
	Sent       uint64 `json:"sent"`
	Expected   uint64 `json:"expected"`
	Received   uint64 `json:"received"`
	Lost       uint64 `json:"lost"`
	Duplicates uint64 `json:"duplicates"`
	Reordered  uint64 `json:"reordered"`

	FirstPacketMs int64     `json:"first_packet_ms"` // since it could have been heard; missing packets before it are not lost
	Longest       Silence   `json:"longest_silence"`
	Silences      []Silence `json:"silences"` // those over the threshold
	Pauses        []Silence `json:"pauses"`   // of the publisher itself, over the threshold
	MeanDelayMs   float64   `json:"mean_delay_ms"`
	MaxDelayMs    int64     `json:"max_delay_ms"`

	// Of webrtc/call.mjs alone: 10 ms of sound each.
	FramesSent  uint64 `json:"frames_sent,omitempty"`
	FramesHeard uint64 `json:"frames_heard,omitempty"`
}

// Add counts a join, or a short call, that was tried.
func (j *Joins) Add(took time.Duration, failure *Failure, times *[]int64) {
	j.Tried++
	if failure != nil {
		j.Failed++
		j.Failures = append(j.Failures, *failure)
		return
	}
	*times = append(*times, took.Milliseconds())
	slices.Sort(*times)
	j.MedianMs, j.LongestMs = (*times)[len(*times)/2], (*times)[len(*times)-1]
}

// Total sums the calls up.
func (r *Result) Total() {
	r.Packets, r.Longest, r.Where = Packets{}, nil, ""
	type source struct{ room, from, kind string }
	counted := map[source]bool{}
	for _, call := range r.Calls {
		for _, party := range call.Parties {
			for _, f := range party.Flows {
				if s := (source{call.Room, f.From, f.Kind}); !counted[s] {
					counted[s] = true
					r.Packets.Sent += f.Sent
				}
				r.Packets.Expected += f.Expected
				r.Packets.Received += f.Received
				r.Packets.Lost += f.Lost
				r.Packets.Duplicates += f.Duplicates
				r.Packets.Reordered += f.Reordered
				if r.Longest == nil || f.Longest.Ms > r.Longest.Ms {
					longest := f.Longest
					r.Longest, r.Where = &longest, party.Identity+" "+f.Kind+" in "+call.Room
				}
			}
		}
	}
}

// Event is a line that such a program writes to its standard error while it runs.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"` // joined, reconnecting, reconnected, disconnected, silence, failed, running, stopping
	Room  string    `json:"room,omitempty"`
	Party string    `json:"party,omitempty"`
	Node  string    `json:"node,omitempty"`
	Kind  string    `json:"kind,omitempty"`
	Step  string    `json:"step,omitempty"`
	Error string    `json:"error,omitempty"`
	Ms    int64     `json:"ms,omitempty"`
}

// Events writes events, each as a line of JSON.
type Events struct {
	mu  sync.Mutex
	out io.Writer
}

// NewEvents writes to out.
func NewEvents(out io.Writer) *Events { return &Events{out: out} }

// Write writes an event. Nobody reads the events of a program whose test is over, so that an error is of no interest.
func (e *Events) Write(event Event) {
	if event.Time.IsZero() {
		event.Time = time.Now()
	}
	line, err := json.Marshal(event)
	if err != nil {
		panic(err) // all of its fields can be marshalled
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = e.out.Write(append(line, '\n'))
}
