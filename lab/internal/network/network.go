// Package network is the network of an AWS account on one machine, made of the kernel's own parts: the current network
// namespace is the VPC's router, security groups are nftables, the internet is another namespace behind 1:1 NAT, and each
// load balancer is HAProxy in a namespace with an address for each zone. It needs root, and nft, ip, nsenter and haproxy.
//
// Many stacks share the VPC. Whatever has no interface here, such as the lab's stand-in for AWS, is reached as AWS's own
// services are: an instance's outbound rules count, nobody's inbound rules do.
package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Egress of a subnet: where its route table sends what leaves the VPC.
type Egress string

// The targets of a subnet's default route.
const (
	InternetGateway Egress = "igw"
	NATGateway      Egress = "nat"
	Isolated        Egress = ""
)

// Subnet of the VPC.
type Subnet struct {
	ID, Zone string
	Prefix   netip.Prefix
	Egress   Egress
	// MapPublic is MapPublicIpOnLaunch: first interfaces of instances get a public address.
	MapPublic bool
}

// Interface is a network interface's address. Its veth pair is made by Attach, or by the caller.
type Interface struct {
	Address       netip.Addr
	Stack, Subnet string
	// Groups are ids of security groups. An interface without any is not filtered.
	Groups []string
	// Public asks for a public address.
	Public bool

	public netip.Addr
}

// Addresses of what stands in the internet, and how the lab's own process appears there.
var (
	labPublic   = netip.MustParseAddr("198.19.255.1")
	natPublic   = netip.MustParseAddr("198.19.255.2")
	dnsPublic   = netip.MustParseAddr("198.19.255.53")
	stunPublic  = netip.MustParseAddr("198.19.255.78")
	transitLab  = netip.MustParseAddr("169.254.100.1")
	transitFar  = netip.MustParseAddr("169.254.100.2")
	firstPublic = netip.MustParseAddr("198.18.0.10")
)

// Network is the VPC and the internet around it.
type Network struct {
	// DNS answers nodes and clients.
	DNS *DNS
	// Internet is the namespace of all that is outside the VPC: services that others than AWS run may listen there, at
	// addresses of ServeInternet.
	Internet *Namespace

	dir string
	vpc netip.Prefix

	mu            sync.Mutex
	subnets       map[string]Subnet
	interfaces    map[netip.Addr]*Interface
	groups        map[string]*group
	rules         map[string]standaloneRule
	cut           map[[2]string]bool // stack and zone
	clients       []*Client
	nextPublic    netip.Addr
	nextClient    netip.Addr
	loadBalancers map[string]*loadBalancer
	targetGroups  map[string]*targetGroup
	listeners     map[string]*listener
	serial        int
	closers       []func() error

	filter, nat applier
}

