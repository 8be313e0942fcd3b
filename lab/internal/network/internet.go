package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pion/stun/v3"
)

// natScript is the internet gateway and the NAT gateway, and what clients may do.
//
// An address inside the VPC is translated when a packet comes into this namespace from there, and back when it leaves for
// there. So one instance that speaks to the public address of another is seen with its own public address, and counts for
// no security group's members (VPC User Guide, Security group rules: a group as a source means private addresses).
func (n *Network) natScript() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var in, out, nat, gateways, rules []string
	for _, address := range sorted(n.interfaces) {
		if i := n.interfaces[address]; i.public.IsValid() && n.subnets[i.Subnet].Egress == InternetGateway {
			in = append(in, fmt.Sprintf("%s : %s", i.public, address))
			out = append(out, fmt.Sprintf("%s : %s", address, i.public))
			gateways = append(gateways, address.String())
		}
	}
	for _, id := range sortedStrings(n.subnets) {
		if s := n.subnets[id]; s.Egress == NATGateway {
			nat = append(nat, s.Prefix.String())
		}
	}
	for _, c := range n.clients {
		rules = append(rules, c.rules()...)
	}
	return fmt.Sprintf(`table ip igw
delete table ip igw
table ip igw {
map in { type ipv4_addr : ipv4_addr; %[1]s }
map out { type ipv4_addr : ipv4_addr; %[2]s }
set mapped { type ipv4_addr; %[3]s }
set nat { type ipv4_addr; flags interval; %[4]s }
chain pre { type nat hook prerouting priority dstnat; dnat to ip daddr map @in; }
chain post { type nat hook postrouting priority srcnat
iifname != "vpc" return
ip saddr %[5]s snat to %[6]s
snat to ip saddr map @out
ip saddr @nat snat to %[7]s; }
# The translation of sources for services of this namespace itself, which have no postrouting.
chain local { type nat hook input priority 100
iifname != "vpc" return
ip saddr %[5]s snat to %[6]s
snat to ip saddr map @out
ip saddr @nat snat to %[7]s; }
chain restrictions {
%[8]s
}
chain forward { type filter hook forward priority 0
jump restrictions
ct state established,related accept
# What has no public address and no NAT gateway stays inside; what was not sent to a public address stays outside.
iifname "vpc" ip saddr != %[5]s ip saddr != @mapped ip saddr != @nat drop
oifname "vpc" ct status & dnat == 0 drop; }
chain input { type filter hook input priority 0
jump restrictions
ct state established,related accept
iifname "vpc" ip saddr != %[5]s ip saddr != @mapped ip saddr != @nat drop; }
}
`, elements(in), elements(out), elements(gateways), elements(nat), transitLab, labPublic, natPublic, strings.Join(rules, "\n"))
}

// ClientOptions restrict a client.
type ClientOptions struct {
	// Stack whose names the client resolves.
	Stack string
	// NoUDP drops UDP other than DNS, both ways.
	NoUDP bool
	// OnlyHTTPS drops everything other than TCP to port 443, and DNS.
	OnlyHTTPS bool
	// NAT puts the client behind a router of its own, in a private network.
	NAT bool
}

// Client is a machine outside of the VPC.
type Client struct {
	*Namespace
	// Public address, which is the router's for a client behind NAT.
	Public netip.Addr

	options ClientOptions
	network *Network
	device  string // the internet's end
	router  *Namespace
}

