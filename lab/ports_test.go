package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	vpcnet "github.com/openvidu-ha/openvidu-ha/lab/internal/network"
)

// open ports of a kind of node, by who connects, as OpenVidu documents them (Port rules of a High Availability deployment on premises). It is
// written here a second time on purpose: the template's table must agree with it.
var documented = map[string]map[string]arrived{
	"MasterSG": {
		"MainSG":   {TCP: "7880"},
		"MasterSG": {TCP: "3000,4443,5000,6080,7000-7001,7946-7947,9080,9095-9096,9100-9101,20000"},
		"MediaSG":  {TCP: "3100,4443,6080,7000-7001,7880,9009,9080,9100,20000"},
	},
	"MediaSG": {
		"MainSG":   {TCP: "1945,9092"},
		"MasterSG": {TCP: "5349,7880,8080"},
		"TurnSG":   {TCP: "5349,7880"},
	},
}

// fromAnyone is open to everyone, the nodes included.
var fromAnyone = map[string]arrived{"MediaSG": {TCP: "7881,50000-60000", UDP: "443,7885,50000-60000"}}

// arrived is what a probe that listens tells of one source (lab/calls/sweep).
type arrived struct {
	TCP string `json:"tcp"`
	UDP string `json:"udp"`
}

// TestPortsAreOpenAsDocumentedAndNoOthers sends to every TCP port, and to the ranges of UDP, from each peer, from another machine of the VPC and from the
// internet, to a machine in each security group.
func TestPortsAreOpenAsDocumentedAndNoOthers(t *testing.T) {
	change := map[string]any{"TurnDomainName": "turn.example.com", "TurnCertificateARN": importCertificate("turn.example.com")}
	scenario(t, Options{Masters: -1}, change, func(t testing.TB, s *Stack) {
		other := "sg-other-" + s.name
		must(vpc.PutGroup(other, vpcnet.Group{Stack: s.name, Outbound: []vpcnet.Rule{{Protocol: "-1", CIDR: netip.MustParsePrefix("0.0.0.0/0")}}}))
		subnet := subnets[0].(string)
		// machine in a security group: a namespace with one interface.
		machine := func(name, group string, public bool) (*vpcnet.Namespace, netip.Addr, netip.Addr) {
			ip := netip.MustParseAddr(cloud.address(subnet))
			outside, err := vpc.AddInterface(vpcnet.Interface{Address: ip, Stack: s.name, Subnet: subnet, Groups: []string{group}, Public: public})
			must(err)
			ns, err := vpcnet.NewNamespace(s.name + name)
			must(err)
			t.Cleanup(func() { must(ns.Close()) })
			must(vpc.Attach(ns, "eth0", ip))
			return ns, ip, outside
		}
		type source struct {
			name string
			ns   *vpcnet.Namespace
			seen netip.Addr
		}
		var sources []source
		for _, group := range []string{"MainSG", "MasterSG", "MediaSG", "TurnSG", "other"} {
			id := other
			if group != "other" {
				id = s.attribute(group, "").(string)
			}
			ns, ip, _ := machine("from"+group, id, false)
			sources = append(sources, source{group, ns, ip})
		}
		client, err := s.Client("anyone", vpcnet.ClientOptions{})
		must(err)
		t.Cleanup(func() { must(client.Close()) })
		sources = append(sources, source{"internet", client.Namespace, client.Public})
		sweeps := 0
		for _, target := range []string{"MasterSG", "MediaSG"} {
			ns, ip, outside := machine("to"+target, s.attribute(target, "").(string), true)
			for _, from := range sources {
				sweeps++
				listen := ns.Command(bin+"/probe", "listen", "-sweep", fmt.Sprint(sweeps))
				stdin, err := listen.StdinPipe()
				must(err)
				words, err := listen.StderrPipe()
				must(err)
				var output strings.Builder
				listen.Stdout = &output
				must(listen.Start())
				buffer := make([]byte, 64)
				_, err = words.Read(buffer) // "listening"
				must(err)
				to := ip
				if from.name == "internet" {
					to = outside
				}
				if text, err := from.ns.Command(bin+"/probe", "send", "-sweep", fmt.Sprint(sweeps), "-target", to.String(), "-tcp", "1-65535", "-udp", "1-1024,5000-9999,49000-61000").CombinedOutput(); err != nil {
					t.Fatalf("probe: %v: %s", err, text)
				}
				must(stdin.Close())
				must(listen.Wait())
				var seen struct{ Sources map[string]arrived }
				must(json.Unmarshal([]byte(output.String()), &seen))
				want := documented[target][from.name]
				if from.name != "MainSG" && from.name != "TurnSG" { // a load balancer's own group lets nothing else out
					want = arrived{joined(want.TCP, fromAnyone[target].TCP), joined(want.UDP, fromAnyone[target].UDP)}
				}
				if got := seen.Sources[from.seen.String()]; got != want {
					t.Errorf("from %s to %s arrive\n%+v, want\n%+v", from.name, target, got, want)
				}
			}
		}
		s.mu.Lock()
		s.figures = fmt.Sprint(sweeps, " sweeps of 65,535 TCP ports")
		s.mu.Unlock()
	})
}

// joined ranges of ports, as compact as a probe writes them.
func joined(ranges ...string) string {
	open := make([]bool, 1<<16+1)
	for _, list := range ranges {
		for part := range strings.SplitSeq(list, ",") {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			if from, err := strconv.Atoi(first); err == nil {
				to, err := strconv.Atoi(last)
				must(err)
				for port := from; port <= to; port++ {
					open[port] = true
				}
			}
		}
	}
	var all []string
	for port := 1; port < len(open); port++ {
		if first := port; open[port] {
			for open[port+1] {
				port++
			}
			if first == port {
				all = append(all, fmt.Sprint(first))
			} else {
				all = append(all, fmt.Sprintf("%d-%d", first, port))
			}
		}
	}
	return strings.Join(all, ",")
}