// New makes the VPC's router out of the current network namespace, and the internet. The directory is for files of the load
// balancers; its name must be short, since the kernel takes 107 bytes for the name of a socket.
func New(dir string, vpc netip.Prefix) (*Network, error) {
	n := &Network{dir: dir, vpc: vpc, subnets: map[string]Subnet{}, interfaces: map[netip.Addr]*Interface{}, groups: map[string]*group{},
		rules: map[string]standaloneRule{}, cut: map[[2]string]bool{}, nextPublic: firstPublic, nextClient: netip.MustParseAddr("198.51.100.10"),
		loadBalancers: map[string]*loadBalancer{}, targetGroups: map[string]*targetGroup{}, listeners: map[string]*listener{}}
	n.filter.apply = func() error { return (*Namespace)(nil).nft(n.filterScript()) }
	n.nat.apply = func() error { return n.Internet.nft(n.natScript()) }
	n.DNS = newDNS(n)
	if err := n.newInternet(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if err := errors.Join(n.filter.now(), n.nat.now(), n.serve()); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Resolver is the VPC's DNS server: the base of its range plus two (VPC User Guide, Amazon DNS server).
func (n *Network) Resolver() netip.Addr { return n.vpc.Addr().Next().Next() }

func (n *Network) newInternet() (err error) {
	var vpc *Namespace
	if n.Internet, err = NewNamespace("internet"); err != nil {
		return err
	}
	return errors.Join(
		vpc.sysctl("ip_forward=1", "conf/all/rp_filter=0", "conf/all/send_redirects=0", "conf/default/send_redirects=0"),
		vpc.ip("link set lo up",
			"addr replace "+n.Resolver().String()+"/32 dev lo",
			"link add igw type veth peer name vpc netns "+n.Internet.Path(),
			fmt.Sprintf("addr add %s peer %s dev igw", transitLab, transitFar),
			"link set igw up",
			fmt.Sprintf("route add default via %s dev igw", transitFar)),
		n.Internet.ip(fmt.Sprintf("addr add %s peer %s dev vpc", transitFar, transitLab), "link set vpc up",
			fmt.Sprintf("route add %s via %s dev vpc", n.vpc, transitLab),
			// An answer of this namespace's own services finds its way only after its address was translated back.
			fmt.Sprintf("route add 198.18.0.0/15 via %s dev vpc", transitLab)),
		n.Internet.sysctl("ip_forward=1"))
}

func (n *Network) serve() error {
	if err := n.ServeInternet(dnsPublic); err != nil {
		return err
	}
	if err := n.ServeInternet(stunPublic); err != nil {
		return err
	}
	return errors.Join(n.DNS.listen(nil, n.Resolver()), n.DNS.listen(n.Internet, dnsPublic), n.serveSTUN())
}

// ServeInternet gives the internet namespace an address, for a service of the caller.
func (n *Network) ServeInternet(address netip.Addr) error {
	return n.Internet.ip(fmt.Sprintf("addr replace %s/32 dev lo", address))
}

// PublicService finds an address of the internet that nothing else has, and gives it to the internet namespace.
func (n *Network) PublicService() (netip.Addr, error) {
	n.mu.Lock()
	address := n.newPublic()
	n.mu.Unlock()
	return address, n.ServeInternet(address)
}

// Close ends load balancers, servers, and what the current namespace got.
func (n *Network) Close() error {
	n.mu.Lock()
	balancers := slices.Collect(maps.Values(n.loadBalancers))
	closers := n.closers
	n.loadBalancers, n.closers = map[string]*loadBalancer{}, nil
	n.mu.Unlock()
	var failures []error
	for _, lb := range balancers {
		failures = append(failures, lb.stop())
	}
	for _, c := range closers {
		failures = append(failures, c())
	}
	var vpc *Namespace
	if _, err := net.InterfaceByName("igw"); err == nil {
		failures = append(failures, vpc.ip("link del igw"))
	}
	failures = append(failures, vpc.nft("table ip sg\ndelete table ip sg\n"))
	if n.Internet != nil {
		failures = append(failures, n.Internet.Close())
	}
	return errors.Join(failures...)
}

func (n *Network) onClose(f func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, f)
}

// applier brings the kernel to the state of the model. Changes that come together are applied together.
type applier struct {
	apply   func() error
	wanted  atomic.Int64
	mu      sync.Mutex
	applied int64
}

// now returns when everything that was changed before the call has taken effect.
func (a *applier) now() error {
	mine := a.wanted.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.applied >= mine {
		return nil
	}
	wanted := a.wanted.Load()
	if err := a.apply(); err != nil {
		return err
	}
	a.applied = wanted
	return nil
}

// AddSubnet to the VPC; its router is its first address.
func (n *Network) AddSubnet(s Subnet) error {
	if !n.vpc.Overlaps(s.Prefix) || s.Prefix.Bits() < n.vpc.Bits() {
		return fmt.Errorf("subnet %s: %s is not in %s", s.ID, s.Prefix, n.vpc)
	}
	n.mu.Lock()
	n.subnets[s.ID] = s
	n.mu.Unlock()
	var vpc *Namespace
	return errors.Join(vpc.ip(fmt.Sprintf("addr replace %s/32 dev lo", s.Prefix.Masked().Addr().Next())), n.nat.now())
}

// Subnet by its id.
func (n *Network) Subnet(id string) (Subnet, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.subnets[id]
	return s, ok
}

// AddInterface makes an address a member of its security groups, and gives it a public address if it asks for one. From here on
// its rules hold, whether or not anything is attached.
func (n *Network) AddInterface(i Interface) (public netip.Addr, err error) {
	n.mu.Lock()
	subnet, ok := n.subnets[i.Subnet]
	switch {
	case !ok:
		err = fmt.Errorf("interface %s: no subnet %s", i.Address, i.Subnet)
	case !subnet.Prefix.Contains(i.Address):
		err = fmt.Errorf("interface %s: not an address of %s, %s", i.Address, i.Subnet, subnet.Prefix)
	case n.interfaces[i.Address] != nil:
		err = fmt.Errorf("interface %s: another one of %s has the address", i.Address, n.interfaces[i.Address].Stack)
	}
	if err != nil {
		n.mu.Unlock()
		return netip.Addr{}, err
	}
	i.Groups = slices.Clone(i.Groups)
	i.public = netip.Addr{}
	if i.Public {
		i.public = n.newPublic()
	}
	n.interfaces[i.Address] = &i
	n.mu.Unlock()
	return i.public, n.changed()
}

// RemoveInterface takes the address out of its groups, and its public address away.
func (n *Network) RemoveInterface(address netip.Addr) error {
	n.mu.Lock()
	delete(n.interfaces, address)
	n.mu.Unlock()
	return n.changed()
}

// SetGroups of an interface.
func (n *Network) SetGroups(address netip.Addr, groups ...string) error {
	return n.withInterface(address, func(i *Interface) { i.Groups = slices.Clone(groups) })
}

// ReleasePublic takes the public address away, as EC2 does when an instance stops.
func (n *Network) ReleasePublic(address netip.Addr) error {
	return n.withInterface(address, func(i *Interface) { i.public = netip.Addr{} })
}

// AssignPublic gives a new public address, as EC2 does when a stopped instance starts.
func (n *Network) AssignPublic(address netip.Addr) (netip.Addr, error) {
	var public netip.Addr
	err := n.withInterface(address, func(i *Interface) {
		public = n.newPublic()
		i.public = public
	})
	return public, err
}

// PublicAddress of an interface; the zero address if it has none.
func (n *Network) PublicAddress(address netip.Addr) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := n.interfaces[address]; i != nil {
		return i.public
	}
	return netip.Addr{}
}

