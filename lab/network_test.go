package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	vpcnet "github.com/openvidu-ha/openvidu-ha/lab/internal/network"
)

// The template's own security groups, listeners and target groups, between a client outside of the VPC and real nodes.
func TestClientsReachTheMasterThroughItsLoadBalancer(t *testing.T) {
	scenario(t, Options{Masters: 1, Media: 1, LoadBalancers: true}, map[string]any{"TurnDomainName": "turn.example.com", "TurnCertificateARN": importCertificate("turn.example.com")}, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		master, media := s.Machine(Group(1)), s.Machine(MediaGroup)
		for group, m := range map[string]*Machine{"MainMasters": master, "MainRtmp": media, "TurnTurn": media} {
			eventually(t, group+" is healthy", func() bool { return s.TargetHealth(group, m) == vpcnet.Healthy })
		}
		client, err := s.Client("browser", vpcnet.ClientOptions{OnlyHTTPS: true})
		must(err)
		defer func() { must(client.Close()) }()
		s.Domain("openvidu.example.com", "MainLoadBalancer")
		ca := filepath.Join(cloud.Dir, s.name+".pem")
		must(os.WriteFile(ca, trusted(), 0o600))
		curl := func(address string) string {
			output, _ := client.Command("curl", "-s", "-m", "20", "--cacert", ca, "-o", "/dev/null", "-w", "%{http_code}", address).Output() // the code tells
			return string(output)
		}
		expect(t, "the domain's answer", curl("https://openvidu.example.com/health/caddy"), "200")
		free, err := s.Client("probe", vpcnet.ClientOptions{})
		must(err)
		defer func() { must(free.Close()) }()
		for _, m := range []*Machine{master, media} {
			if output, err := free.Command("curl", "-s", "-m", "2", "http://"+m.PublicIp()+":7880/").CombinedOutput(); err == nil {
				t.Errorf("%s answers the internet on port 7880: %s", m.Group, output)
			}
		}
		s.Kill(Group(1), nil)
		eventually(t, "nothing is left of a target that is gone", func() bool { return s.TargetHealth("MainMasters", master) == vpcnet.Unused })
		// Nothing is left of a load balancer that an update takes away.
		turn, name := s.attribute("TurnTurn", "").(string), s.attribute("TurnLoadBalancer", "DNSName").(string)
		expect(t, "the health of the TURN target", vpc.Health(turn, netip.MustParseAddr(media.Ip)), vpcnet.Healthy)
		if len(vpc.DNS.Lookup(s.name, name)) == 0 {
			t.Errorf("%s has no address", name)
		}
		if err := s.Update(map[string]any{"TurnDomainName": "", "TurnCertificateARN": ""}); err != nil {
			t.Fatal(err)
		}
		expect(t, "the health of the TURN target", vpc.Health(turn, netip.MustParseAddr(media.Ip)), vpcnet.Unused)
		if addresses := vpc.DNS.Lookup(s.name, name); s.existing()["TurnTurn"] != "" || len(addresses) > 0 {
			t.Errorf("the TURN load balancer is still there: %v", addresses)
		}
	})
}
