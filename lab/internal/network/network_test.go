package network

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/pion/stun/v3"
)

var (
	vpc     *Network
	anybody = netip.MustParsePrefix("0.0.0.0/0")
	numbers atomic.Int64
)

// TestMain runs the tests in namespaces of their own, which end with them.
func TestMain(m *testing.M) {
	if os.Getenv("OPENVIDU_LAB_NETWORK") == "" {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "these tests need root: they make network namespaces")
			os.Exit(1)
		}
		command := exec.Command("unshare", append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"}, os.Args...)...)
		command.Env = append(os.Environ(), "OPENVIDU_LAB_NETWORK=1")
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if command.Run() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "network")
	must(err)
	vpc, err = New(dir, netip.MustParsePrefix("10.99.0.0/16"))
	must(err)
	for number, zone := range []string{"a", "b"} {
		must(vpc.AddSubnet(Subnet{ID: "public-" + zone, Zone: zone, Prefix: netip.MustParsePrefix(fmt.Sprintf("10.99.%d.0/20", 16*(number+1))), Egress: InternetGateway}))
		must(vpc.AddSubnet(Subnet{ID: "private-" + zone, Zone: zone, Prefix: netip.MustParsePrefix(fmt.Sprintf("10.99.%d.0/20", 16*(number+5))), Egress: NATGateway}))
	}
	must(vpc.AddSubnet(Subnet{ID: "isolated", Zone: "a", Prefix: netip.MustParsePrefix("10.99.160.0/20")}))
	code := m.Run()
	must(vpc.Close())
	os.RemoveAll(dir)
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is an instance: a namespace with one interface.
type node struct {
	*Namespace
	t               *testing.T
	address, public netip.Addr
}

func newNode(t *testing.T, stack, subnet string, groups ...string) *node {
	t.Helper()
	s, _ := vpc.Subnet(subnet)
	n := &node{t: t, address: s.Prefix.Addr()}
	for range numbers.Add(1) + 10 {
		n.address = n.address.Next()
	}
	var err error
	n.Namespace, err = NewNamespace(fmt.Sprint(stack, "-", n.address))
	check(t, err)
	n.public, err = vpc.AddInterface(Interface{Address: n.address, Stack: stack, Subnet: subnet, Groups: groups, Public: s.Egress == InternetGateway})
	check(t, err)
	check(t, vpc.Attach(n.Namespace, "eth0", n.address))
	t.Cleanup(func() {
		check(t, vpc.RemoveInterface(n.address))
		check(t, n.Close())
	})
	return n
}

// serve answers every line with the caller's address and the line.
func (n *node) serve(port int) {
	listener, err := n.Listen("tcp4", fmt.Sprint("0.0.0.0:", port))
	check(n.t, err)
	n.t.Cleanup(func() { _ = listener.Close() })
	go echo(listener, n.address.String())
}

func echo(listener net.Listener, name string) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = connection.Close() }()
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				host, _, _ := net.SplitHostPort(connection.RemoteAddr().String())
				if _, err := fmt.Fprintln(connection, name, host, lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func (n *node) serveUDP(port int) {
	connection, err := n.ListenPacket("udp4", fmt.Sprint("0.0.0.0:", port))
	check(n.t, err)
	n.t.Cleanup(func() { _ = connection.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			length, from, err := connection.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = connection.WriteTo([]byte(fmt.Sprint(n.address, " ", from.(*net.UDPAddr).IP, " ", string(buffer[:length]))), from)
		}
	}()
}

// flow is a connection that is kept.
type flow struct {
	net.Conn
	lines *bufio.Reader
}

// How long to wait for an answer: one that is to come may take its time on a busy machine.
const (
	long  = 10 * time.Second
	short = 300 * time.Millisecond
)

// say something and hear the answer: who answered, and whom it saw.
func (f *flow) say(patience time.Duration) (answered, seen string, err error) {
	if err = f.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", "", err
	}
	if _, err = io.WriteString(f, "hello\n"); err != nil {
		return "", "", err
	}
	line, err := f.lines.ReadString('\n')
	words := strings.Fields(line + " - -")
	return words[0], words[1], err
}

// end the flow; what is left of it does not matter.
func (f *flow) end() { _ = f.Close() }

// alive tells whether an answer comes, dead whether none does.
func (f *flow) alive() bool {
	_, _, err := f.say(long)
	return err == nil
}

func (f *flow) dead() bool {
	_, _, err := f.say(short)
	return err != nil
}

func open(from *Namespace, network string, to netip.Addr, port int) (*flow, error) {
	return openWithin(long, from, network, to, port)
}

func openWithin(patience time.Duration, from *Namespace, network string, to netip.Addr, port int) (*flow, error) {
	connection, err := from.Dial(net.Dialer{Timeout: patience}, network, netip.AddrPortFrom(to, uint16(port)).String())
	if err != nil {
		return nil, err
	}
	return &flow{connection, bufio.NewReader(connection)}, nil
}

// reach tells whether something answers, and as whom it saw the caller.
func reach(patience time.Duration, from *Namespace, network string, to netip.Addr, port int) (seen string, ok bool) {
	f, err := openWithin(patience, from, network, to, port)
	if err != nil {
		return "", false
	}
	defer f.end()
	_, seen, err = f.say(patience)
	return seen, err == nil
}

func expectReach(t *testing.T, what string, from *Namespace, network string, to netip.Addr, port int, want bool) {
	t.Helper()
	patience := short
	if want {
		patience = long
	}
	if _, got := reach(patience, from, network, to, port); got != want {
		t.Errorf("%s: %s to %s:%d answers: %v, want %v", what, network, to, port, got, want)
	}
}

