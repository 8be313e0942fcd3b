package sweep

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// atOnce bounds the connections under way.
const atOnce = 256

// Answers are what TCP ports answer.
type Answers struct {
	Target netip.Addr `json:"target"`
	Open   *Ports     `json:"open"`    // something listens
	Closed *Ports     `json:"closed"`  // nothing listens, and the machine says so
	Silent *Ports     `json:"silent"`  // no answer within the timeout
	Failed *Ports     `json:"refused"` // a filter on the way, or of the sender itself, refuses
}

// Answer connects to ports of the target.
func Answer(target netip.Addr, ports *Ports, timeout time.Duration) *Answers {
	answers := &Answers{Target: target, Open: &Ports{}, Closed: &Ports{}, Silent: &Ports{}, Failed: &Ports{}}
	var mu sync.Mutex
	var connecting sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, port := range ports.List() {
		slots <- struct{}{}
		connecting.Go(func() {
			defer func() { <-slots }()
			result := answers.try(netip.AddrPortFrom(target, port), timeout)
			mu.Lock()
			defer mu.Unlock()
			result.Add(port)
		})
	}
	connecting.Wait()
	return answers
}

func (a *Answers) try(address netip.AddrPort, timeout time.Duration) *Ports {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.String())
	var timedOut net.Error
	switch {
	case err == nil:
		_ = connection.Close()
		return a.Open
	case errors.Is(err, unix.ECONNREFUSED):
		return a.Closed
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return a.Silent
	default:
		return a.Failed
	}
}
