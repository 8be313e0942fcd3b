package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	vpcnet "github.com/openvidu-ha/openvidu-ha/lab/internal/network"
)

// calling is a program that makes calls (lab/calls), and what it tells meanwhile.
type calling struct {
	command *exec.Cmd
	output  bytes.Buffer
	running chan bool
	done    chan error

	mu     sync.Mutex
	events []string
}

// measured is what such a program tells at its end (lab/calls/measure, Result), as far as scenarios look at it.
type measured struct {
	Packets struct{ Sent, Expected, Received, Lost int64 }
	Longest *silence `json:"longest_silence"`
	Where   string   `json:"longest_silence_where"`
	Joins   joins
	Short   joins `json:"short_calls"`
	Stalls  []silence
	Calls   []struct {
		Room, Node string
		Late       []string
		Parties    []struct {
			Identity, Node string
			Flows          []struct {
				Lost     int64
				Longest  silence `json:"longest_silence"`
				Silences []silence
				Pauses   []silence
			}
		}
	}
}

type silence struct {
	At time.Time
	Ms int64
}

type joins struct {
	Tried, Failed int
	LongestMs     int64 `json:"longest_ms"`
	Failures      []struct {
		At          time.Time
		Step, Error string
	}
}

// phase is a time in which something happens, and what calls may notice of it.
type phase struct {
	name       string
	begin, end time.Time
	silence    time.Duration // at most
	failed     float64       // of 100 new calls, at most
}

// caller outside of the VPC, and the environment of its programs.
func caller(t testing.TB, s *Stack, name string, options vpcnet.ClientOptions) (*vpcnet.Client, []string) {
	t.Helper()
	client, err := s.Client(name, options)
	must(err)
	t.Cleanup(func() { must(client.Close()) })
	file := filepath.Join(cloud.Dir, "trusted.pem")
	must(os.WriteFile(file, trusted(), 0o600))
	secret := s.Secret()
	return client, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cloud.Dir, "SSL_CERT_FILE=" + file, "NODE_EXTRA_CA_CERTS=" + file,
		fmt.Sprint("LIVEKIT_API_KEY=", secret["LIVEKIT_API_KEY"]), fmt.Sprint("LIVEKIT_API_SECRET=", secret["LIVEKIT_API_SECRET"]), "RTMP_STREAM_KEY=lab"}
}

// start starts a program of the client.
func start(client *vpcnet.Client, environment []string, arguments ...string) *calling {
	c := &calling{running: make(chan bool), done: make(chan error, 1)}
	c.command = client.Command(arguments[0], arguments[1:]...)
	c.command.Env = environment
	c.command.Stdout = &c.output
	words, err := c.command.StderrPipe()
	must(err)
	must(c.command.Start())
	go func() {
		began := false
		lines := bufio.NewScanner(words)
		for lines.Scan() {
			c.mu.Lock()
			c.events = append(c.events, lines.Text())
			c.mu.Unlock()
			if !began && strings.Contains(lines.Text(), `"running"`) {
				began = true
				close(c.running)
			}
		}
		c.done <- c.command.Wait()
	}()
	return c
}

// begun waits until all calls are there.
func (c *calling) begun(t testing.TB) {
	t.Helper()
	select {
	case <-c.running:
	case err := <-c.done:
		t.Fatalf("no calls: %v\n%s", err, c.told())
	case <-time.After(*patience):
		t.Fatalf("no calls\n%s", c.told())
	}
}

func (c *calling) told() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.events, "\n")
}

// result waits for the end; stop asks for it first.
func (c *calling) result(t testing.TB, stop bool) (r measured) {
	t.Helper()
	if stop {
		must(c.command.Process.Signal(os.Interrupt))
	}
	select {
	case err := <-c.done:
		if json.Unmarshal(c.output.Bytes(), &r) != nil {
			t.Fatalf("%v: %s\n%s", err, c.output.String(), c.told())
		}
	case <-time.After(*patience):
		t.Fatalf("no result\n%s", c.told())
	}
	return r
}