func expectSeen(t *testing.T, what string, from *Namespace, to netip.Addr, port int, want netip.Addr) {
	t.Helper()
	if got, ok := reach(long, from, "tcp4", to, port); !ok || got != want.String() {
		t.Errorf("%s: seen as %q (%v), want %s", what, got, ok, want)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came: ", what)
		}
	}
}

func newGroup(t *testing.T, id string, g Group) string {
	t.Helper()
	id = t.Name() + "/" + id
	check(t, vpc.PutGroup(id, g))
	return id
}

func everything() []Rule { return []Rule{{Protocol: "-1", From: -1, To: -1, CIDR: anybody}} }

func tcp(port int) Rule { return Rule{Protocol: "tcp", From: port, To: port, CIDR: anybody} }

func newClient(t *testing.T, options ClientOptions) *Client {
	t.Helper()
	c, err := vpc.Client(fmt.Sprint("client", numbers.Add(1)), options)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func TestSecurityGroups(t *testing.T) {
	t.Parallel()
	servers := newGroup(t, "servers", Group{})
	clients := newGroup(t, "clients", Group{Outbound: everything()})
	check(t, vpc.PutGroup(servers, Group{Inbound: []Rule{
		{Protocol: "tcp", From: 100, To: 101, Group: clients},
		{Protocol: "tcp", From: 200, To: 200, CIDR: netip.MustParsePrefix("10.99.32.0/20")},
		{Protocol: "udp", From: 300, To: 300, CIDR: anybody},
		{Protocol: "tcp", From: 400, To: 400, CIDR6: netip.MustParsePrefix("::/0")},
	}}))
	server := newNode(t, "one", "public-a", servers)
	client := newNode(t, "one", "public-a", clients)
	other := newNode(t, "one", "public-b")
	for _, port := range []int{99, 100, 101, 102, 200, 400} {
		server.serve(port)
		client.serve(port)
	}
	server.serveUDP(300)
	server.serveUDP(301)
	ns := client.Namespace
	expectReach(t, "before the range", ns, "tcp4", server.address, 99, false)
	expectReach(t, "the range's first", ns, "tcp4", server.address, 100, true)
	expectReach(t, "the range's last", ns, "tcp4", server.address, 101, true)
	expectReach(t, "after the range", ns, "tcp4", server.address, 102, false)
	expectReach(t, "another subnet's port", ns, "tcp4", server.address, 200, false)
	expectReach(t, "its subnet's port", other.Namespace, "tcp4", server.address, 200, true)
	expectReach(t, "no member", other.Namespace, "tcp4", server.address, 100, false)
	expectReach(t, "UDP", ns, "udp4", server.address, 300, true)
	expectReach(t, "UDP, closed", ns, "udp4", server.address, 301, false)
	expectReach(t, "TCP on the UDP port", ns, "tcp4", server.address, 300, false)
	expectReach(t, "a rule for IPv6", ns, "tcp4", server.address, 400, false)
	expectReach(t, "nothing inbound", server.Namespace, "tcp4", client.address, 100, false)
	expectReach(t, "nothing outbound", server.Namespace, "tcp4", other.address, 100, false)
	// A public address is no member's (VPC User Guide, Security group rules).
	expectReach(t, "the public address of the server", ns, "tcp4", server.public, 100, false)

	// Outbound rules alone.
	client.serve(500)
	check(t, vpc.PutRule("in", clients, true, tcp(500)))
	expectReach(t, "open inbound, closed outbound", server.Namespace, "tcp4", client.address, 500, false)
	check(t, vpc.PutRule("out", servers, false, Rule{Protocol: "tcp", From: 500, To: 500, Group: clients}))
	expectReach(t, "a rule of its own, both ways", server.Namespace, "tcp4", client.address, 500, true)
	check(t, vpc.DeleteRule("in"))
	expectReach(t, "the inbound rule went", server.Namespace, "tcp4", client.address, 500, false)

	// Membership.
	check(t, vpc.SetGroups(other.address, servers, clients))
	expectReach(t, "a member now", other.Namespace, "tcp4", server.address, 100, true)
	kept, err := open(other.Namespace, "tcp4", server.address, 100)
	check(t, err)
	defer kept.end()
	check(t, vpc.SetGroups(other.address, servers))
	expectReach(t, "no member any more", other.Namespace, "tcp4", server.address, 100, false)
	if !kept.alive() {
		t.Error("a tracked connection was interrupted")
	}

	// Groups in use cannot go.
	if err := vpc.DeleteGroup(clients); err == nil || !strings.Contains(err.Error(), "DependencyViolation") {
		t.Errorf("a group in use was deleted: %v", err)
	}
	check(t, vpc.SetGroups(client.address))
	check(t, vpc.DeleteRule("out"))
	check(t, vpc.PutGroup(servers, Group{}))
	check(t, vpc.DeleteGroup(clients))
}

func TestServicesOfTheLabObeyOutboundRulesOnly(t *testing.T) {
	t.Parallel()
	closed := newGroup(t, "closed", Group{Inbound: everything()})
	n := newNode(t, "one", "public-a", closed)
	lab := netip.MustParseAddr("10.99.16.1")
	listener, err := net.Listen("tcp4", lab.String()+":4566")
	check(t, err)
	defer func() { _ = listener.Close() }()
	go echo(listener, "AWS")
	expectReach(t, "closed outbound", n.Namespace, "tcp4", lab, 4566, false)
	if _, err := resolve(n.Namespace, vpc.Resolver(), "nothing.example.com"); err != nil {
		t.Error("security groups do not filter the Amazon DNS server: ", err)
	}
	check(t, vpc.PutGroup(closed, Group{Outbound: []Rule{tcp(4566)}}))
	expectReach(t, "open outbound", n.Namespace, "tcp4", lab, 4566, true)
}

func TestStacksAreApart(t *testing.T) {
	t.Parallel()
	var nodes []*node
	for _, stack := range []string{"one", "two"} {
		id := t.Name() + stack
		check(t, vpc.PutGroup(id, Group{Stack: stack, Outbound: everything(), Inbound: []Rule{{Protocol: "tcp", From: 100, To: 100, Group: id}}}))
		for range 2 {
			n := newNode(t, stack, "public-a", id)
			n.serve(100)
			nodes = append(nodes, n)
		}
	}
	expectReach(t, "the same stack", nodes[0].Namespace, "tcp4", nodes[1].address, 100, true)
	expectReach(t, "another stack", nodes[0].Namespace, "tcp4", nodes[2].address, 100, false)
}

func TestInternetGateway(t *testing.T) {
	t.Parallel()
	all := newGroup(t, "all", Group{Inbound: []Rule{tcp(100)}, Outbound: everything()})
	server, peer := newNode(t, "one", "public-a", all), newNode(t, "one", "public-b", all)
	for _, n := range []*node{server, peer} {
		n.serve(100)
		n.serve(101)
	}
	client := newClient(t, ClientOptions{Stack: "one"})
	far := &node{Namespace: client.Namespace, t: t, address: client.Public}
	far.serve(100)
	expectSeen(t, "from the internet", client.Namespace, server.public, 100, client.Public)
	expectSeen(t, "to the internet", server.Namespace, client.Public, 100, server.public)
	expectSeen(t, "to another's public address", server.Namespace, peer.public, 100, server.public)
	expectSeen(t, "to its own public address", server.Namespace, server.public, 100, server.public)
	expectSeen(t, "to another's private address", server.Namespace, peer.address, 100, server.address)
	expectReach(t, "closed from the internet", client.Namespace, "tcp4", server.public, 101, false)
	expectReach(t, "a private address from the internet", client.Namespace, "tcp4", server.address, 100, false)
	former := server.public
	check(t, vpc.ReleasePublic(server.address))
	expectReach(t, "stopped", client.Namespace, "tcp4", former, 100, false)
	expectReach(t, "no public address", server.Namespace, "tcp4", client.Public, 100, false)
	public, err := vpc.AssignPublic(server.address)
	check(t, err)
	if public == former {
		t.Error("a public address came back")
	}
	expectSeen(t, "started", client.Namespace, public, 100, client.Public)
}

func TestNATGateway(t *testing.T) {
	t.Parallel()
	all := newGroup(t, "all", Group{Inbound: everything(), Outbound: everything()})
	private, public := newNode(t, "one", "private-a", all), newNode(t, "one", "public-a", all)
	isolated := newNode(t, "one", "isolated", all)
	client := newClient(t, ClientOptions{})
	for _, n := range []*node{private, public, {Namespace: client.Namespace, t: t, address: client.Public}} {
		n.serve(100)
	}
	expectSeen(t, "through the NAT gateway", private.Namespace, client.Public, 100, natPublic)
	expectSeen(t, "through the NAT gateway and back", private.Namespace, public.public, 100, natPublic)
	expectSeen(t, "inside", private.Namespace, public.address, 100, private.address)
	expectReach(t, "towards the NAT gateway", client.Namespace, "tcp4", natPublic, 100, false)
	expectReach(t, "without a route", isolated.Namespace, "tcp4", client.Public, 100, false)
	expectReach(t, "without a route, inside", isolated.Namespace, "tcp4", public.address, 100, true)
}

func TestSourceCheck(t *testing.T) {
	t.Parallel()
	n, peer := newNode(t, "one", "public-a"), newNode(t, "one", "public-a")
	peer.serve(100)
	expectReach(t, "its own address", n.Namespace, "tcp4", peer.address, 100, true)
	// The same with another interface's address.
	received, err := peer.ListenPacket("udp4", ":200")
	check(t, err)
	defer func() { _ = received.Close() }()
	spoofed := newNode(t, "one", "public-a").address
	check(t, n.ip("addr add "+spoofed.String()+"/32 dev eth0"))
	for _, source := range []netip.Addr{spoofed, n.address} {
		connection, err := n.Dial(net.Dialer{LocalAddr: &net.UDPAddr{IP: source.AsSlice()}}, "udp4", peer.address.String()+":200")
		check(t, err)
		_, err = connection.Write([]byte("hello"))
		check(t, err)
		check(t, connection.Close())
	}
	check(t, received.SetReadDeadline(time.Now().Add(long)))
	_, from, err := received.ReadFrom(make([]byte, 100))
	check(t, err)
	if got := from.(*net.UDPAddr).IP.String(); got != n.address.String() {
		t.Errorf("a packet from %s passed", got)
	}
}

func TestRestrictedClients(t *testing.T) {
	t.Parallel()
	all := newGroup(t, "all", Group{Inbound: everything(), Outbound: everything()})
	server := newNode(t, "one", "public-a", all)
	server.serve(443)
	server.serve(100)
	server.serveUDP(100)
	vpc.DNS.Set("", "server.example.com", server.public)
	for _, c := range []struct {
		name            string
		options         ClientOptions
		https, tcp, udp bool
	}{
		{"free", ClientOptions{}, true, true, true},
		{"no UDP", ClientOptions{NoUDP: true}, true, true, false},
		{"443/TCP only", ClientOptions{OnlyHTTPS: true}, true, false, false},
		{"behind NAT", ClientOptions{NAT: true}, true, true, true},
		{"behind NAT, 443/TCP only", ClientOptions{NAT: true, OnlyHTTPS: true}, true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := newClient(t, c.options)
			expectReach(t, "443/TCP", client.Namespace, "tcp4", server.public, 443, c.https)
			expectReach(t, "TCP", client.Namespace, "tcp4", server.public, 100, c.tcp)
			expectReach(t, "UDP", client.Namespace, "udp4", server.public, 100, c.udp)
			if found, err := resolve(client.Namespace, dnsPublic, "server.example.com"); err != nil || !slices.Contains(found, server.public.String()) {
				t.Errorf("DNS gives %v, %v", found, err)
			}
			if c.https {
				expectSeen(t, "its public address", client.Namespace, server.public, 443, client.Public)
			}
			if c.options.NAT {
				expectReach(t, "towards the router", server.Namespace, "tcp4", client.Public, 100, false)
			}
			output, err := client.Command("sh", "-c", "cat /etc/resolv.conf; ip -o -4 addr show dev eth0").CombinedOutput()
			if err != nil || !strings.Contains(string(output), dnsPublic.String()) || strings.Contains(string(output), client.Public.String()) == c.options.NAT {
				t.Errorf("a program sees %s, %v", output, err)
			}
		})
	}
	client := newClient(t, ClientOptions{})
	kept, err := open(client.Namespace, "udp4", server.public, 100)
	check(t, err)
	defer kept.end()
	if !kept.alive() {
		t.Fatal("no UDP")
	}
	check(t, client.Restrict(true, false))
	if !kept.dead() {
		t.Error("UDP passes after the restriction")
	}
}

