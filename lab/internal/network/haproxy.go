package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// loadBalancer is a namespace with an address for each zone, and HAProxy in it from the first listener on.
//
// Its configuration has, for each target group, a backend that only checks health, and for each zone a backend whose servers
// follow it, and one for when it fails open. Their servers are slots, filled at run time; what the runtime API cannot
// change is a reload: the former worker keeps its flows until they end.
type loadBalancer struct {
	network *Network
	id      string
	dir     string
	spec    LoadBalancer // under the network's mu
	ns      *Namespace
	reload  applier
	log     *net.UnixConn

	use     sync.Mutex // of what follows, and of HAProxy
	process *exec.Cmd
	ended   chan struct{}
	slots   map[string]int    // of each group in the configuration, by its name
	zones   map[string]string // names of backends' zones: their subnets
	stopped bool
}

func (n *Network) newLoadBalancer(id string, spec LoadBalancer) (*loadBalancer, error) {
	n.mu.Lock()
	n.serial++
	lb := &loadBalancer{network: n, id: id, dir: filepath.Join(n.dir, fmt.Sprint("lb", n.serial)), spec: spec}
	n.mu.Unlock()
	lb.reload.apply = lb.configure
	if err := os.MkdirAll(lb.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if lb.ns, err = NewNamespace(id); err != nil {
		return nil, err
	}
	for number, subnet := range sortedStrings(spec.Addresses) {
		address := spec.Addresses[subnet]
		if _, err = n.AddInterface(Interface{Address: address, Stack: spec.Stack, Subnet: subnet, Groups: spec.Groups, Public: !spec.Internal}); err != nil {
			break
		}
		if err = n.Attach(lb.ns, fmt.Sprint("zone", number), address); err != nil {
			break
		}
	}
	if err == nil {
		lb.log, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(lb.dir, "log"), Net: "unixgram"})
	}
	if err == nil {
		err = lb.route()
	}
	if err != nil {
		return nil, errors.Join(err, lb.stop())
	}
	go lb.watch()
	return lb, nil
}

// watch looks at the targets' health when HAProxy tells of a change.
func (lb *loadBalancer) watch() {
	buffer := make([]byte, 4096)
	for {
		// Which first check a target fails, no line tells: see review.
		if lb.log.SetReadDeadline(time.Now().Add(500*time.Millisecond)) != nil {
			return
		}
		_, err := lb.log.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if !lb.pending() {
				continue
			}
		} else if err != nil {
			return // closed
		}
		_ = lb.refresh() // the next line, or who asks, tries again
	}
}

// pending tells whether a target waits for its first check.
func (lb *loadBalancer) pending() bool {
	lb.network.mu.Lock()
	defer lb.network.mu.Unlock()
	for _, g := range lb.groups() {
		for _, s := range g.slots {
			if s.state == Registered && s.health == Initial {
				return true
			}
		}
	}
	return false
}

func (lb *loadBalancer) stop() error {
	lb.use.Lock()
	lb.stopped = true
	process, ended := lb.process, lb.ended
	lb.process = nil
	lb.use.Unlock()
	var failures []error
	if lb.log != nil {
		failures = append(failures, lb.log.Close())
	}
	if process != nil {
		failures = append(failures, process.Process.Signal(os.Interrupt))
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			failures = append(failures, process.Process.Kill())
			<-ended
		}
	}
	return errors.Join(append(failures, lb.ns.Close(), os.RemoveAll(lb.dir))...)
}

// route lets health checks start from a zone that is not cut off.
func (lb *loadBalancer) route() error {
	n := lb.network
	n.mu.Lock()
	device, address, gateway := "", netip.Addr{}, netip.Addr{}
	for number, subnet := range sortedStrings(lb.spec.Addresses) {
		i := n.interfaces[lb.spec.Addresses[subnet]]
		if device == "" || !n.isCut(i) {
			device, address, gateway = fmt.Sprint("zone", number), i.Address, n.subnets[subnet].Prefix.Masked().Addr().Next()
			if !n.isCut(i) {
				break
			}
		}
	}
	n.mu.Unlock()
	return lb.ns.ip(fmt.Sprintf("route replace default via %s dev %s onlink src %s metric 1", gateway, device, address))
}

