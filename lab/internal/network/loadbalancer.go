package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// LoadBalancer is a Network Load Balancer.
type LoadBalancer struct {
	Stack string
	// Name in DNS.
	DNSName string
	// Addresses in the enabled subnets, one in each.
	Addresses map[string]netip.Addr
	Groups    []string
	// Internal load balancers have no public addresses.
	Internal  bool
	CrossZone bool
	// Scale of time for health checks and deregistration delays: a second lasts 1/Scale. Idle timeouts are not scaled, since
	// the keep-alives of those who are connected are not.
	Scale int
}

// Listener of a load balancer.
type Listener struct {
	LoadBalancer, TargetGroup string
	Port                      int
	// TLS terminates TLS with Certificate: certificate chain and key, as PEM.
	TLS         bool
	Certificate string
	IdleTimeout time.Duration
}

// TargetGroup of a Network Load Balancer, for protocol TCP.
type TargetGroup struct {
	Stack       string
	Port        int
	HealthCheck HealthCheck
	// TerminateUnhealthy ends the flows of a target that becomes unhealthy.
	TerminateUnhealthy bool
	// DeregistrationDelay is how long a target drains; TerminateDeregistered ends the flows that are left then.
	DeregistrationDelay   time.Duration
	TerminateDeregistered bool
	// CrossZone overrides the load balancer's; nil does not.
	CrossZone     *bool
	ProxyProtocol bool
}

// HealthCheck of a target group.
type HealthCheck struct {
	Protocol           string // TCP, HTTP or HTTPS
	Port               int    // 0: the target's own
	Path               string
	Matcher            string
	Interval, Timeout  time.Duration
	Healthy, Unhealthy int
}

// TargetState is what whoever registers targets wants of one.
type TargetState int

// The states of a target. Draining targets get no new flows and keep those that they have.
const (
	Gone TargetState = iota
	Registered
	Draining
)

// The states of a target's health, as DescribeTargetHealth tells them.
const (
	Initial    = "initial"
	Healthy    = "healthy"
	Unhealthy  = "unhealthy"
	DrainingOf = "draining"
	Unused     = "unused"
)

// slot is a server of HAProxy's configuration that a target has, had, or may have.
type slot struct {
	target netip.Addr
	port   int
	zone   string
	state  TargetState
	used   bool // it had a target before
	health string
	since  time.Time // of the registration
	killed bool      // its flows were ended since it became unhealthy
}

type targetGroup struct {
	TargetGroup
	id      string
	name    string // in HAProxy's configuration
	slots   []*slot
	failing bool // its health checks are made to fail
}

type listener struct {
	Listener
	id string
}

// slotsPerGroup is how many targets fit without a reload.
const slotsPerGroup = 8

// PutTargetGroup creates a target group, or changes its attributes.
func (n *Network) PutTargetGroup(id string, spec TargetGroup) error {
	n.mu.Lock()
	g := n.targetGroups[id]
	if g == nil {
		n.serial++
		g = &targetGroup{id: id, name: fmt.Sprint("g", n.serial)}
		n.targetGroups[id] = g
	}
	g.TargetGroup = spec
	lb := n.balancerOf(id)
	n.mu.Unlock()
	if lb == nil {
		return nil
	}
	return lb.reload.now()
}

// DeleteTargetGroup refuses one that a listener uses, as Elastic Load Balancing does.
func (n *Network) DeleteTargetGroup(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.balancerOf(id) != nil {
		return fmt.Errorf("ResourceInUse: Target group '%s' is currently in use by a listener or a rule", id)
	}
	delete(n.targetGroups, id)
	return nil
}

// balancerOf a target group; nil if no listener forwards to it. The caller holds mu.
func (n *Network) balancerOf(group string) *loadBalancer {
	for _, l := range n.listeners {
		if l.TargetGroup == group {
			return n.loadBalancers[l.LoadBalancer]
		}
	}
	return nil
}