// resolve a name; a name that does not exist has no addresses.
func resolve(from *Namespace, server netip.Addr, name string) (addresses []string, err error) {
	connection, err := from.Dial(net.Dialer{}, "udp4", server.String()+":53")
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	answer, _, err := (&dns.Client{Timeout: time.Second}).ExchangeWithConn(question, &dns.Conn{Conn: connection})
	if err != nil {
		return nil, err
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return nil, errors.New(dns.RcodeToString[answer.Rcode])
	}
	for _, record := range answer.Answer {
		addresses = append(addresses, record.(*dns.A).A.String())
	}
	return addresses, nil
}

func TestDNS(t *testing.T) {
	t.Parallel()
	one, two := newNode(t, "dns1", "public-a"), newNode(t, "dns2", "private-a")
	client := newClient(t, ClientOptions{Stack: "dns2"})
	vpc.DNS.Set("", "registry.example.com", netip.MustParseAddr("10.99.0.1"))
	vpc.DNS.Set("dns1", "openvidu.example.com", one.public)
	vpc.DNS.Set("dns2", "openvidu.example.com", client.Public)
	vpc.DNS.Set("dns2", "*.turn.example.com", client.Public)
	vpc.DNS.Alias("dns1", "alias.example.com", "openvidu.example.com")
	is := func(what string, from *Namespace, server netip.Addr, name string, want ...string) {
		t.Helper()
		if got, err := resolve(from, server, name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	inside := vpc.Resolver()
	is("everybody's", one.Namespace, inside, "registry.example.com", "10.99.0.1")
	is("a stack's", one.Namespace, inside, "OpenVidu.example.com", one.public.String())
	is("another stack's", two.Namespace, inside, "openvidu.example.com", client.Public.String())
	is("a client of the other stack", client.Namespace, dnsPublic, "openvidu.example.com", client.Public.String())
	is("a name of all below", client.Namespace, dnsPublic, "a.turn.example.com", client.Public.String())
	is("an alias", one.Namespace, inside, "alias.example.com", one.public.String())
	is("nothing", two.Namespace, inside, "alias.example.com")
	vpc.DNS.Fault("dns1", "openvidu.example.com", ServFail)
	if _, err := resolve(one.Namespace, inside, "openvidu.example.com"); err == nil || err.Error() != "SERVFAIL" {
		t.Errorf("SERVFAIL: %v", err)
	}
	is("no fault of the other stack", two.Namespace, inside, "openvidu.example.com", client.Public.String())
	vpc.DNS.Fault("dns1", "openvidu.example.com", Answers)
	vpc.DNS.Fault("dns1", "", Away)
	if _, err := resolve(one.Namespace, inside, "registry.example.com"); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("away: %v", err)
	}
	vpc.DNS.Fault("dns1", "", Answers)
	is("back", one.Namespace, inside, "registry.example.com", "10.99.0.1")
}

func TestSTUN(t *testing.T) {
	t.Parallel()
	public, private := newNode(t, "one", "public-a"), newNode(t, "one", "private-a")
	for from, want := range map[*Namespace]netip.Addr{public.Namespace: public.public, private.Namespace: natPublic} {
		connection, err := from.Dial(net.Dialer{}, "udp4", vpc.STUN())
		check(t, err)
		client, err := stun.NewClient(connection)
		check(t, err)
		var mapped stun.XORMappedAddress
		failure := client.Do(stun.MustBuild(stun.TransactionID, stun.BindingRequest), func(event stun.Event) {
			if err = event.Error; err == nil {
				err = mapped.GetFrom(event.Message)
				if event.Message.Type != stun.BindingSuccess {
					err = errors.New(event.Message.Type.String())
				}
			}
		})
		if failure != nil || err != nil || mapped.IP.String() != want.String() {
			t.Errorf("%s is seen as %s (%v, %v), want %s", from.Name, mapped.IP, failure, err, want)
		}
		check(t, client.Close())
	}
}

func TestCutZone(t *testing.T) {
	t.Parallel()
	one, two, b := newNode(t, "cut", "public-a"), newNode(t, "uncut", "public-a"), newNode(t, "cut", "public-b")
	for _, n := range []*node{one, two, b} {
		n.serve(100)
	}
	kept, err := open(one.Namespace, "tcp4", b.address, 100)
	check(t, err)
	defer kept.end()
	if !kept.alive() {
		t.Fatal("no connection")
	}
	check(t, vpc.CutZone("cut", "a"))
	if !kept.dead() {
		t.Error("an established connection passes")
	}
	expectReach(t, "into the zone", b.Namespace, "tcp4", one.address, 100, false)
	expectReach(t, "out of the zone", one.Namespace, "tcp4", b.address, 100, false)
	expectReach(t, "the other stack", b.Namespace, "tcp4", two.address, 100, true)
	late := newNode(t, "cut", "private-a")
	expectReach(t, "an interface that came later", late.Namespace, "tcp4", b.address, 100, false)
	check(t, vpc.RestoreZone("cut", "a"))
	expectReach(t, "restored", late.Namespace, "tcp4", b.address, 100, true)
	if !kept.alive() { // what was lost is sent again
		t.Error("the connection does not go on")
	}
}

// certificate of a name, as PEM, and its pool.
func certificate(t *testing.T, name string) (string, *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	check(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(private)
	check(t, err)
	pool := x509.NewCertPool()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	pool.AppendCertsFromPEM(text)
	return string(text) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), pool
}

// target is a node that echoes on port 7000 and whose health is on port 7001.
type target struct {
	*node
	well   atomic.Bool
	mu     sync.Mutex
	checks []string // addresses that checks came from
}

func newTarget(t *testing.T, stack, subnet string, groups ...string) *target {
	t.Helper()
	m := &target{node: newNode(t, stack, subnet, groups...)}
	m.well.Store(true)
	m.serve(7000)
	listener, err := m.Listen("tcp4", "0.0.0.0:7001")
	check(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			m.mu.Lock()
			m.checks = append(m.checks, host)
			m.mu.Unlock()
			if !m.well.Load() || r.URL.Path != "/health" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
	}()
	return m
}

// balanced is a load balancer with two zones, a TLS listener on 443 and a TCP listener on 80, and two targets.
type balanced struct {
	stack, id, tls, tcp string // ids of the load balancer and its target groups
	spec                LoadBalancer
	group, nodes        string // security groups of the load balancer and of its targets
	targets             []*target
	client              *Client
	pool                *x509.CertPool
	pem                 string
}

func newBalanced(t *testing.T, attributes map[string]string, lbAttributes map[string]string) *balanced {
	t.Helper()
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	b := &balanced{stack: name, id: name, tls: name + "-tls", tcp: name + "-tcp"}
	nodes := newGroup(t, "nodes", Group{Outbound: everything()})
	b.group = newGroup(t, "balancer", Group{
		Inbound:  []Rule{tcp(443), tcp(80)},
		Outbound: []Rule{{Protocol: "tcp", From: 7000, To: 7001, Group: nodes}},
	})
	b.nodes = nodes
	check(t, vpc.PutGroup(nodes, Group{Outbound: everything(), Inbound: []Rule{{Protocol: "tcp", From: 7000, To: 7001, Group: b.group}}}))
	var listed []any
	for key, value := range attributes {
		listed = append(listed, map[string]any{"Key": key, "Value": value})
	}
	for _, group := range []string{b.tls, b.tcp} {
		spec, err := ParseTargetGroup(b.stack, map[string]any{"Port": 7000.0, "Protocol": "TCP", "TargetType": "instance", "HealthCheckProtocol": "HTTP",
			"HealthCheckPort": "7001", "HealthCheckPath": "/health", "HealthCheckIntervalSeconds": 10.0, "HealthyThresholdCount": 2.0, "TargetGroupAttributes": listed})
		check(t, err)
		check(t, vpc.PutTargetGroup(group, spec))
	}
	listed = nil
	for key, value := range lbAttributes {
		listed = append(listed, map[string]any{"Key": key, "Value": value})
	}
	spec, subnets, err := ParseLoadBalancer(b.stack, map[string]any{"Type": "network", "Scheme": "internet-facing", "Subnets": []any{"public-a", "public-b"},
		"SecurityGroups": []any{b.group}, "LoadBalancerAttributes": listed})
	check(t, err)
	spec.DNSName, spec.Scale, spec.Addresses = name+".elb.amazonaws.com", 100, map[string]netip.Addr{}
	for _, subnet := range subnets {
		s, _ := vpc.Subnet(subnet)
		spec.Addresses[subnet] = s.Prefix.Addr()
		for range numbers.Add(1) + 10 {
			spec.Addresses[subnet] = spec.Addresses[subnet].Next()
		}
	}
	b.spec = spec
	check(t, vpc.PutLoadBalancer(b.id, spec))
	t.Cleanup(func() { check(t, vpc.DeleteLoadBalancer(b.id)) })
	b.pem, b.pool = certificate(t, "openvidu.example.com")
	check(t, vpc.PutListener(b.id+"-443", Listener{LoadBalancer: b.id, TargetGroup: b.tls, Port: 443, TLS: true, Certificate: b.pem}))
	check(t, vpc.PutListener(b.id+"-80", Listener{LoadBalancer: b.id, TargetGroup: b.tcp, Port: 80}))
	for _, zone := range []string{"a", "b"} {
		m := newTarget(t, b.stack, "public-"+zone, nodes)
		b.targets = append(b.targets, m)
		for _, group := range []string{b.tls, b.tcp} {
			check(t, vpc.SetTarget(group, m.address, 0, Registered))
		}
	}
	b.client = newClient(t, ClientOptions{Stack: b.stack})
	b.healthy(t, b.targets...)
	return b
}

func (b *balanced) healthy(t *testing.T, targets ...*target) {
	t.Helper()
	for _, m := range targets {
		for _, group := range []string{b.tls, b.tcp} {
			eventually(t, fmt.Sprint(m.address, " is healthy in ", group), func() bool { return vpc.Health(group, m.address) == Healthy })
		}
	}
}

// public addresses of the name, as the client finds them.
func (b *balanced) addresses(t *testing.T) []netip.Addr {
	t.Helper()
	found, err := resolve(b.client.Namespace, dnsPublic, b.spec.DNSName)
	check(t, err)
	var out []netip.Addr
	for _, address := range found {
		out = append(out, netip.MustParseAddr(address))
	}
	return out
}

// open a flow to the first address; it tells which target has it.
func (b *balanced) open(t *testing.T) (*flow, string) {
	t.Helper()
	f, err := open(b.client.Namespace, "tcp4", b.addresses(t)[0], 80)
	check(t, err)
	t.Cleanup(func() { _ = f.Close() })
	who, _, err := f.say(long)
	check(t, err)
	return f, who
}

// openTo a certain target.
func (b *balanced) openTo(t *testing.T, m *target) *flow {
	t.Helper()
	for range 200 {
		f, who := b.open(t)
		if who == m.address.String() {
			return f
		}
		f.end()
	}
	t.Fatalf("no flow goes to %s", m.address)
	return nil
}

// share of new flows that each target gets.
func (b *balanced) share(t *testing.T) map[string]int {
	t.Helper()
	share := map[string]int{}
	for range 20 {
		f, who := b.open(t)
		share[who]++
		f.end()
	}
	return share
}

func (b *balanced) onlyTo(t *testing.T, m *target) bool {
	t.Helper()
	return b.share(t)[m.address.String()] == 20
}

func (b *balanced) handshake(to netip.Addr, port int, pool *x509.CertPool) (*flow, error) {
	raw, err := open(b.client.Namespace, "tcp4", to, port)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "openvidu.example.com"})
	_ = raw.SetDeadline(time.Now().Add(long)) // a connection always takes one
	if err = secure.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return &flow{secure, bufio.NewReader(secure)}, nil
}

