// Package rtc makes calls with LiveKit's Go SDK and measures them.
package rtc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/measure"
)

const (
	// For how long packets under way may arrive after the publishers have stopped.
	drainLimit = 2 * time.Second
	// How long leaving may take.
	leaveLimit = 2 * time.Second
)

// Options say which calls to make.
type Options struct {
	URL         string // wss://…
	Key, Secret string // of the API

	Room     string // the calls' rooms are called so, with a number behind it
	Identity string // in front of the participants' identities, so that two programs can join the same rooms
	Calls    int
	Ramp     time.Duration // between the beginnings of two calls
	Publish  string        // both participants, one, or none: then one participant listens to what other programs publish
	Video    int           // kbit/s; 0 for audio alone
	Duration time.Duration // once all have joined; 0 until the context ends
	Relay    bool          // through TURN alone
	Create   bool          // rooms by the API first, rather than by joining

	ShortEvery  time.Duration // between the beginnings of two short calls; 0 for none
	JoinTimeout time.Duration // of a join, and of a short call as a whole

	Silence time.Duration // the shortest that is listed
	Late    time.Duration // a participant who was interrupted for longer is called late
}

// Check returns all that is wrong with the options.
func (o *Options) Check() error {
	var problems []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	need(strings.HasPrefix(o.URL, "wss://") || strings.HasPrefix(o.URL, "ws://"), "-url %q: wss:// or ws:// expected", o.URL)
	need(o.Key != "" && o.Secret != "", "LIVEKIT_API_KEY and LIVEKIT_API_SECRET must be set in the environment")
	need(o.Calls >= 0, "-calls %d: at least 0 expected", o.Calls)
	need(o.Calls > 0 || o.ShortEvery > 0, "-calls 0 without -short-every makes no call")
	need(o.Publish == "both" || o.Publish == "one" || o.Publish == "none", "-publish %q: both, one or none expected", o.Publish)
	need(o.Video >= 0, "-video %d: at least 0 expected", o.Video)
	need(o.JoinTimeout > 0, "-join-timeout %v: more than 0 expected", o.JoinTimeout)
	need(o.Silence > 0, "-silence %v: more than 0 expected", o.Silence)
	return errors.Join(problems...)
}

type runner struct {
	Options
	events *measure.Events

	mu          sync.Mutex
	result      measure.Result
	joinTimes   []int64
	shortTimes  []int64
	shortNumber int
}

// call is a room with the participants who have joined it.
type call struct {
	room    string
	parties []*party
}

// Run makes the calls until their duration is over or the context ends, and measures them.
func Run(ctx context.Context, o Options, events *measure.Events) measure.Result {
	lksdk.SetLogger(logger.GetDiscardLogger())
	r := &runner{Options: o, events: events}
	r.result = measure.Result{
		Started: time.Now(), Stalls: []measure.Silence{}, Calls: []measure.Call{},
		Joins: measure.Joins{Failures: []measure.Failure{}}, Short: measure.Joins{Failures: []measure.Failure{}},
	}
	watching, stopWatching := context.WithCancel(context.Background())
	stalls := measure.WatchStalls(watching, o.Silence)

	calls := r.startCalls(ctx)
	events.Write(measure.Event{Event: "running"})
	r.wait(ctx)
	events.Write(measure.Event{Event: "stopping"})

	end := endOf(calls)
	stopWatching()
	r.result.Stalls = stalls.List()
	for _, c := range calls {
		r.result.Calls = append(r.result.Calls, c.result(end, r.Late))
	}
	r.result.Total()
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		r.result.CPUSeconds = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	}
	r.result.Ended = time.Now()
	leave(calls)
	return r.result
}

func (r *runner) startCalls(ctx context.Context) []*call {
	calls := make([]*call, r.Calls)
	var starting sync.WaitGroup
	for i := range calls {
		calls[i] = &call{room: fmt.Sprintf("%s-%d", r.Room, i+1)}
		if i > 0 && !sleep(ctx, r.Ramp) {
			calls = calls[:i]
			break
		}
		starting.Go(func() { r.startCall(calls[i]) })
	}
	starting.Wait()
	return calls
}

// startCall lets the participants of a call join and publish. One who cannot is missing from the call, and counted. It does not
// end with the context of the run, since a join that is cut off would count as failed.
func (r *runner) startCall(c *call) {
	ctx := context.Background()
	if r.Create {
		began := time.Now()
		if err := r.createRoom(ctx, c.room); err != nil {
			r.countJoin(c.room, "create", began, err)
			return
		}
	}
	names := []string{"a", "b"}
	if r.Publish == "none" {
		names = names[:1]
	}
	for _, name := range names {
		p := newParty(&r.Options, r.events, c.room, r.Identity+name)
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, r.JoinTimeout)
		err := p.connect(limited)
		cancel()
		r.countJoin(c.room, "join", began, err)
		if err != nil {
			continue
		}
		p.event(measure.Event{Event: "joined", Node: p.node(), Ms: p.join.Milliseconds()})
		c.parties = append(c.parties, p)
	}
	for i, p := range c.parties {
		if r.Publish == "none" || r.Publish == "one" && i > 0 {
			continue
		}
		began := time.Now()
		if err := r.publish(p); err != nil {
			r.countJoin(c.room, "publish", began, err)
			continue
		}
		for _, listener := range c.parties {
			for _, t := range p.tracks {
				if listener != p {
					listener.flow(source{p.identity, t.kind})
				}
			}
		}
	}
}

