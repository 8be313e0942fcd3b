package sweep

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Send says what to send to.
type Send struct {
	Target   netip.Addr
	Source   netip.Addr // invalid: as the routes have it
	TCP, UDP *Ports
	Rate     int // packets a second; 0 for as fast as it goes
	// Rounds is how often to send to each port. Two are good: of the first one's packets, each hop keeps but a few while it resolves
	// the next one's address.
	Rounds int
	Sweep  uint32 // tells one sweep from another
}

// Sent is what was sent.
type Sent struct {
	Target  netip.Addr `json:"target"`
	Source  netip.Addr `json:"source"`
	TCP     *Ports     `json:"tcp"`
	UDP     *Ports     `json:"udp"`
	Packets int        `json:"packets"`
	// Refused are the ports that a filter of the sender itself does not let out.
	RefusedTCP *Ports  `json:"refused_tcp"`
	RefusedUDP *Ports  `json:"refused_udp"`
	Seconds    float64 `json:"seconds"`
}

// Run sends.
func (s Send) Run() (*Sent, error) {
	if !s.Target.Is4() {
		return nil, fmt.Errorf("target %v: an IPv4 address is expected", s.Target)
	}
	source := s.Source
	if !source.IsValid() {
		var err error
		if source, err = sourceFor(s.Target); err != nil {
			return nil, err
		}
	}
	sent := &Sent{Target: s.Target, Source: source, TCP: s.TCP, UDP: s.UDP, RefusedTCP: &Ports{}, RefusedUDP: &Ports{}}
	began := time.Now()
	for range max(1, s.Rounds) {
		for _, part := range []struct {
			protocol       int
			ports, refused *Ports
			packet         func(source, target netip.Addr, port uint16, sweep uint32) []byte
		}{
			{protocolTCP, s.TCP, sent.RefusedTCP, synPacket},
			{protocolUDP, s.UDP, sent.RefusedUDP, udpPacket},
		} {
			socket, err := rawSocket(part.protocol, source)
			if err != nil {
				return nil, err
			}
			for _, port := range part.ports.List() {
				s.pace(began, sent.Packets)
				switch err := sendTo(socket, part.packet(source, s.Target, port, s.Sweep), s.Target); {
				case errors.Is(err, unix.EPERM): // what a drop in netfilter's output hook answers
					part.refused.Add(port)
				case err != nil:
					_ = unix.Close(socket)
					return nil, fmt.Errorf("sending to port %d: %w", port, err)
				}
				sent.Packets++
			}
			_ = unix.Close(socket)
		}
	}
	sent.Seconds = time.Since(began).Seconds()
	return sent, nil
}

// pace waits until the next packet is due. It sleeps for a few milliseconds at a time, since shorter sleeps are not exact.
func (s Send) pace(began time.Time, packets int) {
	if s.Rate <= 0 {
		return
	}
	ahead := time.Duration(packets)*time.Second/time.Duration(s.Rate) - time.Since(began)
	if ahead > 4*time.Millisecond {
		time.Sleep(ahead)
	}
}

func rawSocket(protocol int, source netip.Addr) (int, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, fmt.Errorf("raw socket (needs CAP_NET_RAW): %w", err)
	}
	// Nothing is received here. Without this, each answer of the target would be queued.
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil {
		_ = unix.Close(socket)
		return 0, err
	}
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: source.As4()}); err != nil {
		_ = unix.Close(socket)
		return 0, fmt.Errorf("source %v: %w", source, err)
	}
	return socket, nil
}

func sendTo(socket int, packet []byte, target netip.Addr) error {
	for {
		err := unix.Sendto(socket, packet, 0, &unix.SockaddrInet4{Addr: target.As4()})
		if err == unix.ENOBUFS || err == unix.EAGAIN {
			time.Sleep(time.Millisecond)
			continue
		}
		if err == unix.EINTR || err == unix.ECONNREFUSED { // an ICMP error about an earlier packet
			continue
		}
		return err
	}
}

// sourceFor asks the routes from which address a packet to the target leaves.
func sourceFor(target netip.Addr) (netip.Addr, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = unix.Close(socket) }()
	if err := unix.Connect(socket, &unix.SockaddrInet4{Port: 9, Addr: target.As4()}); err != nil {
		return netip.Addr{}, fmt.Errorf("no route to %v: %w", target, err)
	}
	name, err := unix.Getsockname(socket)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.AddrFrom4(name.(*unix.SockaddrInet4).Addr), nil
}