var crossZone = map[string]string{"load_balancing.cross_zone.enabled": "true"}

func TestLoadBalancer(t *testing.T) {
	t.Parallel()
	b := newBalanced(t, nil, crossZone)
	if got := b.addresses(t); len(got) != 2 {
		t.Fatalf("the name has the addresses %v", got)
	}
	for _, address := range b.addresses(t) {
		f, err := b.handshake(address, 443, b.pool)
		check(t, err)
		if _, seen, err := f.say(long); err != nil || !strings.HasPrefix(seen, "10.99.") {
			t.Errorf("a round trip through TLS: seen as %s, %v", seen, err)
		}
		f.end()
		expectReach(t, "no listener", b.client.Namespace, "tcp4", address, 81, false)
	}
	if share := b.share(t); len(share) != 2 {
		t.Errorf("new flows go to %v", share)
	}
	expectReach(t, "the target past its load balancer", b.client.Namespace, "tcp4", b.targets[0].public, 7000, false)
	b.targets[0].mu.Lock()
	for _, from := range b.targets[0].checks {
		if !slices.Contains([]string{b.spec.Addresses["public-a"].String(), b.spec.Addresses["public-b"].String()}, from) {
			t.Errorf("a health check came from %s", from)
		}
	}
	b.targets[0].mu.Unlock()

	// Health checks obey the load balancer's outbound rules.
	check(t, vpc.PutGroup(b.group, Group{Inbound: []Rule{tcp(443), tcp(80)}, Outbound: []Rule{tcp(7000)}}))
	eventually(t, "unhealthy without the outbound rule", func() bool { return vpc.Health(b.tcp, b.targets[0].address) == Unhealthy })
}