func (r *runner) publish(p *party) error {
	audio, err := newAudio(r.Silence)
	if err != nil {
		return err
	}
	tracks := []*track{audio}
	if r.Video > 0 {
		video, err := newVideo(r.Video, r.Silence)
		if err != nil {
			return err
		}
		tracks = append(tracks, video)
	}
	return p.publish(tracks...)
}

func (r *runner) createRoom(ctx context.Context, room string) error {
	ctx, cancel := context.WithTimeout(ctx, r.JoinTimeout)
	defer cancel()
	client := lksdk.NewRoomServiceClient("http"+strings.TrimPrefix(r.URL, "ws"), r.Key, r.Secret)
	_, err := client.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room, EmptyTimeout: 10, DepartureTimeout: 1})
	return err
}

// wait waits for the end, and makes short calls meanwhile. Those under way may end, since a call that is cut off would count as
// failed, or not count although it would have failed.
func (r *runner) wait(ctx context.Context) {
	if r.Duration > 0 {
		limited, cancel := context.WithTimeout(ctx, r.Duration)
		defer cancel()
		ctx = limited
	}
	if r.ShortEvery <= 0 {
		<-ctx.Done()
		return
	}
	ticker := time.NewTicker(r.ShortEvery)
	defer ticker.Stop()
	var underWay sync.WaitGroup
	defer underWay.Wait()
	for {
		underWay.Go(r.shortCall)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// shortCall makes a call that is over when its listener has heard something.
func (r *runner) shortCall() {
	r.mu.Lock()
	r.shortNumber++
	room := fmt.Sprintf("%s-short-%d", r.Room, r.shortNumber)
	r.mu.Unlock()

	began := time.Now()
	step, err := r.tryCall(room)
	took := time.Since(began)

	failure := r.failure(room, step, began, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Short.Add(took, failure, &r.shortTimes)
}

func (r *runner) tryCall(room string) (step string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.JoinTimeout)
	defer cancel()
	if r.Create {
		if err := r.createRoom(ctx, room); err != nil {
			return "create", err
		}
	}
	speaker, listener := newParty(&r.Options, r.events, room, r.Identity+"a"), newParty(&r.Options, r.events, room, r.Identity+"b")
	for _, p := range []*party{listener, speaker} {
		defer p.leave()
		if err := p.connect(ctx); err != nil {
			return "join", err
		}
	}
	audio, err := newAudio(r.Silence)
	if err == nil {
		err = speaker.publish(audio)
	}
	if err != nil {
		return "publish", err
	}
	select {
	case <-listener.heard:
		return "", nil
	case <-ctx.Done():
		return "media", errors.New("nothing was heard")
	}
}

func (r *runner) countJoin(room, step string, began time.Time, err error) {
	failure := r.failure(room, step, began, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Joins.Add(time.Since(began), failure, &r.joinTimes)
}

// failure reports an error, and returns nil for none.
func (r *runner) failure(room, step string, began time.Time, err error) *measure.Failure {
	if err == nil {
		return nil
	}
	f := &measure.Failure{At: began, Room: room, Step: step, Error: err.Error(), Ms: time.Since(began).Milliseconds()}
	r.events.Write(measure.Event{Event: "failed", Room: room, Step: step, Error: f.Error, Ms: f.Ms})
	return f
}

// endOf stops the publishers, waits for the packets under way, and returns when the publishers stopped.
func endOf(calls []*call) time.Time {
	var stopping sync.WaitGroup
	for _, c := range calls {
		for _, p := range c.parties {
			stopping.Go(p.end)
		}
	}
	stopping.Wait()
	end := time.Now()
	for deadline := end.Add(drainLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		missing := uint64(0)
		for _, c := range calls {
			missing += c.missing()
		}
		if missing == 0 {
			break
		}
	}
	return end
}

// counter returns the counter of a source within the call, or nil if another program publishes it.
func (c *call) counter(s source) *measure.Counter {
	for _, p := range c.parties {
		for _, t := range p.tracks {
			if p.identity == s.identity && t.kind == s.kind {
				return t.counter
			}
		}
	}
	return nil
}

func (c *call) missing() (n uint64) {
	for _, p := range c.parties {
		p.mu.Lock()
		for s, flow := range p.flows {
			if counter := c.counter(s); counter != nil {
				n += flow.Missing(counter)
			}
		}
		p.mu.Unlock()
	}
	return n
}

func (c *call) result(end time.Time, late time.Duration) measure.Call {
	result := measure.Call{Room: c.room, Parties: []measure.Party{}, Late: []string{}}
	for _, p := range c.parties {
		party := p.result(end, c.counter)
		result.Node = party.Node
		result.Parties = append(result.Parties, party)
		if wasLate(party, late, end) {
			result.Late = append(result.Late, party.Identity)
		}
	}
	return result
}

func leave(calls []*call) {
	left := make(chan struct{})
	go func() {
		var leaving sync.WaitGroup
		for _, c := range calls {
			for _, p := range c.parties {
				leaving.Go(p.leave)
			}
		}
		leaving.Wait()
		close(left)
	}()
	select {
	case <-left:
	case <-time.After(leaveLimit):
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