// telling phases about what calls noticed in them: joins by when they were tried, silences by when they began.
func (r measured) during(p phase) (tried, failed int, longest time.Duration, errors []string) {
	within := func(at time.Time) bool { return !at.Before(p.begin) && at.Before(p.end) }
	for _, failure := range append(slices.Clone(r.Short.Failures), r.Joins.Failures...) {
		if within(failure.At) {
			failed++
			errors = append(errors, failure.Step+": "+failure.Error)
		}
	}
	for _, call := range r.Calls {
		for _, party := range call.Parties {
			for _, flow := range party.Flows {
				for _, s := range flow.Silences {
					// A silence in which the publisher itself did not get to run is this machine's, not the cluster's.
					if within(s.At) && !slices.ContainsFunc(append(slices.Clone(flow.Pauses), r.Stalls...), func(pause silence) bool { return overlap(pause, s) }) {
						longest = max(longest, time.Duration(s.Ms)*time.Millisecond)
					}
				}
			}
		}
	}
	tried = int(p.end.Sub(p.begin) / shortEvery)
	return tried, failed, longest, errors
}

func overlap(a, b silence) bool {
	length := func(s silence) time.Duration { return time.Duration(s.Ms) * time.Millisecond }
	return a.At.Before(b.At.Add(length(b))) && b.At.Before(a.At.Add(length(a)))
}

// counted is the silence of a phase without a bound: it is only told.
const counted = time.Hour

// shortEvery is how often a further call is tried.
const shortEvery = time.Second

// figures are a row of the table of calls.
func figures(name string, r measured) {
	longest := int64(0)
	if r.Longest != nil {
		longest = r.Longest.Ms
	}
	fmt.Printf("calls: %-60s sent %7d lost %5d, longest silence %6d ms, joins %d, failed %d, short calls %d, failed %d, longest join %d ms\n",
		name, r.Packets.Sent, r.Packets.Lost, longest, r.Joins.Tried, r.Joins.Failed, r.Short.Tried, r.Short.Failed, max(r.Joins.LongestMs, r.Short.LongestMs))
}

// unharmed is what calls must be while nothing that concerns them happens.
func unharmed(t testing.TB, name string, r measured) {
	t.Helper()
	figures(name, r)
	p := phase{begin: time.Time{}, end: time.Now().Add(time.Hour)}
	_, _, longest, _ := r.during(p)
	if r.Packets.Lost > 0 || r.Packets.Received == 0 || r.Joins.Failed+r.Short.Failed > 0 || longest > 250*time.Millisecond {
		content, _ := json.Marshal(r)
		t.Errorf("%s: lost %d of %d, silence of %s, %d joins failed: %s", name, r.Packets.Lost, r.Packets.Expected, longest, r.Joins.Failed+r.Short.Failed, content)
	}
}

const (
	domain, turnDomain = "openvidu.example.com", "turn.example.com"
	livekit            = "livekit" // an option of the stand-in for the installer
)

// reachable waits until the load balancers see their targets.
func reachable(t testing.TB, s *Stack, groups map[string][]*Machine) {
	t.Helper()
	for group, machines := range groups {
		for _, m := range machines {
			eventually(t, m.Group+" is healthy in "+group, func() bool { return s.TargetHealth(group, m) == vpcnet.Healthy })
		}
	}
}

// fleet of Media Nodes that are in service.
func (s *Stack) fleet() []*Machine {
	s.mu.Lock()
	machines := slices.Clone(s.machines[MediaGroup])
	s.mu.Unlock()
	return slices.DeleteFunc(machines, func(m *Machine) bool { return s.State(m) != "InService" })
}