func TestWithoutCrossZoneEachZoneServesItself(t *testing.T) {
	t.Parallel()
	b := newBalanced(t, nil, nil)
	for number, subnet := range []string{"public-a", "public-b"} {
		for range 10 {
			f, err := open(b.client.Namespace, "tcp4", vpc.PublicAddress(b.spec.Addresses[subnet]), 80)
			check(t, err)
			who, _, err := f.say(long)
			if err != nil || who != b.targets[number].address.String() {
				t.Errorf("%s goes to %s, %v", subnet, who, err)
			}
			f.end()
		}
	}
	// A zone without a healthy target is not in DNS.
	b.targets[0].well.Store(false)
	want := []netip.Addr{vpc.PublicAddress(b.spec.Addresses["public-b"])}
	eventually(t, "DNS without the zone", func() bool { return slices.Equal(b.addresses(t), want) })
}

func TestHealthFlapEndsFlows(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{true, false} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			t.Parallel()
			attributes := map[string]string{}
			if !ends { // true is the default
				attributes["target_health_state.unhealthy.connection_termination.enabled"] = "false"
			}
			b := newBalanced(t, attributes, crossZone)
			sick, well := b.targets[0], b.targets[1]
			onSick, onWell := b.openTo(t, sick), b.openTo(t, well)
			sick.well.Store(false)
			eventually(t, "unhealthy", func() bool { return vpc.Health(b.tcp, sick.address) == Unhealthy })
			eventually(t, "no new flows", func() bool { return b.onlyTo(t, well) })
			if got := onSick.dead(); got != ends {
				t.Errorf("the flow ended: %v, want %v", got, ends)
			}
			if !onWell.alive() {
				t.Error("a flow of the healthy target ended")
			}
			// Fail open: nobody is healthy, everybody gets flows, and none ends for that.
			well.well.Store(false)
			eventually(t, "fail open", func() bool { return vpc.Health(b.tcp, well.address) == Unhealthy && len(b.share(t)) == 2 })
			if !onWell.alive() {
				t.Error("a flow ended when the load balancer failed open")
			}
			sick.well.Store(true)
			eventually(t, "healthy again", func() bool { return vpc.Health(b.tcp, sick.address) == Healthy && b.onlyTo(t, sick) })
		})
	}
}

