package network

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// DNSFault is how a name fails to be resolved.
type DNSFault int

// The ways in which a name server fails.
const (
	// Answers ends a fault.
	Answers DNSFault = iota
	// ServFail answers SERVFAIL.
	ServFail
	// Away answers nothing.
	Away
)

// DNS answers for the names of all stacks. Each stack has names of its own, since all clusters of the lab have the same
// domain: who asks from an interface or a client of a stack sees that stack's names, then those of everybody, which are set
// for the stack "".
type DNS struct {
	network *Network
	mu      sync.Mutex
	names   map[[2]string]func() []netip.Addr // by stack and name
	faults  map[[2]string]DNSFault
}

func newDNS(n *Network) *DNS {
	return &DNS{network: n, names: map[[2]string]func() []netip.Addr{}, faults: map[[2]string]DNSFault{}}
}

func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// Set the addresses of a name; none takes the name away. A name that begins with *. stands for all below it.
func (d *DNS) Set(stack, name string, addresses ...netip.Addr) {
	if len(addresses) == 0 {
		d.SetFunc(stack, name, nil)
		return
	}
	d.SetFunc(stack, name, func() []netip.Addr { return addresses })
}

// SetFunc is Set with addresses that are found when somebody asks.
func (d *DNS) SetFunc(stack, name string, addresses func() []netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if addresses == nil {
		delete(d.names, [2]string{stack, canonical(name)})
		return
	}
	d.names[[2]string{stack, canonical(name)}] = addresses
}

// Alias makes a name mean what another one means, as an alias record of Route 53 does.
func (d *DNS) Alias(stack, name, target string) {
	d.SetFunc(stack, name, func() []netip.Addr { return d.Lookup(stack, target) })
}

// Fault of a name for a stack; the name "" stands for all names. The stack "" stands for everybody.
func (d *DNS) Fault(stack, name string, fault DNSFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[[2]string{stack, canonical(name)}] = fault
}

// Lookup of a name as a stack sees it.
func (d *DNS) Lookup(stack, name string) []netip.Addr {
	if find := d.find(stack, canonical(name)); find != nil {
		return find()
	}
	return nil
}

func (d *DNS) find(stack, name string) func() []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, parent, _ := strings.Cut(name, ".")
	for _, view := range []string{stack, ""} {
		for _, candidate := range []string{name, "*." + parent} {
			if find := d.names[[2]string{view, candidate}]; find != nil {
				return find
			}
		}
	}
	return nil
}

func (d *DNS) fault(stack, name string) DNSFault {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, view := range []string{stack, ""} {
		for _, candidate := range []string{name, ""} {
			if fault := d.faults[[2]string{view, candidate}]; fault != Answers {
				return fault
			}
		}
	}
	return Answers
}

// stackOf whoever has an address; "" is nobody's.
func (n *Network) stackOf(address netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := n.interfaces[address]; i != nil {
		return i.Stack
	}
	for _, i := range n.interfaces {
		if i.public == address {
			return i.Stack
		}
	}
	for _, c := range n.clients {
		if c.Public == address {
			return c.options.Stack
		}
	}
	return ""
}

// ServeDNS answers one question.
func (d *DNS) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	if len(request.Question) != 1 {
		return
	}
	question := request.Question[0]
	name := canonical(question.Name)
	from, _ := netip.ParseAddrPort(w.RemoteAddr().String())
	stack := d.network.stackOf(from.Addr().Unmap())
	answer := new(dns.Msg)
	answer.SetReply(request)
	answer.RecursionAvailable = true
	switch d.fault(stack, name) {
	case Away:
		return
	case ServFail:
		answer.Rcode = dns.RcodeServerFailure
	default:
		find := d.find(stack, name)
		if find == nil {
			answer.Rcode = dns.RcodeNameError
		} else if question.Qtype == dns.TypeA {
			for _, address := range find() {
				// A load balancer's name lives for 60 seconds (Elastic Load Balancing User Guide, How Elastic Load Balancing works).
				answer.Answer = append(answer.Answer, &dns.A{A: net.IP(address.AsSlice()),
					Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}})
			}
		}
	}
	_ = w.WriteMsg(answer) // who asked is gone, or asks again
}

// listen in a namespace; nil is the current one.
func (d *DNS) listen(ns *Namespace, address netip.Addr) error {
	at := net.JoinHostPort(address.String(), "53")
	packets, listener := net.PacketConn(nil), net.Listener(nil)
	open := func() (err error) {
		if packets, err = net.ListenPacket("udp4", at); err == nil {
			listener, err = net.Listen("tcp4", at)
		}
		return err
	}
	err := open
	if ns != nil {
		err = func() error { return ns.Do(open) }
	}
	if err := err(); err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: d}, {Listener: listener, Handler: d}} {
		go func() { _ = server.ActivateAndServe() }() // it ends when its socket is closed
	}
	d.network.onClose(packets.Close)
	d.network.onClose(listener.Close)
	return nil
}

// forget the names and faults of a stack.
func (d *DNS) forget(stack string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.names, func(key [2]string, _ func() []netip.Addr) bool { return key[0] == stack })
	maps.DeleteFunc(d.faults, func(key [2]string, _ DNSFault) bool { return key[0] == stack })
}
