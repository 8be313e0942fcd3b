// Command rtmp publishes a stream, or takes streams as LiveKit's ingress service does.
//
//	RTMP_STREAM_KEY=… rtmp publish -url rtmps://example.test:1935/rtmp -duration 10s
//	rtmp serve -rtmp :1945 -health :9092
//
// publish writes one JSON document (stream.Published), and fails if the stream was not accepted or did not last. A custom certificate
// authority is the file SSL_CERT_FILE; unset SSL_CERT_DIR then.
//
// serve writes a line of JSON for each event (stream.Event). On SIGQUIT or SIGTERM it refuses new streams and exits when the last
// one ends, on SIGINT it ends them all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/stream"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rtmp:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("a command is missing: publish or serve")
	}
	flags := flag.NewFlagSet("rtmp "+args[0], flag.ExitOnError)
	switch args[0] {
	case "publish":
		p := stream.Publish{Key: os.Getenv("RTMP_STREAM_KEY")}
		flags.StringVar(&p.URL, "url", "", "rtmps:// or rtmp:// `address`, without the stream key")
		flags.DurationVar(&p.Duration, "duration", 10*time.Second, "of the stream")
		flags.DurationVar(&p.Timeout, "timeout", 10*time.Second, "until the stream is accepted")
		flags.StringVar(&p.ServerName, "server-name", "", "`name` expected in the certificate; empty: the URL's")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return publish(p)
	case "serve":
		rtmp := flags.String("rtmp", ":1945", "`address` for streams")
		health := flags.String("health", ":9092", "`address` for health checks")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return serve(*rtmp, *health)
	}
	return fmt.Errorf("unknown command %q: publish or serve is expected", args[0])
}

func publish(p stream.Publish) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	result := p.Run(ctx)
	out, err := json.Marshal(result)
	if err != nil {
		return err
	}
	fmt.Println(string(out))
	if result.Error != "" {
		return errors.New(result.Error)
	}
	return nil
}

func serve(rtmpAddress, healthAddress string) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	server := stream.NewServer(os.Stdout)
	health, err := net.Listen("tcp", healthAddress)
	if err != nil {
		return err
	}
	rtmp, err := net.Listen("tcp", rtmpAddress)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- http.Serve(health, server.Health()) }()
	go func() { failed <- server.Serve(rtmp) }()
	var drained <-chan struct{}
	for {
		select {
		case err := <-failed:
			return err
		case received := <-signals:
			if received == syscall.SIGINT {
				server.Kill()
			}
			drained = server.Drain()
		case <-drained:
			return nil
		}
	}
}