func TestFailHealthChecks(t *testing.T) {
	t.Parallel()
	b := newBalanced(t, map[string]string{"target_health_state.unhealthy.connection_termination.enabled": "false"}, crossZone)
	kept, _ := b.open(t)
	check(t, vpc.FailHealthChecks(b.tcp, true))
	for _, m := range b.targets {
		if got := vpc.Health(b.tcp, m.address); got != Unhealthy {
			t.Errorf("%s is %s", m.address, got)
		}
		if got := vpc.Health(b.tls, m.address); got != Healthy {
			t.Errorf("%s is %s in the other target group", m.address, got)
		}
	}
	if !kept.alive() {
		t.Error("a flow ended")
	}
	if share := b.share(t); len(share) != 2 {
		t.Errorf("it does not fail open: %v", share)
	}
	// A reload does not heal them.
	check(t, vpc.PutListener(b.id+"-8080", Listener{LoadBalancer: b.id, TargetGroup: b.tcp, Port: 8080}))
	time.Sleep(4 * leastInterval)
	if got := vpc.Health(b.tcp, b.targets[0].address); got != Unhealthy {
		t.Errorf("after a reload it is %s", got)
	}
	check(t, vpc.FailHealthChecks(b.tcp, false))
	b.healthy(t, b.targets...)
}