// scaled time of the load balancer.
func (lb *loadBalancer) scaled(duration time.Duration, least time.Duration) time.Duration {
	return max(duration/time.Duration(lb.spec.Scale), least)
}

func milliseconds(duration time.Duration) string { return fmt.Sprint(duration.Milliseconds(), "ms") }

// The least times, whatever the scale: waiting is scaled, what a busy machine needs for an answer is not.
const (
	leastInterval = 500 * time.Millisecond
	leastTimeout  = 2 * time.Second
)

// configuration of HAProxy, and the files of its certificates. The caller holds use.
func (lb *loadBalancer) configuration() (config string, certificates map[string]string) {
	n := lb.network
	n.mu.Lock()
	defer n.mu.Unlock()
	lb.slots, lb.zones, certificates = map[string]int{}, map[string]string{}, map[string]string{}
	var text strings.Builder
	fmt.Fprintf(&text, `global
  log %[1]s/log len 1024 format raw local0
  server-state-file %[1]s/state
  nbthread 1
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode tcp
  log global
  option log-health-checks
  retries 0
  timeout connect 10s
  timeout client 350s
  timeout server 350s
  load-server-state-from-file global
# HAProxy does not start without one.
frontend none
  no log
  bind unix@%[1]s/none mode 600
  tcp-request connection reject
`, lb.dir)
	idle := map[string]time.Duration{}
	for _, id := range sortedStrings(n.listeners) {
		l := n.listeners[id]
		if l.LoadBalancer != lb.id {
			continue
		}
		g := n.targetGroups[l.TargetGroup]
		idle[g.name] = max(idle[g.name], l.IdleTimeout)
		tls := ""
		if l.TLS {
			name := filepath.Join(lb.dir, fmt.Sprint("port", l.Port, ".pem"))
			certificates[name] = l.Certificate
			tls = " ssl crt " + name
		}
		for number, subnet := range sortedStrings(lb.spec.Addresses) {
			fmt.Fprintf(&text, `frontend port%[1]d_zone%[2]d
  no log
  timeout client %[3]s
  bind %[4]s:%[1]d%[5]s
  use_backend %[6]s_open%[2]d if { nbsrv(%[6]s_zone%[2]d) eq 0 }
  default_backend %[6]s_zone%[2]d
`, l.Port, number, milliseconds(l.IdleTimeout), lb.spec.Addresses[subnet], tls, g.name)
		}
	}
	for _, g := range lb.groups() {
		count := slotsPerGroup
		for count < len(g.slots) {
			count *= 2
		}
		lb.slots[g.name] = count
		check := g.HealthCheck
		fmt.Fprintf(&text, "backend %s\n  timeout check %s\n", g.name, milliseconds(lb.scaled(check.Timeout, leastTimeout)))
		options := fmt.Sprintf("check inter %s fall %d rise %d", milliseconds(lb.scaled(check.Interval, leastInterval)), check.Unhealthy, check.Healthy)
		if check.Protocol != "TCP" {
			fmt.Fprintf(&text, "  option httpchk\n  http-check send meth GET uri %s ver HTTP/1.1 hdr Host %s hdr User-Agent ELB-HealthChecker/2.0 hdr Connection close\n  http-check expect status %s\n",
				check.Path, lb.spec.DNSName, check.Matcher)
		}
		if check.Protocol == "HTTPS" {
			options += " check-ssl verify none"
		}
		for number := range count {
			target, state := "127.0.0.1:1", " disabled"
			port := 1
			if number < len(g.slots) && g.slots[number].state != Gone {
				s := g.slots[number]
				target, state, port = fmt.Sprintf("%s:%d", s.target, s.port), "", g.checkPort(s)
			}
			fmt.Fprintf(&text, "  server s%d %s %s port %d%s\n", number, target, options, port, state)
		}
		proxy := ""
		if g.ProxyProtocol {
			proxy = " send-proxy-v2"
		}
		for zone, subnet := range sortedStrings(lb.spec.Addresses) {
			name := fmt.Sprintf("%s_zone%d", g.name, zone)
			lb.zones[name] = n.subnets[subnet].Zone
			for _, kind := range []string{"zone", "open"} {
				fmt.Fprintf(&text, "backend %s_%s%d\n  balance random(1)\n  source %s\n  timeout server %s\n", g.name, kind, zone, lb.spec.Addresses[subnet], milliseconds(idle[g.name]))
				for number := range count {
					target, state := "127.0.0.1:1", " disabled"
					if number < len(g.slots) {
						s := g.slots[number]
						if s.state != Gone {
							target = fmt.Sprintf("%s:%d", s.target, s.port)
						}
						switch {
						case s.state == Draining:
							state = " weight 0"
						case lb.routes(g, s, n.subnets[subnet].Zone, kind == "open"):
							state = ""
						}
					}
					track := " track " + g.name + "/s" + strconv.Itoa(number)
					if kind == "open" {
						track = ""
					}
					fmt.Fprintf(&text, "  server s%d %s%s%s%s\n", number, target, track, proxy, state)
				}
			}
		}
	}
	return text.String(), certificates
}