// TestCalls keeps calls going while all that the documentation promises to survive happens around them, one after another.
func TestCalls(t *testing.T) {
	turn := importCertificate(turnDomain)
	options := Options{Media: 2, Scale: 60, LoadBalancers: true, BalancerScale: 1, Files: map[string]string{"etc/lab/openvidu": livekit}}
	change := map[string]any{"TurnDomainName": turnDomain, "TurnCertificateARN": turn, "MinNumberOfMediaNodes": 2, "InitialNumberOfMediaNodes": 2, "MaxNumberOfMediaNodes": 4}
	s := deployed(t, options, change)
	ready(t, s, 0, 1, 2, 3, 4)
	s.Domain(domain, "MainLoadBalancer")
	s.Domain(turnDomain, "TurnLoadBalancer")
	var masters []*Machine
	for slot := 1; slot <= 4; slot++ {
		masters = append(masters, s.Machine(Group(slot)))
	}
	eventually(t, "two Media Nodes in service", func() bool { return len(s.fleet()) == 2 })
	reachable(t, s, map[string][]*Machine{"MainMasters": masters, "MainRtmp": s.fleet(), "TurnTurn": s.fleet()})
	client, environment := caller(t, s, "browser", vpcnet.ClientOptions{})
	url := "wss://" + domain
	call := func(arguments ...string) *calling {
		return start(client, environment, append([]string{filepath.Join(bin, "call"), "-url", url}, arguments...)...)
	}

	// Nothing happens, with many calls; and the ways in that other clients have.
	quiet := call("-room", "quiet", "-calls", "20", "-video", "200", "-duration", "20s")
	quiet.begun(t)
	unharmed(t, "nothing happens, 20 calls", quiet.result(t, false))
	narrow, narrowEnvironment := caller(t, s, "office", vpcnet.ClientOptions{OnlyHTTPS: true})
	only := start(narrow, narrowEnvironment, filepath.Join(bin, "call"), "-url", url, "-room", "turn", "-video", "200", "-duration", "15s", "-join-timeout", "30s")
	browser := start(client, environment, "node", "calls/webrtc/call.mjs", url, "libwebrtc", "15")
	stream := start(client, environment, filepath.Join(bin, "rtmp"), "publish", "-url", "rtmps://"+domain+":1935/rtmp", "-duration", "10s")
	unharmed(t, "client with 443/TCP alone, TURN on its own domain", only.result(t, false))
	unharmed(t, "libwebrtc", browser.result(t, false))
	if err := <-stream.done; err != nil {
		t.Errorf("RTMPS: %v %s %s", err, stream.output.String(), stream.told())
	}
	fmt.Printf("calls: %-60s %s\n", "RTMPS through the load balancer", strings.TrimSpace(stream.output.String()))

	// Around six long calls, and a short one every second.
	long := call("-room", "long", "-calls", "6", "-video", "200", "-short-every", shortEvery.String())
	long.begun(t)
	var phases []phase
	during := func(name string, silence time.Duration, failed float64, happen func()) {
		p := phase{name: name, begin: time.Now(), silence: silence, failed: failed}
		happen()
		p.end = time.Now()
		phases = append(phases, p)
		time.Sleep(3 * time.Second) // what it leaves behind belongs to none
	}
	every := func(machines []*Machine, lines string) {
		var all sync.WaitGroup
		for _, m := range machines {
			all.Go(func() { m.Shell(lines) })
		}
		all.Wait()
	}
	during("Redis is away for 16 s", 250*time.Millisecond, 100, func() {
		every(masters, "docker kill redis")
		time.Sleep(16 * time.Second)
		every(masters, "docker start redis")
	})
	reachable(t, s, map[string][]*Machine{"MainMasters": masters, "TurnTurn": s.fleet()})
	during("health checks of TURN and RTMPS fail for a minute", 250*time.Millisecond, 0, func() {
		must(s.FailHealthChecks("MainRtmp", true))
		must(s.FailHealthChecks("TurnTurn", true))
		time.Sleep(time.Minute)
		must(s.FailHealthChecks("MainRtmp", false))
		must(s.FailHealthChecks("TurnTurn", false))
	})
	during("a master is killed, and comes back", 2*time.Second, 2, func() {
		s.Kill(Group(2), nil)
		eventually(t, "its replacement", func() bool { return isReady(s, 2) })
	})
	masters[1] = s.Machine(Group(2))
	reachable(t, s, map[string][]*Machine{"MainMasters": masters})
	during("the zone of a master is cut off", 2*time.Second, 2, func() {
		must(s.CutZone(region + "d")) // Media Nodes are in the other three
		time.Sleep(20 * time.Second)
		must(s.RestoreZone(region + "d"))
	})
	reachable(t, s, map[string][]*Machine{"MainMasters": masters})
	serving := map[bool]string{true: "MainMasters", false: "MainMastersTls"}
	update := func(changes map[string]any) {
		if err := s.Update(changes); err != nil {
			t.Error(err)
		}
		for slot := range masters {
			masters[slot] = s.Machine(Group(slot + 1))
		}
		reachable(t, s, map[string][]*Machine{serving[changes["TurnDomainName"] != ""]: masters})
	}
	during("an update rolls all four masters", 2*time.Second, 1, func() { update(map[string]any{"DiskSize": 60}) })
	// Counted: calls that are relayed by TURN end with its load balancer, and each change of the domain rolls the masters.
	during("TURN's domain is taken away", counted, 100, func() { update(map[string]any{"TurnDomainName": "", "TurnCertificateARN": ""}) })
	during("TURN's domain comes back", counted, 100, func() { update(change) })
	s.Domain(turnDomain, "TurnLoadBalancer")
	during("a Media Node drains for scale-in", 250*time.Millisecond, 0, func() {
		s.ScaleIn(s.fleet()[0])
		time.Sleep(15 * time.Second)
	})
	during("an instance refresh drains all Media Nodes", 250*time.Millisecond, 0, func() {
		owner(t, s, "StartInstanceRefresh", "AutoScalingGroupName", s.Machine(MediaGroup).tags[groupTag], "Preferences.MinHealthyPercentage", "100", "Preferences.MaxHealthyPercentage", "200")
		eventually(t, "a new Media Node beside those that drain", func() bool { return len(s.fleet()) == 1 && s.Refresh(MediaGroup) == "InProgress" })
		time.Sleep(10 * time.Second)
	})
	r := long.result(t, true)
	figures("six calls around which all of this happens", r)
	if r.Packets.Lost > 0 || r.Packets.Received == 0 {
		t.Errorf("lost %d of %d packets", r.Packets.Lost, r.Packets.Expected)
	}
	for _, p := range phases {
		tried, failed, longest, reasons := r.during(p)
		fmt.Printf("calls: %-60s longest silence %6d ms, short calls %d, failed %d\n", p.name, longest.Milliseconds(), tried, failed)
		if longest > p.silence || float64(failed) > float64(tried)*p.failed/100 {
			t.Errorf("%s: a silence of %s, %d of %d calls failed: %s", p.name, longest, failed, tried, strings.Join(reasons, "; "))
		}
	}
	eventually(t, "the end of the refresh", func() bool { return s.Refresh(MediaGroup) == "Successful" })
}