func TestDeregistration(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{true, false} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			t.Parallel()
			b := newBalanced(t, map[string]string{"deregistration_delay.timeout_seconds": "200",
				"deregistration_delay.connection_termination.enabled": fmt.Sprint(ends)}, crossZone)
			leaving, staying := b.targets[0], b.targets[1]
			kept, other := b.openTo(t, leaving), b.openTo(t, staying)
			start := time.Now()
			done := make(chan error, 1)
			go func() { done <- vpc.Deregister(context.Background(), b.tcp, leaving.address, 0) }()
			eventually(t, "draining", func() bool { return vpc.Health(b.tcp, leaving.address) == DrainingOf })
			if !b.onlyTo(t, staying) {
				t.Error("a draining target gets new flows")
			}
			if !kept.alive() {
				t.Error("draining ended a flow")
			}
			if got := vpc.Health(b.tls, leaving.address); got != Healthy {
				t.Errorf("it is %s in the other target group", got)
			}
			check(t, <-done)
			if took := time.Since(start); took < 2*time.Second {
				t.Errorf("the delay of 200 s at a scale of 100 took %s", took)
			}
			if got := vpc.Health(b.tcp, leaving.address); got != Unused {
				t.Errorf("it is %s", got)
			}
			if got := kept.dead(); got != ends {
				t.Errorf("the flow ended: %v, want %v", got, ends)
			}
			if !other.alive() {
				t.Error("the other target's flow ended")
			}
			// It comes back in another slot, and must pass a check again.
			check(t, vpc.SetTarget(b.tcp, leaving.address, 0, Registered))
			eventually(t, "flows again", func() bool { return len(b.share(t)) == 2 })
			if !ends && !kept.alive() {
				t.Error("the flow from before ended")
			}
		})
	}
}

func TestNewTargets(t *testing.T) {
	t.Parallel()
	b := newBalanced(t, nil, crossZone)
	kept, _ := b.open(t)
	sick := newTarget(t, b.stack, "public-a", b.nodes)
	sick.well.Store(false)
	check(t, vpc.SetTarget(b.tcp, sick.address, 0, Registered))
	if got := vpc.Health(b.tcp, sick.address); got != Initial {
		t.Errorf("a new target is %s", got)
	}
	for range 3 {
		if b.share(t)[sick.address.String()] > 0 {
			t.Error("a target that passed no check gets flows")
		}
	}
	eventually(t, "unhealthy", func() bool { return vpc.Health(b.tcp, sick.address) == Unhealthy })
	sick.well.Store(true)
	eventually(t, "flows to it", func() bool { return b.share(t)[sick.address.String()] > 0 })
	// More than HAProxy's configuration has room for.
	nodes := []*target{}
	for range slotsPerGroup {
		m := newTarget(t, b.stack, "public-b", b.nodes)
		nodes = append(nodes, m)
		check(t, vpc.SetTarget(b.tcp, m.address, 0, Registered))
	}
	for _, m := range nodes {
		eventually(t, "healthy", func() bool { return vpc.Health(b.tcp, m.address) == Healthy })
	}
	if !kept.alive() {
		t.Error("a reload ended a flow")
	}
}

func TestLoadBalancerLosesAZone(t *testing.T) {
	t.Parallel()
	b := newBalanced(t, nil, crossZone)
	if got := len(b.addresses(t)); got != 2 {
		t.Fatalf("%d addresses", got)
	}
	cut, left := vpc.PublicAddress(b.spec.Addresses["public-a"]), vpc.PublicAddress(b.spec.Addresses["public-b"])
	check(t, vpc.CutZone(b.stack, "a"))
	if got := b.addresses(t); !slices.Equal(got, []netip.Addr{left}) {
		t.Errorf("the name has %v, want %s", got, left)
	}
	expectReach(t, "the zone's address", b.client.Namespace, "tcp4", cut, 80, false)
	eventually(t, "its target is unhealthy", func() bool { return vpc.Health(b.tcp, b.targets[0].address) == Unhealthy })
	if got := vpc.Health(b.tcp, b.targets[1].address); got != Healthy {
		t.Errorf("the other zone's target is %s", got)
	}
	if !b.onlyTo(t, b.targets[1]) {
		t.Error("flows go to the zone")
	}
	check(t, vpc.RestoreZone(b.stack, "a"))
	b.healthy(t, b.targets...)
	if got := len(b.addresses(t)); got != 2 {
		t.Errorf("%d addresses after the zone came back", got)
	}
}