// routes tells whether a zone's address may choose a registered target. The caller holds the network's mu.
func (lb *loadBalancer) routes(g *targetGroup, s *slot, zone string, open bool) bool {
	return s.state == Registered && (open || s.health != Initial) && (g.crossZone(lb.spec) || s.zone == zone)
}

func (g *targetGroup) checkPort(s *slot) int {
	if g.HealthCheck.Port != 0 {
		return g.HealthCheck.Port
	}
	return s.port
}

// configure starts HAProxy, or reloads it.
func (lb *loadBalancer) configure() error {
	lb.use.Lock()
	defer lb.use.Unlock()
	if lb.stopped {
		return nil
	}
	if lb.process == nil {
		lb.network.mu.Lock()
		idle := len(lb.groups()) == 0
		lb.network.mu.Unlock()
		if idle {
			return nil
		}
	}
	var before []string
	state := ""
	if lb.process != nil {
		// Health, as it stands, goes over to the new worker.
		var err error
		if before, _, err = lb.workers(); err != nil {
			return err
		}
		if state, err = lb.ask("show servers state"); err != nil {
			return err
		}
	}
	config, certificates := lb.configuration()
	files := map[string]string{"haproxy.cfg": config, "state": strings.TrimLeft(state, "\n")}
	for name, content := range files {
		if err := writeFile(filepath.Join(lb.dir, name), content); err != nil {
			return err
		}
	}
	for name, content := range certificates {
		if err := writeFile(name, content); err != nil {
			return err
		}
	}
	if output, err := lb.ns.Command("haproxy", "-c", "-q", "-f", filepath.Join(lb.dir, "haproxy.cfg")).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s\n%s", lb.id, err, output, config)
	}
	if lb.process == nil {
		process := lb.ns.Command("haproxy", "-W", "-db", "-S", filepath.Join(lb.dir, "master"), "-f", filepath.Join(lb.dir, "haproxy.cfg"))
		output, err := os.Create(filepath.Join(lb.dir, "output"))
		if err != nil {
			return err
		}
		defer output.Close()
		process.Stdout, process.Stderr = output, output
		if err := process.Start(); err != nil {
			return err
		}
		lb.process, lb.ended = process, make(chan struct{})
		go func() {
			_ = process.Wait() // how it ended, its output tells
			close(lb.ended)
		}()
	} else if _, err := lb.command("reload"); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		current, _, err := lb.workers()
		if err == nil && len(current) == 1 && (len(before) == 0 || current[0] != before[0]) {
			if _, err = lb.command("@!" + current[0] + " show info"); err == nil {
				break
			}
		}
		select {
		case <-lb.ended:
			return fmt.Errorf("%s: HAProxy ended: %s", lb.id, lb.output())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: no new worker: %w %s", lb.id, err, lb.output())
		}
	}
	lb.network.mu.Lock()
	groups := lb.groups()
	lb.network.mu.Unlock()
	var failures []error
	for _, g := range groups {
		failures = append(failures, lb.resumeChecks(g))
	}
	return errors.Join(failures...)
}