// PutLoadBalancer creates a load balancer, with its namespace, addresses and names, or changes its attributes.
func (n *Network) PutLoadBalancer(id string, spec LoadBalancer) error {
	n.mu.Lock()
	lb := n.loadBalancers[id]
	n.mu.Unlock()
	if spec.Scale == 0 {
		spec.Scale = 1
	}
	if lb != nil {
		n.mu.Lock()
		old := lb.spec
		n.mu.Unlock()
		if !maps.Equal(old.Addresses, spec.Addresses) || old.Internal != spec.Internal {
			return fmt.Errorf("load balancer %s: the lab changes no subnets and no scheme", id)
		}
		if len(old.Groups) == 0 != (len(spec.Groups) == 0) {
			// Network Load Balancers User Guide, Security groups: none at creation means none ever.
			return fmt.Errorf("InvalidConfigurationRequest: security groups cannot be added to or removed from load balancer %s", id)
		}
		n.mu.Lock()
		lb.spec = spec
		n.mu.Unlock()
		var failures []error
		for _, address := range spec.Addresses {
			failures = append(failures, n.SetGroups(address, spec.Groups...))
		}
		return errors.Join(append(failures, lb.reload.now())...)
	}
	lb, err := n.newLoadBalancer(id, spec)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.loadBalancers[id] = lb
	n.mu.Unlock()
	n.DNS.SetFunc("", spec.DNSName, func() []netip.Addr { return lb.resolve() })
	return nil
}

// DeleteLoadBalancer ends it, with all flows; its listeners go with it.
func (n *Network) DeleteLoadBalancer(id string) error {
	n.mu.Lock()
	lb := n.loadBalancers[id]
	delete(n.loadBalancers, id)
	for name, l := range n.listeners {
		if l.LoadBalancer == id {
			delete(n.listeners, name)
		}
	}
	n.mu.Unlock()
	if lb == nil {
		return nil
	}
	n.DNS.Set("", lb.spec.DNSName)
	failures := []error{lb.stop()}
	for _, address := range lb.spec.Addresses {
		failures = append(failures, n.RemoveInterface(address))
	}
	return errors.Join(failures...)
}

// PutListener adds a listener, or changes its port, certificate or target group. Established flows stay where they are
// (Network Load Balancers User Guide, Update a listener).
func (n *Network) PutListener(id string, spec Listener) error {
	n.mu.Lock()
	lb, g := n.loadBalancers[spec.LoadBalancer], n.targetGroups[spec.TargetGroup]
	var err error
	switch other := n.balancerOf(spec.TargetGroup); {
	case lb == nil:
		err = fmt.Errorf("LoadBalancerNotFound: %s", spec.LoadBalancer)
	case g == nil:
		err = fmt.Errorf("TargetGroupNotFound: %s", spec.TargetGroup)
	case other != nil && other != lb:
		err = fmt.Errorf("TargetGroupAssociationLimit: %s is used by another load balancer", spec.TargetGroup)
	case spec.TLS && spec.Certificate == "":
		err = fmt.Errorf("CertificateNotFound: listener %s", id)
	}
	if err == nil {
		for name, l := range n.listeners {
			if name != id && l.LoadBalancer == spec.LoadBalancer && l.Port == spec.Port {
				err = fmt.Errorf("DuplicateListener: a listener already exists on port %d", spec.Port)
			}
		}
	}
	if err != nil {
		n.mu.Unlock()
		return err
	}
	if spec.IdleTimeout == 0 {
		spec.IdleTimeout = 350 * time.Second
	}
	n.listeners[id] = &listener{spec, id}
	n.mu.Unlock()
	return lb.reload.now()
}

// DeleteListener accepts no new connections from here on. "Existing connections remain open until they naturally close or
// time out" (Network Load Balancers User Guide, Delete a listener).
func (n *Network) DeleteListener(id string) error {
	n.mu.Lock()
	l := n.listeners[id]
	delete(n.listeners, id)
	var lb *loadBalancer
	if l != nil {
		lb = n.loadBalancers[l.LoadBalancer]
	}
	n.mu.Unlock()
	if lb == nil {
		return nil
	}
	return lb.reload.now()
}

// SetTarget registers a target with a target group, lets it drain, or takes it away. A port of 0 is the target group's.
//
// A registered target gets flows when it has passed its first health check. Draining ends with the change to Gone, which is
// the caller's to time (see Deregister): then flows that are left end if the target group says so, else they live on.
func (n *Network) SetTarget(targetGroup string, target netip.Addr, port int, state TargetState) error {
	n.mu.Lock()
	g := n.targetGroups[targetGroup]
	if g == nil {
		n.mu.Unlock()
		return fmt.Errorf("TargetGroupNotFound: %s", targetGroup)
	}
	if port == 0 {
		port = g.Port
	}
	lb := n.balancerOf(targetGroup)
	i := n.interfaces[target]
	if i == nil && state == Registered {
		n.mu.Unlock()
		return fmt.Errorf("InvalidTarget: no interface %s", target)
	}
	n.mu.Unlock()
	if lb == nil {
		// Nothing routes to it yet: only the book is kept.
		n.mu.Lock()
		defer n.mu.Unlock()
		_, err := g.set(n, target, port, state, func(*slot) bool { return true })
		return err
	}
	return lb.setTarget(g, target, port, state)
}