// TestCallsInEveryLayout of docs/layouts.md, from clients in the internet. Where Media Nodes have private addresses alone there are none: LiveKit's
// TURN server relays to no private address (livekit/livekit, pull request 4505).
func TestCallsInEveryLayout(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]any
		public bool // addresses of Media Nodes
	}{
		// With a domain of its own for TURN, 443 leads to the masters' API, else to where TURN and HTTP are told apart.
		"1 all public, TURN on the main domain": {map[string]any{}, true},
		"2 private Master Nodes":                {map[string]any{"LoadBalancerSubnets": subnets, "OpenViduMasterNodeSubnets": private}, true},
		"3 all private":                         {map[string]any{"LoadBalancerSubnets": subnets, "OpenViduMasterNodeSubnets": private, "OpenViduMediaNodeSubnets": private}, false},
		"4 all private, TURN with a domain of its own": {map[string]any{"LoadBalancerSubnets": subnets, "OpenViduMasterNodeSubnets": private, "OpenViduMediaNodeSubnets": private,
			"TurnDomainName": turnDomain, "TurnCertificateARN": importCertificate(turnDomain)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := deployed(t, Options{Masters: 1, Media: 1, Scale: 60, LoadBalancers: true, BalancerScale: 1, Files: map[string]string{"etc/lab/openvidu": livekit}}, c.change)
			ready(t, s, 0, 1)
			s.Domain(domain, "MainLoadBalancer")
			targets := map[string][]*Machine{"MainMastersTls": {s.Machine(Group(1))}}
			if c.change["TurnDomainName"] != nil {
				s.Domain(turnDomain, "TurnLoadBalancer")
				targets = map[string][]*Machine{"MainMasters": {s.Machine(Group(1))}, "TurnTurn": s.fleet()}
			}
			reachable(t, s, targets)
			for kind, options := range map[string]vpcnet.ClientOptions{"any client": {}, "443/TCP alone": {OnlyHTTPS: true}} {
				client, environment := caller(t, s, strings.Fields(kind)[0][:3], options)
				calls := start(client, environment, filepath.Join(bin, "call"), "-url", "wss://"+domain, "-room", "layout", "-video", "200", "-duration", "10s", "-join-timeout", "30s")
				if r := calls.result(t, false); c.public {
					unharmed(t, "layout "+name+": "+kind, r)
				} else if figures("layout "+name+": "+kind, r); r.Joins.Failed != r.Joins.Tried {
					t.Errorf("%s: %d of %d joins failed; docs/layouts.md says that none succeeds", kind, r.Joins.Failed, r.Joins.Tried)
				}
			}
		})
	}
}