// output of HAProxy, for messages.
func (lb *loadBalancer) output() string {
	content, _ := os.ReadFile(filepath.Join(lb.dir, "output"))
	return string(content)
}

// resumeChecks makes the first checks of targets count in a new worker, too. All else its state file tells, even which checks
// are made to fail.
func (lb *loadBalancer) resumeChecks(g *targetGroup) error {
	lb.network.mu.Lock()
	var commands []string
	for number, s := range g.slots {
		// What came after this configuration waits for the next one.
		if number < lb.slots[g.name] && s.state == Registered && s.health == Initial {
			commands = append(commands, fmt.Sprintf("set server %s/s%d health down", g.name, number))
			if g.failing {
				commands = append(commands, fmt.Sprintf("disable health %s/s%d", g.name, number))
			}
		}
	}
	lb.network.mu.Unlock()
	_, err := lb.ask(commands...)
	return err
}

// command asks the master process, by its socket.
func (lb *loadBalancer) command(line string) (string, error) {
	connection, err := net.DialTimeout("unix", filepath.Join(lb.dir, "master"), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = connection.Close() }()
	if err = connection.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err = io.WriteString(connection, line+";quit\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(connection)
	return string(answer), err
}

// workers by their process ids: the current one, and those that only keep flows.
func (lb *loadBalancer) workers() (current, old []string, err error) {
	answer, err := lb.command("show proc")
	if err != nil {
		return nil, nil, err
	}
	section := ""
	for _, line := range strings.Split(answer, "\n") {
		if strings.HasPrefix(line, "#") {
			section = strings.TrimSpace(line)
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != "worker" {
			continue
		}
		if section == "# workers" {
			current = append(current, fields[0])
		} else {
			old = append(old, fields[0])
		}
	}
	return current, old, nil
}

// ask gives commands to the current worker, one after the other.
func (lb *loadBalancer) ask(commands ...string) (string, error) {
	if len(commands) == 0 {
		return "", nil
	}
	current, _, err := lb.workers()
	if err != nil {
		return "", err
	}
	if len(current) != 1 {
		return "", fmt.Errorf("%s: %d workers: %s", lb.id, len(current), lb.output())
	}
	return lb.tell(current[0], commands...)
}

func (lb *loadBalancer) tell(worker string, commands ...string) (string, error) {
	var all strings.Builder
	for _, command := range commands {
		answer, err := lb.command("@!" + worker + " " + command)
		if err != nil {
			return "", fmt.Errorf("%s: %s: %w", lb.id, command, err)
		}
		// What changes something answers nothing, or what it did.
		if !strings.HasPrefix(command, "show ") {
			for _, word := range []string{"No such", "Unknown", "rror", "nvalid", "not enabled", "Can't", "can't", "refused", "Require"} {
				if strings.Contains(answer, word) {
					return "", fmt.Errorf("%s: %s: %s", lb.id, command, strings.TrimSpace(answer))
				}
			}
		}
		all.WriteString(answer)
	}
	return all.String(), nil
}

// setTarget changes slots at run time. No flow ends, but for those that the target group wants ended.
func (lb *loadBalancer) setTarget(g *targetGroup, target netip.Addr, port int, state TargetState) error {
	lb.use.Lock()
	if lb.process == nil {
		lb.use.Unlock()
		return fmt.Errorf("load balancer %s does not run", lb.id)
	}
	busy, err := lb.flows()
	if err != nil {
		lb.use.Unlock()
		return err
	}
	n := lb.network
	n.mu.Lock()
	// A slot whose former target still has flows is not another one's: those would end with it.
	numbers := map[*slot]int{}
	for number, s := range g.slots {
		numbers[s] = number
	}
	s, err := g.set(n, target, port, state, func(s *slot) bool {
		return len(busy[fmt.Sprintf("%s/s%d", g.name, numbers[s])]) == 0
	})
	fits := len(g.slots) <= lb.slots[g.name]
	n.mu.Unlock()
	if err == nil && s != nil && fits {
		err = lb.fill(g, s)
	}
	lb.use.Unlock()
	if err != nil || s == nil {
		return err
	}
	if !fits {
		return lb.reload.now()
	}
	return nil
}

// fill brings a slot to what the book says. The caller holds use.
func (lb *loadBalancer) fill(g *targetGroup, s *slot) error {
	n := lb.network
	n.mu.Lock()
	number := 0
	for g.slots[number] != s {
		number++
	}
	server := "/s" + strconv.Itoa(number)
	var commands []string
	each := func(do func(backend, zone string, open bool)) {
		for _, backend := range sortedStrings(lb.zones) {
			group, _, _ := strings.Cut(backend, "_")
			if group == g.name {
				do(backend, lb.zones[backend], false)
				do(strings.Replace(backend, "_zone", "_open", 1), lb.zones[backend], true)
			}
		}
	}
	add := func(format string, arguments ...any) { commands = append(commands, fmt.Sprintf(format, arguments...)) }
	switch s.state {
	case Registered:
		each(func(backend, _ string, _ bool) {
			add("set server %s%s addr %s port %d", backend, server, s.target, s.port)
			add("set server %s%s state maint", backend, server)
			add("set server %s%s weight 100%%", backend, server)
		})
		add("set server %s%s addr %s port %d", g.name, server, s.target, s.port)
		add("set server %s%s check-port %d", g.name, server, g.checkPort(s))
		add("set server %s%s state ready", g.name, server)
		add("enable health %s%s", g.name, server)
		add("set server %s%s health down", g.name, server)
		if g.failing {
			add("disable health %s%s", g.name, server)
		}
		each(func(backend, zone string, open bool) {
			if lb.routes(g, s, zone, open) {
				add("set server %s%s state ready", backend, server)
			}
		})
	case Draining:
		each(func(backend, _ string, _ bool) { add("set server %s%s state drain", backend, server) })
	case Gone:
		each(func(backend, _ string, _ bool) { add("set server %s%s state maint", backend, server) })
		add("set server %s%s state maint", g.name, server)
	}
	terminate := s.state == Gone && g.TerminateDeregistered
	n.mu.Unlock()
	if _, err := lb.ask(commands...); err != nil {
		return err
	}
	if terminate {
		return lb.terminate(g, number)
	}
	return nil
}

// terminate ends the flows of a target, in every worker. The caller holds use.
func (lb *loadBalancer) terminate(g *targetGroup, number int) error {
	flows, err := lb.flows()
	if err != nil {
		return err
	}
	for _, f := range flows[fmt.Sprintf("%s/s%d", g.name, number)] {
		// One that has just ended cannot be found, nor can a worker whose last one it was.
		_, _ = lb.command("@!" + f.worker + " shutdown session " + f.id)
	}
	return nil
}

// session of a worker.
type session struct{ worker, id string }

var sessionLine = regexp.MustCompile(`(?m)^(0x[0-9a-f]+): .* be=([0-9a-z]+)_[0-9a-z]+ srv=(s[0-9]+) `)

// flows of each slot, as "group/slot". "shutdown sessions server" would be simpler, but a former worker's servers are
// disabled for it. The caller holds use.
func (lb *loadBalancer) flows() (map[string][]session, error) {
	current, old, err := lb.workers()
	if err != nil {
		return nil, err
	}
	flows := map[string][]session{}
	for _, worker := range append(current, old...) {
		answer, err := lb.tell(worker, "show sess")
		if err != nil && slices.Contains(current, worker) {
			return nil, err // a former worker may have ended
		}
		for _, line := range sessionLine.FindAllStringSubmatch(answer, -1) {
			slot := line[2] + "/" + line[3]
			flows[slot] = append(flows[slot], session{worker, line[1]})
		}
	}
	return flows, nil
}

func (lb *loadBalancer) applyFailing(g *targetGroup) error {
	lb.use.Lock()
	lb.network.mu.Lock()
	var commands []string
	for number, s := range g.slots {
		if s.state != Registered || number >= lb.slots[g.name] {
			continue
		}
		server := fmt.Sprintf("%s/s%d", g.name, number)
		if g.failing {
			commands = append(commands, "set server "+server+" health down", "disable health "+server)
		} else {
			commands = append(commands, "enable health "+server)
		}
	}
	lb.network.mu.Unlock()
	_, err := lb.ask(commands...)
	lb.use.Unlock()
	return errors.Join(err, lb.refresh())
}

// refresh reads the targets' health, and does what follows from it:
//
// A target gets flows when it has passed one check ("Your target is not in service until it passes one health check",
// Network Load Balancers User Guide, Troubleshoot). A target that becomes unhealthy loses its flows if the target group says so,
// "unless the unhealthy target triggers the load balancer to fail open" (Health checks for target groups): HAProxy's own
// on-marked-down knows no such exception.
func (lb *loadBalancer) refresh() error {
	lb.use.Lock()
	defer lb.use.Unlock()
	if lb.process == nil {
		return nil
	}
	answer, err := lb.ask("show servers state")
	if err != nil {
		return err
	}
	up, checks := map[string]bool{}, map[string]int{}
	columns := map[string]int{}
	for _, line := range strings.Split(answer, "\n") {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[0] == "#" {
			for number, name := range fields[1:] {
				columns[name] = number
			}
			continue
		}
		if columns["srv_check_health"] == 0 || len(fields) <= columns["srv_check_health"] {
			continue
		}
		name := fields[columns["be_name"]] + "/" + fields[columns["srv_name"]]
		up[name] = fields[columns["srv_op_state"]] != "0"
		checks[name], _ = strconv.Atoi(fields[columns["srv_check_health"]])
	}
	n := lb.network
	n.mu.Lock()
	var passed, commands []string
	kill := map[*targetGroup][]int{}
	for _, g := range lb.groups() {
		patience := time.Duration(g.HealthCheck.Unhealthy) * (lb.scaled(g.HealthCheck.Interval, leastInterval) + lb.scaled(g.HealthCheck.Timeout, leastTimeout))
		for number, s := range g.slots {
			if s.state != Registered || number >= lb.slots[g.name] {
				continue
			}
			name := fmt.Sprintf("%s/s%d", g.name, number)
			initial := s.health == Initial
			switch {
			case up[name]:
				s.health, s.killed = Healthy, false
			case initial && checks[name] > 0:
				s.health = Healthy
				passed = append(passed, "set server "+name+" health up")
			case initial && time.Since(s.since) < patience && !g.failing:
			default:
				s.health = Unhealthy
			}
			if initial && s.health != Initial {
				for _, backend := range sortedStrings(lb.zones) {
					if group, _, _ := strings.Cut(backend, "_"); group == g.name && lb.routes(g, s, lb.zones[backend], false) {
						commands = append(commands, fmt.Sprintf("set server %s/s%d state ready", backend, number))
					}
				}
			}
		}
		for number, s := range g.slots {
			if s.state == Registered && s.health == Unhealthy && !s.killed && g.TerminateUnhealthy && g.healthy("") > 0 {
				s.killed = true
				kill[g] = append(kill[g], number)
			}
		}
	}
	n.mu.Unlock()
	if _, err = lb.ask(append(passed, commands...)...); err != nil {
		return err
	}
	for g, numbers := range kill {
		for _, number := range numbers {
			err = errors.Join(err, lb.terminate(g, number))
		}
	}
	return err
}
