package rtc

import (
	"context"
	"fmt"
	"sync"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/measure"
)

// party is a participant of a call.
type party struct {
	options  *Options
	events   *measure.Events
	room     string
	identity string
	lk       *lksdk.Room
	join     time.Duration
	publisher

	mu            sync.Mutex
	leaving       bool
	interruptions []measure.Interruption
	reconnecting  bool
	disconnected  *measure.Disconnect
	flows         map[source]*measure.Flow
	order         []source
	heard         chan struct{} // closed when the first packet arrives
}

// source is what a participant can listen to.
type source struct{ identity, kind string }

func newParty(o *Options, events *measure.Events, room, identity string) *party {
	return &party{
		options: o, events: events, room: room, identity: identity,
		flows: map[source]*measure.Flow{}, heard: make(chan struct{}),
	}
}

func (p *party) event(e measure.Event) {
	e.Room, e.Party = p.room, p.identity
	p.events.Write(e)
}

func (p *party) connect(ctx context.Context) error {
	began := time.Now()
	p.lk = lksdk.NewRoom(&lksdk.RoomCallback{
		OnReconnecting:           p.onReconnecting,
		OnReconnected:            p.onReconnected,
		OnDisconnectedWithReason: p.onDisconnected,
		ParticipantCallback:      lksdk.ParticipantCallback{OnTrackSubscribed: p.onTrack},
	})
	// The limit is also that of each attempt to reconnect.
	options := []lksdk.ConnectOption{lksdk.WithConnectTimeout(p.options.JoinTimeout)}
	if p.options.Relay {
		options = append(options, lksdk.WithICETransportPolicy(webrtc.ICETransportPolicyRelay))
	}
	err := p.lk.JoinWithContext(ctx, p.options.URL, lksdk.ConnectInfo{
		APIKey: p.options.Key, APISecret: p.options.Secret, RoomName: p.room, ParticipantIdentity: p.identity,
	}, options...)
	p.join = time.Since(began)
	return err
}

// publish publishes tracks and starts to send.
func (p *party) publish(tracks ...*track) error {
	for _, t := range tracks {
		if _, err := p.lk.LocalParticipant.PublishTrack(t.local, &t.options); err != nil {
			return fmt.Errorf("%s: %w", t.kind, err)
		}
	}
	p.tracks = tracks
	p.start()
	return nil
}

// flow returns the flow from a source, which could be heard from now on if nobody asked for it before.
func (p *party) flow(s source) *measure.Flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows[s] == nil {
		p.flows[s] = measure.NewFlow(time.Now(), p.options.Silence)
		p.order = append(p.order, s)
	}
	return p.flows[s]
}

func (p *party) onTrack(remote *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, from *lksdk.RemoteParticipant) {
	kind := remote.Kind().String()
	flow := p.flow(source{from.Identity(), kind})
	go func() {
		for {
			packet, _, err := remote.ReadRTP()
			if err != nil {
				return // the track ended; after a reconnection there is another
			}
			silence, over := flow.Packet(packet.Payload, time.Now())
			if over {
				p.event(measure.Event{Event: "silence", Kind: kind, Ms: silence.Ms})
			}
			if flow.Heard() {
				p.markHeard()
			}
		}
	}()
}

func (p *party) markHeard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.heard:
	default:
		close(p.heard)
	}
}

func (p *party) onReconnecting() {
	p.mu.Lock()
	again := p.reconnecting // a resumption that failed and became a new connection
	p.reconnecting = true
	if !again {
		p.interruptions = append(p.interruptions, measure.Interruption{At: time.Now()})
	}
	p.mu.Unlock()
	p.event(measure.Event{Event: "reconnecting"})
}

func (p *party) onReconnected() {
	node := p.node()
	p.mu.Lock()
	var took int64
	if p.reconnecting {
		last := &p.interruptions[len(p.interruptions)-1]
		took = time.Since(last.At).Milliseconds()
		last.Ms, last.To = took, node
	}
	p.reconnecting = false
	p.mu.Unlock()
	p.event(measure.Event{Event: "reconnected", Node: node, Ms: took})
}

func (p *party) onDisconnected(reason lksdk.DisconnectionReason) {
	p.mu.Lock()
	leaving := p.leaving
	if !leaving && p.disconnected == nil {
		p.disconnected = &measure.Disconnect{At: time.Now(), Reason: string(reason)}
	}
	p.mu.Unlock()
	if !leaving {
		p.event(measure.Event{Event: "disconnected", Error: string(reason)})
	}
}

func (p *party) node() string { return p.lk.ServerInfo().GetNodeId() }

// leave leaves the room. The SDK's callbacks after that are of no interest.
func (p *party) leave() {
	p.end()
	p.mu.Lock()
	p.leaving = true
	p.mu.Unlock()
	if p.lk != nil {
		p.lk.Disconnect()
	}
}

func (p *party) result(end time.Time, counters func(source) *measure.Counter) measure.Party {
	r := measure.Party{
		Identity: p.identity, Node: p.node(), JoinMs: p.join.Milliseconds(),
		Pairs: measure.Pairs{
			Publisher:  selectedPair(p.lk.LocalParticipant.GetPublisherPeerConnection()),
			Subscriber: selectedPair(p.lk.LocalParticipant.GetSubscriberPeerConnection()),
		},
		Interruptions: []measure.Interruption{}, Flows: []measure.FlowResult{},
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Disconnected = p.disconnected
	r.Interruptions = append(r.Interruptions, p.interruptions...)
	if p.reconnecting {
		last := &r.Interruptions[len(r.Interruptions)-1]
		last.Ms = end.Sub(last.At).Milliseconds()
	}
	for _, s := range p.order {
		f := p.flows[s].Result(counters(s), end)
		f.From, f.Kind = s.identity, s.kind
		r.Flows = append(r.Flows, f)
	}
	return r
}

// wasLate tells whether the participant heard nobody for longer than the limit, and then did again.
func wasLate(p measure.Party, limit time.Duration, end time.Time) bool {
	for _, f := range p.Flows {
		for _, s := range f.Silences {
			length := time.Duration(s.Ms) * time.Millisecond
			if length > limit && s.At.Add(length+time.Millisecond).Before(end) {
				return true
			}
		}
	}
	return false
}

// selectedPair describes the candidate pair that a connection uses, or is empty while it has none.
func selectedPair(pc *webrtc.PeerConnection) string {
	if pc == nil || pc.SCTP() == nil {
		return ""
	}
	pair, err := pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return ""
	}
	describe := func(c *webrtc.ICECandidate) string {
		return fmt.Sprintf("%s %s %s:%d", c.Typ, c.Protocol, c.Address, c.Port)
	}
	return describe(pair.Local) + " to " + describe(pair.Remote)
}