// TestCallsOfAMediaNodeThatIsKilled are rebuilt on another one; those on the others notice nothing.
func TestCallsOfAMediaNodeThatIsKilled(t *testing.T) {
	options := Options{Masters: 1, Media: 2, Scale: 60, LoadBalancers: true, BalancerScale: 1, Files: map[string]string{"etc/lab/openvidu": livekit}}
	s := deployed(t, options, map[string]any{"MinNumberOfMediaNodes": 2, "InitialNumberOfMediaNodes": 2})
	ready(t, s, 0, 1)
	s.Domain(domain, "MainLoadBalancer")
	eventually(t, "two Media Nodes in service", func() bool { return len(s.fleet()) == 2 })
	reachable(t, s, map[string][]*Machine{"MainMasters": {s.Machine(Group(1))}})
	client, environment := caller(t, s, "browser", vpcnet.ClientOptions{})
	calls := start(client, environment, filepath.Join(bin, "call"), "-url", "wss://"+domain, "-calls", "6", "-video", "200", "-duration", "45s")
	calls.begun(t)
	victim := s.fleet()[0]
	name := victim.Shell("docker logs openvidu 2>&1 | grep -o 'nodeID\": \"[^\"]*' | head -n 1 | cut -d '\"' -f 3")
	time.Sleep(5 * time.Second)
	victim.PowerOff()
	r := calls.result(t, false)
	figures("a Media Node is killed, power and all", r)
	moved := 0
	for _, call := range r.Calls {
		for _, party := range call.Parties {
			for _, flow := range party.Flows {
				limit := 250 * time.Millisecond
				if len(flow.Silences) > 0 && flow.Longest.Ms > 1000 {
					moved++
					limit = 17 * time.Second // of late parties; 8 s of most
				}
				if longest := time.Duration(flow.Longest.Ms) * time.Millisecond; longest > limit {
					t.Errorf("%s %s: a silence of %s", call.Room, party.Identity, longest)
				}
			}
		}
	}
	if moved == 0 {
		t.Errorf("no call was on the killed node %s", name)
	}
}