// Client makes a namespace with an internet address.
func (n *Network) Client(name string, options ClientOptions) (*Client, error) {
	n.mu.Lock()
	n.serial++
	c := &Client{options: options, network: n, Public: n.nextClient, device: fmt.Sprint("c", n.serial)}
	n.nextClient = n.nextClient.Next()
	if n.nextClient == netip.MustParseAddr("198.51.100.255") {
		n.nextClient = netip.MustParseAddr("203.0.113.10")
	}
	n.mu.Unlock()
	var err error
	if c.Namespace, err = NewNamespace(name); err != nil {
		return nil, err
	}
	front := c.Namespace
	if options.NAT {
		if c.router, err = NewNamespace(name + "'s router"); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		front = c.router
	}
	// The gateway has one address on every link.
	err = errors.Join(
		n.Internet.ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", c.device, front.Path()),
			"addr add 169.254.1.1/32 dev "+c.device, "link set "+c.device+" up",
			fmt.Sprintf("route add %s/32 dev %s", c.Public, c.device)),
		front.ip(fmt.Sprintf("addr add %s/32 dev eth0", c.Public), "link set eth0 up",
			"route add 169.254.1.1 dev eth0", fmt.Sprintf("route add default via 169.254.1.1 dev eth0 src %s", c.Public)))
	if err == nil && options.NAT {
		err = errors.Join(
			c.router.ip("link add lan type veth peer name eth0 netns "+c.Path(), "addr add 192.168.7.1/24 dev lan", "link set lan up"),
			c.router.sysctl("ip_forward=1"),
			c.router.nft(`table ip home {
chain post { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
}`),
			c.ip("addr add 192.168.7.2/24 dev eth0", "link set eth0 up", "route add default via 192.168.7.1"))
	}
	if err == nil {
		err = writeFile(filepath.Join(n.dir, "resolv.conf"), "nameserver "+dnsPublic.String()+"\n")
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	n.mu.Lock()
	n.clients = append(n.clients, c)
	n.mu.Unlock()
	return c, n.nat.now()
}

// Restrict changes what the client may do, in the middle of what it does.
func (c *Client) Restrict(noUDP, onlyHTTPS bool) error {
	c.network.mu.Lock()
	c.options.NoUDP, c.options.OnlyHTTPS = noUDP, onlyHTTPS
	c.network.mu.Unlock()
	return c.network.nat.now()
}

// rules of the way to the client, not of the client itself: a program whose packets are dropped on the way is not told.
func (c *Client) rules() (rules []string) {
	from, to := fmt.Sprintf("iifname %q ", c.device), fmt.Sprintf("oifname %q ", c.device)
	if c.options.OnlyHTTPS {
		return []string{from + "tcp dport 443 return", from + "udp dport 53 return", from + "drop", to + "ct state new drop"}
	}
	if c.options.NoUDP {
		return []string{from + "udp dport 53 return", from + "meta l4proto udp drop", to + "udp sport 53 return", to + "meta l4proto udp drop"}
	}
	return nil
}

// Close takes the client off the internet.
func (c *Client) Close() error {
	n := c.network
	n.mu.Lock()
	before := len(n.clients)
	for i, other := range n.clients {
		if other == c {
			n.clients = append(n.clients[:i:i], n.clients[i+1:]...)
			break
		}
	}
	known := len(n.clients) < before
	n.mu.Unlock()
	var failures []error
	if known {
		failures = append(failures, n.nat.now(), n.Internet.ip("link del "+c.device))
	}
	if c.router != nil {
		failures = append(failures, c.router.Close())
	}
	return errors.Join(append(failures, c.Namespace.Close())...)
}

// Command that will run as a program of the client: in its network, with its DNS server.
func (c *Client) Command(name string, arguments ...string) *exec.Cmd {
	script := `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	command := exec.Command("nsenter", append([]string{"--net=" + c.Path(), "unshare", "--mount", "sh", "-c", script,
		filepath.Join(c.network.dir, "resolv.conf"), name}, arguments...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// STUN is the address of a responder in the internet, as host and port.
func (n *Network) STUN() string { return net.JoinHostPort(stunPublic.String(), "3478") }

func (n *Network) serveSTUN() error {
	connection, err := n.Internet.ListenPacket("udp4", n.STUN())
	if err != nil {
		return err
	}
	n.onClose(connection.Close)
	go func() {
		buffer := make([]byte, 1500)
		for {
			length, from, err := connection.ReadFrom(buffer)
			if err != nil {
				return
			}
			request := &stun.Message{Raw: append([]byte(nil), buffer[:length]...)}
			if request.Decode() != nil || request.Type != stun.BindingRequest {
				continue
			}
			peer := from.(*net.UDPAddr)
			answer, err := stun.Build(stun.NewTransactionIDSetter(request.TransactionID), stun.BindingSuccess,
				&stun.XORMappedAddress{IP: peer.IP, Port: peer.Port}, stun.Fingerprint)
			if err == nil {
				_, _ = connection.WriteTo(answer.Raw, from) // who asked is gone, or asks again
			}
		}
	}()
	return nil
}
