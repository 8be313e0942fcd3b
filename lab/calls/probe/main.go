// Command probe proves which ports a filter lets through. Each command writes JSON to its standard output.
//
//	probe listen [-sweep N]               on the target: reports which ports' probes arrived, by source, once its standard input ends
//	                                      or on SIGTERM; "listening" on its standard error says that it is ready
//	probe send -target ADDRESS [-tcp 1-65535] [-udp 1-65535] [-rate 80000] [-rounds 2] [-sweep N]
//	                                      sends a packet to each port, in each round
//	probe answer -target ADDRESS -tcp 443,7880 [-timeout 2s]
//	                                      connects, to see which of the ports answer
//
// listen and send need CAP_NET_RAW, listen CAP_NET_ADMIN too.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/sweep"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("a command is missing: listen, send or answer")
	}
	flags := flag.NewFlagSet("probe "+args[0], flag.ExitOnError)
	target := flags.String("target", "", "IPv4 `address` to send to")
	source := flags.String("source", "", "IPv4 `address` to send from; empty: as the routes have it")
	tcp := flags.String("tcp", "", "`ports` and ranges, as 443,7880-7881")
	udp := flags.String("udp", "", "`ports` and ranges")
	rate := flags.Int("rate", 80000, "packets a second; 0 for as fast as it goes")
	rounds := flags.Int("rounds", 2, "how often to send to each port; a hop loses packets while it resolves the next one's address")
	sweepNumber := flags.Uint("sweep", 0, "`number` of the sweep; a listener with a number ignores the others")
	timeout := flags.Duration("timeout", 2*time.Second, "of a connection")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })

	if args[0] == "listen" {
		var number *uint32
		if given["sweep"] {
			n := uint32(*sweepNumber)
			number = &n
		}
		return listen(number)
	}
	to, err := netip.ParseAddr(*target)
	if err != nil {
		return fmt.Errorf("-target: %w", err)
	}
	tcpPorts, err := sweep.ParsePorts(*tcp)
	if err != nil {
		return fmt.Errorf("-tcp: %w", err)
	}
	udpPorts, err := sweep.ParsePorts(*udp)
	if err != nil {
		return fmt.Errorf("-udp: %w", err)
	}
	switch args[0] {
	case "send":
		send := sweep.Send{Target: to, TCP: tcpPorts, UDP: udpPorts, Rate: *rate, Rounds: *rounds, Sweep: uint32(*sweepNumber)}
		if *source != "" {
			if send.Source, err = netip.ParseAddr(*source); err != nil {
				return fmt.Errorf("-source: %w", err)
			}
		}
		sent, err := send.Run()
		if err != nil {
			return err
		}
		return write(sent)
	case "answer":
		return write(sweep.Answer(to, tcpPorts, *timeout))
	}
	return fmt.Errorf("unknown command %q: listen, send or answer is expected", args[0])
}

func listen(number *uint32) error {
	listener, err := sweep.Listen(number)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Fprintln(os.Stderr, "listening")
	if err := listener.Run(ctx); err != nil {
		return err
	}
	return write(listener)
}

func write(v any) error {
	out, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(out))
	return err
}
