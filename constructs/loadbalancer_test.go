package constructs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsroute53"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

func TestTurnSharesTheMainDomainUnlessItHasItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		turn      *string
		listeners map[float64]float64 // port of the listener to port of its targets
		open80    bool
	}{
		"none":      {nil, map[float64]float64{443: 443, 80: 80, 1935: 1945, 1945: 1945}, true},
		"empty":     {jsii.String(""), map[float64]float64{443: 443, 80: 80, 1935: 1945, 1945: 1945}, true},
		"of itself": {jsii.String("turn.example.com"), map[float64]float64{443: 7880, 1935: 1945, 1945: 1945}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t, "a", "b")
			p.turn = c.turn
			p.cluster(p.stack)
			resources := p.resources()
			for _, listener := range ofType(resources, "AWS::ElasticLoadBalancingV2::Listener") {
				target := listener.Properties["DefaultActions"].([]any)[0].(map[string]any)["TargetGroupArn"].(map[string]any)["Ref"].(string)
				port := listener.Properties["Port"].(float64)
				if got := resources[target].Properties["Port"]; got != c.listeners[port] {
					t.Errorf("%v leads to %v, want %v", port, got, c.listeners[port])
				}
				delete(c.listeners, port)
			}
			if len(c.listeners) > 0 {
				t.Errorf("nothing listens on %v", c.listeners)
			}
			rules := 0
			for _, kind := range []string{"AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress"} {
				for _, rule := range ofType(resources, kind) {
					if port := rule.Properties["FromPort"]; port == 80.0 || port == 443.0 {
						rules++
					}
				}
			}
			if want := map[bool]int{true: 5, false: 0}[c.open80]; rules != want {
				t.Errorf("%d rules for 80 and 443, want %d", rules, want)
			}
		})
	}
}

func TestHostedZoneGetsRecordsAndCertificates(t *testing.T) {
	p := newProgram(t, "a", "b")
	p.turn = jsii.String("turn.example.com")
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	fleet := constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	common := constructs.LoadBalancerProps{
		Vpc:           p.vpc,
		IpAddressType: nlb.IpAddressType_DUAL_STACK,
		HostedZone: awsroute53.HostedZone_FromHostedZoneAttributes(p.stack, jsii.String("Zone"), &awsroute53.HostedZoneAttributes{
			HostedZoneId: jsii.String("Z1"), ZoneName: jsii.String("example.com")}),
	}
	constructs.NewMainLoadBalancer(p.stack, jsii.String("Balancer"), &constructs.MainLoadBalancerProps{LoadBalancerProps: common, Masters: masters, Fleet: fleet})
	constructs.NewTurnTlsEndpoint(p.stack, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{LoadBalancerProps: common, Fleet: fleet})
	resources := p.resources()

	records := map[string]bool{}
	for _, record := range ofType(resources, "AWS::Route53::RecordSet") {
		if !strings.Contains(text(record.Properties["AliasTarget"]), "CanonicalHostedZoneID") || record.Properties["HostedZoneId"] != "Z1" {
			t.Errorf("no alias of a load balancer: %v", record.Properties)
		}
		records[record.Properties["Type"].(string)+" "+record.Properties["Name"].(string)] = true
	}
	for _, want := range []string{"A openvidu.example.com.", "AAAA openvidu.example.com.", "A turn.example.com.", "AAAA turn.example.com."} {
		if !records[want] {
			t.Errorf("there is no record %s: %v", want, records)
		}
	}
	domains := map[string]bool{}
	for _, certificate := range ofType(resources, "AWS::CertificateManager::Certificate") {
		if certificate.Properties["ValidationMethod"] != "DNS" {
			t.Errorf("certificate: %v", certificate.Properties)
		}
		domains[certificate.Properties["DomainName"].(string)] = true
	}
	if !domains["openvidu.example.com"] || !domains["turn.example.com"] {
		t.Errorf("certificates: %v", domains)
	}
	for _, balancer := range ofType(resources, "AWS::ElasticLoadBalancingV2::LoadBalancer") {
		if balancer.Properties["IpAddressType"] != "dualstack" {
			t.Errorf("load balancer: %v", balancer.Properties)
		}
	}
	// Clients that come over IPv6 are let in.
	for _, group := range ofType(resources, "AWS::EC2::SecurityGroup") {
		if rules := text(group.Properties["SecurityGroupIngress"]); strings.Contains(text(group.Properties["GroupDescription"]), "load balancer") && !strings.Contains(rules, "::/0") {
			t.Errorf("rules: %s", rules)
		}
	}
}

func TestRedirectIsOpenOverIpv6WhereTheLoadBalancerIs(t *testing.T) {
	for kind, want := range map[nlb.IpAddressType]string{nlb.IpAddressType_IPV4: "0.0.0.0/0", nlb.IpAddressType_DUAL_STACK: "0.0.0.0/0 ::/0"} {
		p := newProgram(t, "a", "b")
		masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
		fleet := constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
		common := p.reached("Certificate")
		common.IpAddressType = kind
		constructs.NewMainLoadBalancer(p.stack, jsii.String("Balancer"), &constructs.MainLoadBalancerProps{LoadBalancerProps: common, Masters: masters, Fleet: fleet})
		var ranges []string
		for _, rule := range ofType(p.resources(), "AWS::EC2::SecurityGroupIngress") {
			for _, key := range []string{"CidrIp", "CidrIpv6"} {
				if cidr, ok := rule.Properties[key].(string); ok && rule.Properties["FromPort"] == 80.0 {
					ranges = append(ranges, cidr)
				}
			}
		}
		slices.Sort(ranges)
		if got := strings.Join(ranges, " "); got != want {
			t.Errorf("%s: port 80 is open to %q, want %q", kind, got, want)
		}
	}
}

func TestLoadBalancersAreInternetFacingUnlessToldOtherwise(t *testing.T) {
	for want, prop := range map[string]*bool{"internet-facing": nil, "internal": jsii.Bool(false)} {
		p := newProgram(t, "a", "b")
		masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
		fleet := constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
		common := p.reached("Certificate")
		common.InternetFacing = prop
		common.VpcSubnets = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PUBLIC}
		constructs.NewMainLoadBalancer(p.stack, jsii.String("Balancer"), &constructs.MainLoadBalancerProps{LoadBalancerProps: common, Masters: masters, Fleet: fleet})
		if got := ofType(p.resources(), "AWS::ElasticLoadBalancingV2::LoadBalancer")[0].Properties["Scheme"]; got != want {
			t.Errorf("scheme is %v, want %s", got, want)
		}
	}
}