// set changes the book. It gives the slot, nil if there was nothing to do. The caller holds mu.
func (g *targetGroup) set(n *Network, target netip.Addr, port int, state TargetState, reusable func(*slot) bool) (*slot, error) {
	for _, s := range g.slots {
		if s.state != Gone && s.target == target && s.port == port {
			if s.state == state {
				return nil, nil
			}
			s.state = state
			if state == Registered {
				s.health, s.since, s.killed = Initial, time.Now(), false
			}
			return s, nil
		}
	}
	switch state {
	case Gone:
		return nil, nil // as DeregisterTargets has it: "If the specified target does not exist, the action returns successfully"
	case Draining:
		return nil, fmt.Errorf("InvalidTarget: %s is not registered with %s", target, g.id)
	}
	var free *slot
	for _, s := range g.slots {
		if s.state == Gone && (!s.used || reusable(s)) {
			free = s
			break
		}
	}
	if free == nil {
		free = &slot{}
		g.slots = append(g.slots, free)
	}
	*free = slot{target: target, port: port, zone: n.subnets[n.interfaces[target].Subnet].Zone, state: Registered, used: true,
		health: Initial, since: time.Now()}
	return free, nil
}

// DeregistrationDelay of a target group in the time of its load balancer.
func (n *Network) DeregistrationDelay(targetGroup string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	g, lb := n.targetGroups[targetGroup], n.balancerOf(targetGroup)
	if g == nil || lb == nil {
		return 0
	}
	return g.DeregistrationDelay / time.Duration(lb.spec.Scale)
}

// Deregister lets a target drain for the whole deregistration delay, then takes it away. A Network Load Balancer waits that
// long even if nothing is left (EC2 Auto Scaling waits for it before Terminating:Wait).
func (n *Network) Deregister(ctx context.Context, targetGroup string, target netip.Addr, port int) error {
	if n.Health(targetGroup, target) == Unused {
		return n.SetTarget(targetGroup, target, port, Gone)
	}
	if err := n.SetTarget(targetGroup, target, port, Draining); err != nil {
		return err
	}
	select {
	case <-time.After(n.DeregistrationDelay(targetGroup)):
	case <-ctx.Done():
		return ctx.Err()
	}
	return n.SetTarget(targetGroup, target, port, Gone)
}

// Health of a target, as DescribeTargetHealth tells it.
func (n *Network) Health(targetGroup string, target netip.Addr) string {
	n.mu.Lock()
	lb := n.balancerOf(targetGroup)
	n.mu.Unlock()
	if lb == nil {
		return Unused
	}
	_ = lb.refresh() // what was known last still holds
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.targetGroups[targetGroup]; g != nil {
		for _, s := range g.slots {
			switch {
			case s.target != target || s.state == Gone:
			case s.state == Draining:
				return DrainingOf
			default:
				return s.health
			}
		}
	}
	return Unused
}

// FailHealthChecks makes the health checks of a target group fail, or lets them go on.
func (n *Network) FailHealthChecks(targetGroup string, fail bool) error {
	n.mu.Lock()
	g, lb := n.targetGroups[targetGroup], n.balancerOf(targetGroup)
	if g == nil || lb == nil {
		n.mu.Unlock()
		return fmt.Errorf("no load balancer checks %s", targetGroup)
	}
	g.failing = fail
	n.mu.Unlock()
	return lb.applyFailing(g)
}

// crossZone of a target group.
func (g *targetGroup) crossZone(lb LoadBalancer) bool {
	if g.CrossZone != nil {
		return *g.CrossZone
	}
	return lb.CrossZone
}

// healthy tells how many targets are, in a zone ("" stands for all). The caller holds mu.
func (g *targetGroup) healthy(zone string) (count int) {
	for _, s := range g.slots {
		if s.state == Registered && s.health == Healthy && (zone == "" || s.zone == zone) {
			count++
		}
	}
	return count
}

// resolve gives the addresses of the load balancer's name. "If one or more target groups does not have a healthy target in an
// enabled Availability Zone, we remove the IP address for the corresponding subnet from DNS"; if that leaves none, all are
// given (Network Load Balancers User Guide, Health checks for target groups). With cross-zone load balancing the targets of all
// zones count for each (Target group health). A zone that is cut off is not given as long as there is another.
func (lb *loadBalancer) resolve() []netip.Addr {
	_ = lb.refresh() // what was known last still holds
	n := lb.network
	n.mu.Lock()
	defer n.mu.Unlock()
	var all, up, healthy []netip.Addr
	for _, subnet := range sortedStrings(lb.spec.Addresses) {
		i := n.interfaces[lb.spec.Addresses[subnet]]
		address := i.Address
		if !lb.spec.Internal {
			address = i.public
		}
		all = append(all, address)
		if n.isCut(i) {
			continue
		}
		up = append(up, address)
		well := true
		for _, g := range lb.groups() {
			zone := n.subnets[subnet].Zone
			if g.crossZone(lb.spec) {
				zone = ""
			}
			well = well && g.healthy(zone) > 0
		}
		if well {
			healthy = append(healthy, address)
		}
	}
	for _, addresses := range [][]netip.Addr{healthy, up} {
		if len(addresses) > 0 {
			return addresses
		}
	}
	return all
}

