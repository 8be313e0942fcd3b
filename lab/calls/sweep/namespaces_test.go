package sweep

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	clientAddress  = "192.0.2.1"
	anotherAddress = "192.0.2.9"
	serverAddress  = "192.0.2.2"
)

// namespaces are two network namespaces, joined by a veth pair. They end with the test.
type namespaces struct {
	t              *testing.T
	client, server string // files that stand for them
}

func newNamespaces(t *testing.T) *namespaces {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	hold := func() string {
		holder := exec.Command("sleep", "infinity")
		holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := holder.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = holder.Wait()
		})
		return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	}
	n := &namespaces{t: t, client: hold(), server: hold()}
	n.run(n.client, "", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
	n.run(n.client, "", "ip", "link", "set", "peer0", "netns", strings.Split(n.server, "/")[2], "name", "eth0")
	for _, address := range []string{clientAddress, anotherAddress} {
		n.run(n.client, "", "ip", "address", "add", address+"/24", "dev", "eth0")
	}
	n.run(n.server, "", "ip", "address", "add", serverAddress+"/24", "dev", "eth0")
	for _, namespace := range []string{n.client, n.server} {
		n.run(namespace, "", "ip", "link", "set", "lo", "up")
		n.run(namespace, "", "ip", "link", "set", "eth0", "up")
	}
	for _, namespace := range []string{n.client, n.server} {
		n.waitForCarrier(namespace)
	}
	return n
}

func (n *namespaces) run(namespace, input string, command ...string) {
	n.t.Helper()
	run := exec.Command("nsenter", append([]string{"--net=" + namespace}, command...)...)
	run.Stdin = strings.NewReader(input)
	if out, err := run.CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %v: %s", command, err, out)
	}
}

// waitForCarrier waits until the interface sends: the kernel drops packets until it has noticed that both ends are up.
func (n *namespaces) waitForCarrier(namespace string) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		out, err := exec.Command("nsenter", "--net="+namespace, "ip", "link", "show", "eth0").CombinedOutput()
		if err == nil && strings.Contains(string(out), "state UP") {
			return
		}
	}
	n.t.Fatal("eth0 does not come up")
}