func (n *Network) withInterface(address netip.Addr, change func(*Interface)) error {
	n.mu.Lock()
	i := n.interfaces[address]
	if i != nil {
		change(i)
	}
	n.mu.Unlock()
	if i == nil {
		return fmt.Errorf("no interface %s", address)
	}
	return n.changed()
}

func (n *Network) changed() error { return errors.Join(n.filter.now(), n.nat.now()) }

// newPublic is an address that nothing ever had: what still speaks to a former owner finds nobody. Not of RFC 1918, since
// TURN servers refuse private peers.
func (n *Network) newPublic() netip.Addr {
	address := n.nextPublic
	n.nextPublic = address.Next()
	return address
}

// CutZone takes a zone of a stack off the network, as a failure of its power or its links does: nothing leaves or enters
// its interfaces, and nobody is told. It holds for interfaces that are added later, too.
func (n *Network) CutZone(stack, zone string) error { return n.setCut(stack, zone, true) }

// RestoreZone ends CutZone.
func (n *Network) RestoreZone(stack, zone string) error { return n.setCut(stack, zone, false) }

func (n *Network) setCut(stack, zone string, cut bool) error {
	n.mu.Lock()
	if cut {
		n.cut[[2]string{stack, zone}] = true
	} else {
		delete(n.cut, [2]string{stack, zone})
	}
	var balancers []*loadBalancer
	for _, lb := range n.loadBalancers {
		if lb.spec.Stack == stack {
			balancers = append(balancers, lb)
		}
	}
	n.mu.Unlock()
	failures := []error{n.filter.now()}
	for _, lb := range balancers {
		failures = append(failures, lb.route())
	}
	return errors.Join(failures...)
}