// groups that the load balancer's listeners forward to, in the order of their names. The caller holds mu.
func (lb *loadBalancer) groups() []*targetGroup {
	var out []*targetGroup
	for _, l := range lb.network.listeners {
		if l.LoadBalancer == lb.id && !slices.Contains(out, lb.network.targetGroups[l.TargetGroup]) {
			out = append(out, lb.network.targetGroups[l.TargetGroup])
		}
	}
	slices.SortFunc(out, func(a, b *targetGroup) int { return strings.Compare(a.name, b.name) })
	return out
}

// ParseLoadBalancer reads the properties of an AWS::ElasticLoadBalancingV2::LoadBalancer. Addresses, name and scale are the
// caller's to fill in.
func ParseLoadBalancer(stack string, properties map[string]any) (spec LoadBalancer, subnets []string, err error) {
	spec = LoadBalancer{Stack: stack}
	var failures []error
	fail := func(format string, arguments ...any) { failures = append(failures, fmt.Errorf(format, arguments...)) }
	for key, value := range properties {
		switch key {
		case "Type":
			if value != "network" {
				fail("the lab knows no load balancer of type %v", value)
			}
		case "Scheme":
			spec.Internal = value == "internal"
		case "Subnets":
			subnets = texts(value)
		case "SecurityGroups":
			spec.Groups = texts(value)
		case "IpAddressType": // the lab's network is IPv4
		case "LoadBalancerAttributes":
			for name, value := range attributes(value) {
				switch {
				case name == "load_balancing.cross_zone.enabled":
					spec.CrossZone = value == "true"
				case name == "deletion_protection.enabled", strings.HasPrefix(name, "access_logs."):
				default:
					fail("the lab knows no attribute %s of a load balancer", name)
				}
			}
		case "Name", "Tags":
		default:
			fail("the lab knows no %s of a load balancer", key)
		}
	}
	if properties["Type"] == nil {
		fail("the lab knows no load balancer of type application")
	}
	return spec, subnets, errors.Join(failures...)
}

// ParseListener reads the properties of an AWS::ElasticLoadBalancingV2::Listener. The certificate is the caller's to find by its ARN.
func ParseListener(properties map[string]any) (spec Listener, certificate string, err error) {
	var failures []error
	fail := func(format string, arguments ...any) { failures = append(failures, fmt.Errorf(format, arguments...)) }
	for key, value := range properties {
		switch key {
		case "LoadBalancerArn":
			spec.LoadBalancer = text(value)
		case "Port":
			spec.Port, err = strconv.Atoi(text(value))
			failures = append(failures, err)
		case "Protocol":
			if spec.TLS = value == "TLS"; value != "TLS" && value != "TCP" {
				fail("the lab knows no listener of protocol %v", value)
			}
		case "Certificates":
			if given := list(value); len(given) == 1 {
				certificate = text(given[0]["CertificateArn"])
			} else {
				fail("ValidationError: up to one certificate can be specified, not %d", len(given))
			}
		case "DefaultActions":
			actions := list(value)
			if len(actions) != 1 || actions[0]["Type"] != "forward" || actions[0]["TargetGroupArn"] == nil {
				fail("the lab knows no action like %v", value)
				continue
			}
			spec.TargetGroup = text(actions[0]["TargetGroupArn"])
		case "ListenerAttributes":
			for name, value := range attributes(value) {
				seconds, err := strconv.Atoi(value)
				if name != "tcp.idle_timeout.seconds" || err != nil {
					fail("the lab knows no attribute %s=%s of a listener", name, value)
				}
				spec.IdleTimeout = time.Duration(seconds) * time.Second
			}
		case "SslPolicy": // which ciphers a client may use is not the lab's subject
		default:
			fail("the lab knows no %s of a listener", key)
		}
	}
	if spec.TLS && certificate == "" {
		fail("ValidationError: a certificate must be specified for TLS listeners")
	}
	if spec.TLS && spec.IdleTimeout != 0 {
		fail("InvalidConfigurationRequest: the idle timeout of a TLS listener cannot be changed")
	}
	return spec, certificate, errors.Join(failures...)
}

