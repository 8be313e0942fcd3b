package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiveBuffer holds the probes of several full sweeps, so that none is lost while the listener does not get to run.
const receiveBuffer = 256 << 20

// Arrived is what arrived from one source.
type Arrived struct {
	TCP *Ports `json:"tcp"`
	UDP *Ports `json:"udp"`
}

// Listener receives probes.
//
// It reads raw IP sockets, which get a copy of each packet behind netfilter's input hook (raw(7)), where a packet socket would see it
// before: so it sees what every filter lets through, be it on the way, on the interface, or on the machine itself. A raw socket gets
// the packet whether or not anything listens on the port.
type Listener struct {
	sockets []int
	sweep   *uint32

	mu      sync.Mutex
	arrived map[netip.Addr]*Arrived
	dropped uint32
}

// Listen begins to listen. If sweep is not nil, other sweeps' probes are ignored.
func Listen(sweep *uint32) (*Listener, error) {
	l := &Listener{sweep: sweep, arrived: map[netip.Addr]*Arrived{}}
	for _, protocol := range []int{protocolTCP, protocolUDP} {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("raw socket (needs CAP_NET_RAW): %w", err)
		}
		l.sockets = append(l.sockets, socket)
		if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
			l.close()
			return nil, fmt.Errorf("receive buffer (needs CAP_NET_ADMIN): %w", err)
		}
		// So that reading notices the end of the context.
		if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

func (l *Listener) close() {
	for _, socket := range l.sockets {
		_ = unix.Close(socket)
	}
}

// Run receives until the context ends, and what is queued then. It may run once.
func (l *Listener) Run(ctx context.Context) error {
	defer l.close()
	failures := make([]error, len(l.sockets))
	var reading sync.WaitGroup
	for i, socket := range l.sockets {
		reading.Go(func() { failures[i] = l.read(ctx, socket) })
	}
	reading.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if l.dropped > 0 {
		return fmt.Errorf("%d packets did not fit into the receive buffer: the result is not complete", l.dropped)
	}
	return nil
}

func (l *Listener) read(ctx context.Context, socket int) error {
	buffer := make([]byte, 128) // a probe is shorter
	for {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		switch err {
		case nil:
			l.note(buffer[:n])
		case unix.EAGAIN: // nothing is queued
			if ctx.Err() != nil {
				return l.countDrops(socket)
			}
		case unix.EINTR:
		default:
			return err
		}
	}
}

func (l *Listener) note(packet []byte) {
	a, ok := parse(packet)
	if !ok || l.sweep != nil && a.sweep != *l.sweep {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.arrived[a.source]
	if from == nil {
		from = &Arrived{TCP: &Ports{}, UDP: &Ports{}}
		l.arrived[a.source] = from
	}
	if a.protocol == protocolTCP {
		from.TCP.Add(a.port)
	} else {
		from.UDP.Add(a.port)
	}
}

// countDrops asks the kernel how many packets it had to drop (SO_MEMINFO, socket(7)).
func (l *Listener) countDrops(socket int) error {
	const drops = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return fmt.Errorf("counting dropped packets: %w", errno)
	}
	l.mu.Lock()
	l.dropped += info[drops]
	l.mu.Unlock()
	return nil
}

// MarshalJSON writes what arrived, by source.
func (l *Listener) MarshalJSON() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Marshal(map[string]any{"sources": l.arrived})
}

// From returns what arrived from a source.
func (l *Listener) From(source netip.Addr) Arrived {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.arrived[source]; a != nil {
		return *a
	}
	return Arrived{TCP: &Ports{}, UDP: &Ports{}}
}
