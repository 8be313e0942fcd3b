package rtc

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/measure"
)

func options() Options {
	return Options{
		URL: "ws://127.0.0.1:1", Key: "key", Secret: "secret", Room: "room", Calls: 1, Publish: "both", Video: 500,
		JoinTimeout: time.Second, Silence: 250 * time.Millisecond, Late: 8 * time.Second,
	}
}

func TestOptionsAreCheckedAllAtOnce(t *testing.T) {
	good := options()
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	bad := Options{URL: "https://example.test", Publish: "some", Video: -1}
	err := bad.Check()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, name := range []string{"-url", "LIVEKIT_API_KEY", "-calls", "-publish", "-video", "-join-timeout", "-silence"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("nothing about %s: %v", name, err)
		}
	}
}

// nowhere is an address at which nothing listens.
func nowhere(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func TestJoinsThatFailAreCounted(t *testing.T) {
	for _, create := range []bool{false, true} {
		o := options()
		o.URL, o.Calls, o.Duration, o.ShortEvery, o.Create = "ws://"+nowhere(t), 3, 100*time.Millisecond, time.Minute, create
		var events bytes.Buffer
		r := Run(t.Context(), o, measure.NewEvents(&events))
		joins, step := 6, "join"
		if create {
			joins, step = 3, "create"
		}
		if r.Joins.Tried != joins || r.Joins.Failed != joins || len(r.Joins.Failures) != joins {
			t.Errorf("create %v: %+v", create, r.Joins)
		}
		if r.Short.Tried != 1 || r.Short.Failed != 1 || r.Short.Failures[0].Room != "room-short-1" {
			t.Errorf("create %v: %+v", create, r.Short)
		}
		for _, f := range append(r.Joins.Failures, r.Short.Failures...) {
			if f.Step != step || f.Error == "" {
				t.Errorf("create %v: %+v", create, f)
			}
		}
		if len(r.Calls) != 3 || len(r.Calls[0].Parties) != 0 || r.Longest != nil || r.Packets != (measure.Packets{}) {
			t.Errorf("create %v: %+v", create, r)
		}
		for _, event := range []string{"failed", "running", "stopping"} {
			if !strings.Contains(events.String(), `"event":"`+event+`"`) {
				t.Errorf("create %v: no event %s in %s", create, event, &events)
			}
		}
		if strings.Contains(events.String(), o.Secret) {
			t.Errorf("the secret is in the events: %s", &events)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	o := options()
	o.URL, o.Calls, o.Ramp = "ws://"+nowhere(t), 100, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Run(ctx, o, measure.NewEvents(&bytes.Buffer{})); len(r.Calls) != 1 {
		t.Errorf("%d calls after the end", len(r.Calls))
	}
}

func TestMarkFollowsTheVideoHeader(t *testing.T) {
	for _, key := range []bool{true, false} {
		payload := make([]byte, videoHeader+measure.MarkSize)
		startFrame(payload, key)
		measure.Mark{Number: 7}.Put(payload[videoHeader:])
		if payload[0] != 0x10 {
			t.Errorf("descriptor %x", payload[0])
		}
		// RFC 6386, 9.1: the lowest bit is 0 in a key frame, which goes on with a start code and its size.
		if isKey := payload[1]&1 == 0; isKey != key {
			t.Errorf("key frame: %v, want %v", isKey, key)
		}
		if key && !bytes.Equal(payload[4:11], []byte{0x9d, 0x01, 0x2a, videoWidth & 0xff, videoWidth >> 8, videoHeight & 0xff, videoHeight >> 8}) {
			t.Errorf("header %x", payload[:videoHeader])
		}
		if mark, ok := measure.FindMark(payload); !ok || mark.Number != 7 {
			t.Errorf("%+v %v", mark, ok)
		}
	}
}

func TestWhoIsLate(t *testing.T) {
	at := time.Now()
	end := at.Add(time.Minute)
	for _, c := range []struct {
		name string
		ms   int64
		late bool
	}{
		{"a short silence", 7999, false},
		{"a long silence", 8001, true},
		{"a silence to the end", 60000, false},
	} {
		p := measure.Party{Flows: []measure.FlowResult{{}, {Silences: []measure.Silence{{At: at, Ms: c.ms}}}}}
		if got := wasLate(p, 8*time.Second, end); got != c.late {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