var matcher = regexp.MustCompile(`^[2345][0-9]{2}([,-][2345][0-9]{2})*$`)

// ParseTargetGroup reads the properties of an AWS::ElasticLoadBalancingV2::TargetGroup of a Network Load Balancer. Defaults are those
// of the Elastic Load Balancing API Reference, CreateTargetGroup and TargetGroupAttribute.
func ParseTargetGroup(stack string, properties map[string]any) (TargetGroup, error) {
	spec := TargetGroup{Stack: stack, DeregistrationDelay: 300 * time.Second, TerminateUnhealthy: true,
		HealthCheck: HealthCheck{Protocol: "TCP", Path: "/", Matcher: "200-399", Interval: 30 * time.Second, Healthy: 5, Unhealthy: 2}}
	var failures []error
	fail := func(format string, arguments ...any) { failures = append(failures, fmt.Errorf(format, arguments...)) }
	whole := func(value any, least, most int) int {
		number, err := strconv.Atoi(text(value))
		if err != nil || number < least || number > most {
			fail("ValidationError: %v is not between %d and %d", value, least, most)
		}
		return number
	}
	seconds := func(value any, least, most int) time.Duration {
		return time.Duration(whole(value, least, most)) * time.Second
	}
	check := &spec.HealthCheck
	for key, value := range properties {
		switch key {
		case "Port":
			spec.Port = whole(value, 1, 65535)
		case "Protocol":
			if value != "TCP" {
				fail("the lab knows no target group of protocol %v", value)
			}
		case "TargetType":
			if value != "instance" && value != "ip" {
				fail("the lab knows no targets of type %v", value)
			}
		case "HealthCheckProtocol":
			check.Protocol = text(value)
			if !slices.Contains([]string{"TCP", "HTTP", "HTTPS"}, check.Protocol) {
				fail("ValidationError: health check protocol %v", value)
			}
		case "HealthCheckPort":
			if value != "traffic-port" {
				check.Port = whole(value, 1, 65535)
			}
		case "HealthCheckPath":
			if check.Path = text(value); !strings.HasPrefix(check.Path, "/") || strings.ContainsAny(check.Path, " \t\n\"'\\#") {
				fail("ValidationError: health check path %q", check.Path)
			}
		case "HealthCheckIntervalSeconds":
			check.Interval = seconds(value, 5, 300)
		case "HealthCheckTimeoutSeconds":
			check.Timeout = seconds(value, 2, 120)
		case "HealthyThresholdCount":
			check.Healthy = whole(value, 2, 10)
		case "UnhealthyThresholdCount":
			check.Unhealthy = whole(value, 2, 10)
		case "Matcher":
			object, _ := value.(map[string]any)
			if check.Matcher = text(object["HttpCode"]); !matcher.MatchString(check.Matcher) {
				fail("ValidationError: health check codes %q", check.Matcher)
			}
		case "TargetGroupAttributes":
			for name, value := range attributes(value) {
				on := value == "true"
				switch name {
				case "deregistration_delay.timeout_seconds":
					spec.DeregistrationDelay = seconds(value, 0, 3600)
				case "deregistration_delay.connection_termination.enabled":
					spec.TerminateDeregistered = on
				case "target_health_state.unhealthy.connection_termination.enabled":
					spec.TerminateUnhealthy = on
				case "load_balancing.cross_zone.enabled":
					if value != "use_load_balancer_configuration" {
						spec.CrossZone = &on
					}
				case "proxy_protocol_v2.enabled":
					spec.ProxyProtocol = on
				case "preserve_client_ip.enabled": // a target sees the load balancer's own address: see docs/lab.md
				default:
					fail("the lab knows no attribute %s of a target group", name)
				}
			}
		case "Name", "Tags", "VpcId", "HealthCheckEnabled":
		default:
			fail("the lab knows no %s of a target group", key)
		}
	}
	if check.Timeout == 0 {
		check.Timeout = 10 * time.Second
		if check.Protocol == "HTTP" {
			check.Timeout = 6 * time.Second
		}
	}
	return spec, errors.Join(failures...)
}

func texts(value any) (out []string) {
	elements, _ := value.([]any)
	for _, element := range elements {
		out = append(out, text(element))
	}
	return out
}

func attributes(value any) map[string]string {
	out := map[string]string{}
	for _, attribute := range list(value) {
		out[text(attribute["Key"])] = text(attribute["Value"])
	}
	return out
}