func TestListeners(t *testing.T) {
	t.Parallel()
	b := newBalanced(t, map[string]string{"deregistration_delay.connection_termination.enabled": "true"}, crossZone)
	address := b.addresses(t)[0]
	onTcp := b.openTo(t, b.targets[0])
	onTls, err := b.handshake(address, 443, b.pool)
	check(t, err)
	defer onTls.end()
	// Nothing is refused while listeners come and go.
	stop, failures := make(chan bool), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				close(failures)
				return
			default:
			}
			f, err := b.handshake(address, 443, b.pool)
			if err == nil {
				_, _, err = f.say(long)
				f.end()
			}
			if err != nil {
				failures <- err
				close(failures)
				return
			}
		}
	}()
	check(t, vpc.PutListener(b.id+"-8080", Listener{LoadBalancer: b.id, TargetGroup: b.tcp, Port: 8080}))
	check(t, vpc.PutGroup(b.group, Group{Inbound: everything(), Outbound: everything()}))
	expectReach(t, "the new listener", b.client.Namespace, "tcp4", address, 8080, true)
	check(t, vpc.DeleteListener(b.id+"-80"))
	expectReach(t, "the listener that went", b.client.Namespace, "tcp4", address, 80, false)
	close(stop)
	if err := <-failures; err != nil {
		t.Error("a connection of another listener failed: ", err)
	}
	// Another certificate.
	pem, pool := certificate(t, "openvidu.example.com")
	check(t, vpc.PutListener(b.id+"-443", Listener{LoadBalancer: b.id, TargetGroup: b.tls, Port: 443, TLS: true, Certificate: pem}))
	f, err := b.handshake(address, 443, pool)
	check(t, err)
	f.end()
	if f, err = b.handshake(address, 443, b.pool); err == nil {
		f.end()
		t.Error("the former certificate is still there")
	}
	if !onTcp.alive() || !onTls.alive() {
		t.Error("a flow ended")
	}
	for _, m := range b.targets {
		if got := vpc.Health(b.tls, m.address); got != Healthy {
			t.Errorf("after reloads %s is %s", m.address, got)
		}
	}
	// A former worker's flows end with their target.
	check(t, vpc.SetTarget(b.tcp, b.targets[0].address, 0, Draining))
	if !onTcp.alive() {
		t.Error("draining ended a former worker's flow")
	}
	check(t, vpc.SetTarget(b.tcp, b.targets[0].address, 0, Gone))
	if !onTcp.dead() {
		t.Error("a former worker's flow outlived its target")
	}
	if err := vpc.PutListener("again", Listener{LoadBalancer: b.id, TargetGroup: b.tcp, Port: 443}); err == nil || !strings.Contains(err.Error(), "DuplicateListener") {
		t.Errorf("two listeners on a port: %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	spec, err := ParseTargetGroup("", map[string]any{"Port": 80.0, "Protocol": "TCP"})
	if err != nil || spec.HealthCheck.Healthy != 5 || spec.HealthCheck.Unhealthy != 2 || !spec.TerminateUnhealthy || spec.DeregistrationDelay != 300*time.Second || spec.HealthCheck.Timeout != 10*time.Second {
		t.Errorf("the defaults are %+v, %v", spec, err)
	}
	group, err := ParseGroup("", map[string]any{"SecurityGroupIngress": []any{map[string]any{"IpProtocol": "6", "FromPort": "443", "ToPort": 443.0, "CidrIp": "0.0.0.0/0"}}})
	if err != nil || !slices.Equal(group.Inbound, []Rule{tcp(443)}) || len(group.Outbound) != 2 {
		t.Errorf("a group: %+v, %v", group, err)
	}
	// What CDK writes into a group that allows nothing outbound.
	if _, err := ParseRule(map[string]any{"CidrIp": "255.255.255.255/32", "FromPort": 252.0, "ToPort": 86.0, "IpProtocol": "icmp"}); err != nil {
		t.Error(err)
	}
	for what, parse := range map[string]func() error{
		"an unknown attribute": func() error {
			_, err := ParseTargetGroup("", map[string]any{"TargetGroupAttributes": []any{map[string]any{"Key": "stickiness.enabled", "Value": "true"}}})
			return err
		},
		"a TLS listener without a certificate": func() error {
			_, _, err := ParseListener(map[string]any{"Protocol": "TLS", "Port": 443.0})
			return err
		},
		"two peers": func() error {
			_, err := ParseRule(map[string]any{"IpProtocol": "-1", "CidrIp": "0.0.0.0/0", "CidrIpv6": "::/0"})
			return err
		},
		"a range that ends before it begins": func() error {
			_, err := ParseRule(map[string]any{"IpProtocol": "tcp", "FromPort": 2.0, "ToPort": 1.0, "CidrIp": "0.0.0.0/0"})
			return err
		},
		"host bits": func() error {
			_, err := ParseRule(map[string]any{"IpProtocol": "-1", "CidrIp": "10.0.0.1/8"})
			return err
		},
		"an application load balancer": func() error {
			_, _, err := ParseLoadBalancer("", map[string]any{"Type": "application"})
			return err
		},
	} {
		if parse() == nil {
			t.Error("taken: ", what)
		}
	}
}