// in runs f in a namespace, on a thread of its own that ends with it. Sockets stay in the namespace that they were opened in.
func (n *namespaces) in(namespace string, f func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread is not reused
		file, err := os.Open(namespace)
		if err != nil {
			done <- err
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

// filter sets the rules of the server's input, or of the client's output, which drop what they do not accept.
func (n *namespaces) filter(namespace, hook, rules string) {
	n.t.Helper()
	n.run(namespace, fmt.Sprintf("table inet lab {}\ndelete table inet lab\ntable inet lab {\n"+
		"chain filter { type filter hook %s priority 0; policy drop;\nct state established,related accept\n%s\n}\n}\n", hook, rules), "nft", "-f", "-")
}

// sweep sends while the server listens.
func (n *namespaces) sweep(number *uint32, sends ...Send) (*Listener, []*Sent) {
	n.t.Helper()
	var listener *Listener
	n.in(n.server, func() (err error) {
		listener, err = Listen(number)
		return err
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- listener.Run(ctx) }()
	var sent []*Sent
	n.in(n.client, func() error {
		for _, send := range sends {
			send.Target = netip.MustParseAddr(serverAddress)
			s, err := send.Run()
			if err != nil {
				return err
			}
			sent = append(sent, s)
		}
		return nil
	})
	stop()
	if err := <-ended; err != nil {
		n.t.Fatal(err)
	}
	return listener, sent
}

func ports(t *testing.T, text string) *Ports {
	t.Helper()
	p, err := ParsePorts(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func expectPorts(t *testing.T, what string, got *Ports, want string) {
	t.Helper()
	if got.String() != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestSweepFindsExactlyWhatTheFilterLetsThrough(t *testing.T) {
	n := newNamespaces(t)
	all := Send{TCP: ports(t, All), UDP: ports(t, All), Rounds: 2}
	from := netip.MustParseAddr(clientAddress)
	const tcp, udp = "80,443,7881,50000-60000", "443,7885,50000-60000"

	n.filter(n.server, "input", "tcp dport { 80, 443, 7881, 50000-60000 } accept\nudp dport { 443, 7885, 50000-60000 } accept")
	// It makes no difference whether something listens.
	n.in(n.server, func() error {
		listening, err := net.Listen("tcp4", serverAddress+":443")
		if err == nil {
			t.Cleanup(func() { _ = listening.Close() })
		}
		return err
	})
	listener, sent := n.sweep(nil, all)
	expectPorts(t, "TCP", listener.From(from).TCP, tcp)
	expectPorts(t, "UDP", listener.From(from).UDP, udp)
	expectPorts(t, "refused TCP", sent[0].RefusedTCP, "")
	if sent[0].Packets != 4*65535 || sent[0].Source != from {
		t.Errorf("%d packets from %v", sent[0].Packets, sent[0].Source)
	}

	// A rule too many, and one too few.
	n.filter(n.server, "input", "tcp dport { 443, 6379, 7881, 50000-59999 } accept")
	listener, _ = n.sweep(nil, all)
	expectPorts(t, "TCP", listener.From(from).TCP, "443,6379,7881,50000-59999")
	expectPorts(t, "UDP", listener.From(from).UDP, "")

	n.filter(n.server, "input", "")
	listener, _ = n.sweep(nil, all)
	if got, err := json.Marshal(listener); err != nil || string(got) != `{"sources":{}}` {
		t.Errorf("%s %v", got, err)
	}
}

func TestSweepTellsSourcesAndSweepsApart(t *testing.T) {
	n := newNamespaces(t)
	n.filter(n.server, "input", "ip saddr "+anotherAddress+" tcp dport 7880 accept\ntcp dport 443 accept")
	some, none := ports(t, "443,7880"), ports(t, "")
	second := uint32(2)
	a := Send{TCP: some, UDP: none, Rounds: 2, Sweep: 1}
	b := Send{TCP: some, UDP: none, Rounds: 2, Sweep: 2, Source: netip.MustParseAddr(anotherAddress)}

	listener, _ := n.sweep(nil, a, b)
	got, err := json.Marshal(listener)
	if want := `{"sources":{"192.0.2.1":{"tcp":"443","udp":""},"192.0.2.9":{"tcp":"443,7880","udp":""}}}`; err != nil || string(got) != want {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	listener, _ = n.sweep(&second, a, b)
	expectPorts(t, "sweep 1", listener.From(netip.MustParseAddr(clientAddress)).TCP, "")
	expectPorts(t, "sweep 2", listener.From(b.Source).TCP, "443,7880")
}

func TestSweepTellsWhatTheSenderMayNotSend(t *testing.T) {
	n := newNamespaces(t)
	n.filter(n.client, "output", "tcp dport { 443, 7880-7881 } accept\nudp dport 443 accept")
	listener, sent := n.sweep(nil, Send{TCP: ports(t, "440-450,7879-7882"), UDP: ports(t, "442-444"), Rounds: 2})
	expectPorts(t, "refused TCP", sent[0].RefusedTCP, "440-442,444-450,7879,7882")
	expectPorts(t, "refused UDP", sent[0].RefusedUDP, "442,444")
	expectPorts(t, "TCP", listener.From(sent[0].Source).TCP, "443,7880-7881")
	expectPorts(t, "UDP", listener.From(sent[0].Source).UDP, "443")
}

func TestAnswer(t *testing.T) {
	n := newNamespaces(t)
	n.filter(n.server, "input", "tcp dport { 443, 444 } accept\ntcp dport 446 reject with icmpx admin-prohibited")
	n.in(n.server, func() error {
		listening, err := net.Listen("tcp4", serverAddress+":443")
		if err == nil {
			t.Cleanup(func() { _ = listening.Close() })
		}
		return err
	})
	var answers *Answers
	n.in(n.client, func() error {
		// In this thread alone, since others are in another namespace: one port after another.
		answers = &Answers{Open: &Ports{}, Closed: &Ports{}, Silent: &Ports{}, Failed: &Ports{}}
		for _, port := range []uint16{443, 444, 445, 446} {
			answers.try(netip.AddrPortFrom(netip.MustParseAddr(serverAddress), port), 300*time.Millisecond).Add(port)
		}
		return nil
	})
	expectPorts(t, "open", answers.Open, "443")
	expectPorts(t, "closed", answers.Closed, "444")
	expectPorts(t, "silent", answers.Silent, "445")
	expectPorts(t, "refused", answers.Failed, "446")
}

func TestAnswerTriesEachPort(t *testing.T) {
	first, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	open := first.Addr().(*net.TCPAddr).Port
	asked := ports(t, fmt.Sprintf("%d-%d", open, open+400))
	answers := Answer(netip.MustParseAddr("127.0.0.1"), asked, 5*time.Second)
	if !answers.Open.Has(uint16(open)) {
		t.Errorf("%d is not open: %+v", open, answers)
	}
	if got := len(answers.Open.List()) + len(answers.Closed.List()); got != 401 {
		t.Errorf("%d ports, of 401", got)
	}
}

func TestPacketsThatDoNotFitAreReported(t *testing.T) {
	n := newNamespaces(t)
	var listener *Listener
	n.in(n.server, func() (err error) {
		if listener, err = Listen(nil); err != nil {
			return err
		}
		return unix.SetsockoptInt(listener.sockets[0], unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4096)
	})
	n.in(n.client, func() error {
		_, err := Send{Target: netip.MustParseAddr(serverAddress), TCP: ports(t, "1-1000"), UDP: &Ports{}, Rounds: 2}.Run()
		return err
	})
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := listener.Run(ctx); err == nil || !strings.Contains(err.Error(), "not complete") {
		t.Errorf("%v", err)
	}
}