// isCut tells whether an interface's zone is. The caller holds mu.
func (n *Network) isCut(i *Interface) bool {
	return n.cut[[2]string{i.Stack, n.subnets[i.Subnet].Zone}]
}

// Attach makes the veth pair of an interface: one end with the address in the namespace, the other in the VPC, which routes
// to the address, answers for all others, and drops what comes from another address, as EC2's source check does. The
// namespace's default route goes through its first interface; what leaves from another one's address takes that one.
func (n *Network) Attach(ns *Namespace, device string, address netip.Addr) error {
	n.mu.Lock()
	i := n.interfaces[address]
	var gateway netip.Addr
	if i != nil {
		gateway = n.subnets[i.Subnet].Prefix.Masked().Addr().Next()
	}
	n.serial++
	outside, table := fmt.Sprint("n", n.serial), n.serial%1000+1000
	n.mu.Unlock()
	if i == nil {
		return fmt.Errorf("no interface %s", address)
	}
	var vpc *Namespace
	if err := vpc.ip(fmt.Sprintf("link add %s type veth peer name %s netns %s", outside, device, ns.Path()),
		"link set "+outside+" up",
		fmt.Sprintf("route replace %s/32 dev %s", address, outside)); err != nil {
		return err
	}
	if err := vpc.sysctl("conf/"+outside+"/proxy_arp=1", "conf/"+outside+"/rp_filter=1", "neigh/"+outside+"/proxy_delay=0"); err != nil {
		return err
	}
	if err := ns.ip(fmt.Sprintf("addr add %s/32 dev %s", address, device), "link set "+device+" up",
		fmt.Sprintf("route add %s dev %s table %d", gateway, device, table),
		fmt.Sprintf("route add default via %s dev %s table %d", gateway, device, table),
		fmt.Sprintf("rule add from %s lookup %d", address, table)); err != nil {
		return err
	}
	return ns.ip(fmt.Sprintf("route replace default via %s dev %s onlink src %s metric %d", gateway, device, address, table))
}

// text of a set's or map's elements; nft refuses empty ones.
func elements(list []string) string {
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	return "elements = { " + strings.Join(list, ", ") + " };"
}

// identifier for nft: letters, digits and underscores, different for different names.
func identifier(name string) string {
	var text strings.Builder
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			text.WriteByte(c)
		default:
			fmt.Fprintf(&text, "_%02x", c)
		}
	}
	return text.String()
}

func writeFile(name, content string) error { return os.WriteFile(name, []byte(content), 0o600) }

// Has tells whether an interface has the address.
func (n *Network) Has(address netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.interfaces[address] != nil
}

// RemoveStack ends all that a stack has: load balancers, target groups, interfaces, security groups.
func (n *Network) RemoveStack(stack string) error {
	n.mu.Lock()
	var balancers []string
	for id, lb := range n.loadBalancers {
		if lb.spec.Stack == stack {
			balancers = append(balancers, id)
		}
	}
	n.mu.Unlock()
	var failures []error
	for _, id := range balancers {
		failures = append(failures, n.DeleteLoadBalancer(id))
	}
	n.mu.Lock()
	maps.DeleteFunc(n.targetGroups, func(_ string, g *targetGroup) bool { return g.Stack == stack })
	maps.DeleteFunc(n.interfaces, func(_ netip.Addr, i *Interface) bool { return i.Stack == stack })
	maps.DeleteFunc(n.rules, func(_ string, r standaloneRule) bool {
		return n.groups[r.group] != nil && n.groups[r.group].Stack == stack
	})
	maps.DeleteFunc(n.groups, func(_ string, g *group) bool { return g.Stack == stack })
	maps.DeleteFunc(n.cut, func(key [2]string, _ bool) bool { return key[0] == stack })
	n.mu.Unlock()
	n.DNS.forget(stack)
	return errors.Join(append(failures, n.changed())...)
}
