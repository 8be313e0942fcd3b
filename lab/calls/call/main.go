// Command call makes real calls through LiveKit's Go SDK and measures them. It writes one JSON document (measure.Result) to its
// standard output at the end, and a line of JSON for each event (measure.Event) to its standard error meanwhile. It ends after
// -duration, or on SIGTERM or SIGINT, and always with its result.
//
// The API's key and secret are LIVEKIT_API_KEY and LIVEKIT_API_SECRET in the environment. A custom certificate authority is the file
// SSL_CERT_FILE; unset SSL_CERT_DIR then, or the system's authorities stay trusted.
//
//	call -url wss://example.test -calls 20 -video 500 -short-every 1s
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/measure"
	"github.com/openvidu-ha/openvidu-ha/lab/calls/rtc"
)

func main() {
	o := rtc.Options{Key: os.Getenv("LIVEKIT_API_KEY"), Secret: os.Getenv("LIVEKIT_API_SECRET")}
	flag.StringVar(&o.URL, "url", "", "of the media servers, `wss://…`")
	flag.StringVar(&o.Room, "room", "call", "`prefix` of the rooms' names")
	flag.StringVar(&o.Identity, "as", "", "`prefix` of the participants' identities, for a second program in the same rooms")
	flag.IntVar(&o.Calls, "calls", 1, "calls at the same time")
	flag.DurationVar(&o.Ramp, "ramp", 100*time.Millisecond, "between the beginnings of two calls")
	flag.StringVar(&o.Publish, "publish", "both", "who publishes: both, one, or none (listen to other programs)")
	flag.IntVar(&o.Video, "video", 500, "`kbit/s` of video, 0 for audio alone")
	flag.DurationVar(&o.Duration, "duration", 0, "once all have joined; 0 until SIGTERM")
	flag.BoolVar(&o.Relay, "relay", false, "through TURN alone")
	flag.BoolVar(&o.Create, "create", false, "create the rooms by the API first")
	flag.DurationVar(&o.ShortEvery, "short-every", 0, "make one more call after each such time, which ends when something was heard")
	flag.DurationVar(&o.JoinTimeout, "join-timeout", 10*time.Second, "of a join, of an attempt to reconnect, and of a short call")
	flag.DurationVar(&o.Silence, "silence", 250*time.Millisecond, "list silences over this")
	flag.DurationVar(&o.Late, "late", 8*time.Second, "name participants who heard nobody for longer, and then did again")
	flag.Parse()
	if err := o.Check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	out.SetEscapeHTML(false)
	if err := out.Encode(rtc.Run(ctx, o, measure.NewEvents(os.Stderr))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
