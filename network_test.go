package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// portTable is OpenVidu's, as its documentation has it. Peers: any4 and any6 are everybody, over IPv4 and IPv6.
const portTable = `
MainSG    any4      tcp 443
MainSG    any4      tcp 1935
MainSG    any4      tcp 1945
TurnSG    any4      tcp 443
MasterSG  MainSG    tcp 7880
MasterSG  MasterSG  tcp 7000-7001
MasterSG  MasterSG  tcp 9100-9101
MasterSG  MasterSG  tcp 20000
MasterSG  MasterSG  tcp 9095-9096
MasterSG  MasterSG  tcp 7946-7947
MasterSG  MasterSG  tcp 5000
MasterSG  MasterSG  tcp 3000
MasterSG  MasterSG  tcp 4443
MasterSG  MasterSG  tcp 9080
MasterSG  MasterSG  tcp 6080
MasterSG  MediaSG   tcp 7880
MasterSG  MediaSG   tcp 7000-7001
MasterSG  MediaSG   tcp 9100
MasterSG  MediaSG   tcp 20000
MasterSG  MediaSG   tcp 9009
MasterSG  MediaSG   tcp 3100
MasterSG  MediaSG   tcp 4443
MasterSG  MediaSG   tcp 9080
MasterSG  MediaSG   tcp 6080
MediaSG   any4      tcp 7881
MediaSG   any6      tcp 7881
MediaSG   any4      tcp 50000-60000
MediaSG   any6      tcp 50000-60000
MediaSG   any4      udp 443
MediaSG   any6      udp 443
MediaSG   any4      udp 7885
MediaSG   any6      udp 7885
MediaSG   any4      udp 50000-60000
MediaSG   any6      udp 50000-60000
MediaSG   MasterSG  tcp 7880
MediaSG   MasterSG  tcp 8080
MediaSG   MasterSG  tcp 5349
MediaSG   MainSG    tcp 1945
MediaSG   MainSG    tcp 9092
MediaSG   TurnSG    tcp 5349
MediaSG   TurnSG    tcp 7880
`

// turnOnMainPorts are open where TURN has no domain of its own.
const turnOnMainPorts = `MainSG    any4      tcp 80
MasterSG  MainSG    tcp 443
MasterSG  MainSG    tcp 80
`

// rules gives who may connect to whom (inbound) or who may reach whom (outbound), one line each, as portTable has them.
func rules(d *cfn.Deployment, inbound bool) []string {
	inline, resource, peers := "SecurityGroupIngress", "AWS::EC2::SecurityGroupIngress", []string{"SourceSecurityGroupId"}
	if !inbound {
		inline, resource, peers = "SecurityGroupEgress", "AWS::EC2::SecurityGroupEgress", []string{"DestinationSecurityGroupId"}
	}
	var lines []string
	add := func(group string, rule map[string]any) {
		peer := fmt.Sprint(rule[peers[0]])
		if cidr, ok := rule["CidrIp"]; ok {
			peer = fmt.Sprint(cidr)
		} else if cidr, ok := rule["CidrIpv6"]; ok {
			peer = fmt.Sprint(cidr)
		}
		peer = strings.TrimSuffix(strings.NewReplacer("0.0.0.0/0", "any4", "::/0", "any6").Replace(peer), ".")
		ports := fmt.Sprint(rule["FromPort"])
		if rule["FromPort"] != rule["ToPort"] {
			ports += "-" + fmt.Sprint(rule["ToPort"])
		}
		lines = append(lines, strings.Join([]string{group, peer, fmt.Sprint(rule["IpProtocol"]), ports}, " "))
	}
	for id, group := range d.OfType("AWS::EC2::SecurityGroup") {
		for _, rule := range cfn.List(group[inline]) {
			add(id, rule.(map[string]any))
		}
	}
	for _, rule := range d.OfType(resource) {
		add(strings.TrimSuffix(strings.TrimSuffix(fmt.Sprint(rule["GroupId"]), ".GroupId"), "."), rule)
	}
	slices.Sort(lines)
	return lines
}

func table(text string, leaveOut string) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if line = strings.Join(strings.Fields(line), " "); line != "" && (leaveOut == "" || !strings.Contains(line, leaveOut)) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func equalLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: %q is open, and should not be", what, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: %q is not open, and should be", what, line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d rules, want %d", what, len(got), len(want))
	}
}

func TestSecurityGroupsAreThePortTable(t *testing.T) {
	equalLines(t, "with TURN", rules(deploy(t, with(withTurn), nil), true), table(portTable, ""))
	equalLines(t, "without TURN", rules(deploy(t, with(nil), nil), true), table(portTable+turnOnMainPorts, "TurnSG"))
	ssh := "MasterSG 203.0.113.7/32 tcp 22\nMediaSG 203.0.113.7/32 tcp 22\n"
	equalLines(t, "with SSH", rules(deploy(t, with(map[string]any{"SshAccessCidr": "203.0.113.7/32"}), nil), true),
		table(portTable+turnOnMainPorts+ssh, "TurnSG"))
}

func TestLoadBalancersReachOnlyTheirTargets(t *testing.T) {
	out := `
MainSG MasterSG tcp 7880
MainSG MediaSG  tcp 1945
MainSG MediaSG  tcp 9092
TurnSG MediaSG  tcp 5349
TurnSG MediaSG  tcp 7880
MasterSG any4 -1 <nil>
MasterSG any6 -1 <nil>
MediaSG  any4 -1 <nil>
MediaSG  any6 -1 <nil>
`
	equalLines(t, "outbound with TURN", rules(deploy(t, with(withTurn), nil), false), table(out, ""))
	onMain := "MainSG MasterSG tcp 443\nMainSG MasterSG tcp 80\n"
	equalLines(t, "outbound without TURN", rules(deploy(t, with(nil), nil), false), table(out+onMain, "TurnSG"))
}

func TestLoadBalancersListenAndCheckHealth(t *testing.T) {
	policy := ", ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
	rtmps := "MainLoadBalancer. TLS 1935 -> MainRtmp TCP 1945, health HTTP 9092/, arn:main" + policy
	// OpenVidu 3.10 names this port in the addresses that it gives to who streams.
	rtmps1945 := strings.Replace(rtmps, "TLS 1935", "TLS 1945", 1)
	for name, c := range map[string]struct {
		parameters map[string]any
		want       []string
	}{
		"with TURN": {withTurn, []string{rtmps, rtmps1945,
			"MainLoadBalancer. TLS 443 -> MainMasters TCP 7880, health HTTP 7880/health/caddy, arn:main" + policy,
			"TurnLoadBalancer. TLS 443 -> TurnTurn TCP 5349, health HTTP 7880/, arn:turn" + policy,
		}},
		"without TURN": {nil, []string{
			"MainLoadBalancer. TCP 80 -> MainMastersHttp TCP 80, health HTTP 7880/health/caddy, <nil>, <nil>",
			rtmps,
			rtmps1945,
			"MainLoadBalancer. TLS 443 -> MainMastersTls TCP 443, health HTTP 7880/health/caddy, arn:main" + policy,
		}},
	} {
		d := deploy(t, with(c.parameters), nil)
		var got []string
		groups := d.OfType("AWS::ElasticLoadBalancingV2::TargetGroup")
		for _, listener := range d.OfType("AWS::ElasticLoadBalancingV2::Listener") {
			id := strings.TrimSuffix(listener["DefaultActions"].([]any)[0].(map[string]any)["TargetGroupArn"].(string), ".")
			group := groups[id]
			var certificate any
			if certificates := cfn.List(listener["Certificates"]); len(certificates) == 1 {
				certificate = cfn.At(certificates[0], "CertificateArn")
			}
			got = append(got, fmt.Sprint(listener["LoadBalancerArn"], " ", listener["Protocol"], " ", listener["Port"], " -> ", id, " ", group["Protocol"], " ", group["Port"],
				", health ", group["HealthCheckProtocol"], " ", group["HealthCheckPort"], group["HealthCheckPath"], ", ", certificate, ", ", listener["SslPolicy"]))
		}
		slices.Sort(got)
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s, listeners are\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		// A listener that turns from one group to another finds the masters there already.
		for i := 1; i <= 4; i++ {
			members := cfn.List(d.OfType("AWS::AutoScaling::AutoScalingGroup")[fmt.Sprint("OpenViduMasterNodeASG", i)]["TargetGroupARNs"])
			if !reflect.DeepEqual(members, []any{"MainMasters.", "MainMastersTls.", "MainMastersHttp."}) {
				t.Errorf("%s, Master Node %d is in %v", name, i, members)
			}
		}
	}
	d := deploy(t, with(withTurn), nil)
	for id, balancer := range d.OfType("AWS::ElasticLoadBalancingV2::LoadBalancer") {
		if !strings.Contains(fmt.Sprint(balancer["LoadBalancerAttributes"]), "cross_zone.enabled Value:true") || balancer["Scheme"] != "internet-facing" {
			t.Errorf("%s: %v", id, balancer)
		}
	}
	china := deploy(t, with(map[string]any{"AWS::Partition": "aws-cn"}), nil)
	for id, listener := range china.OfType("AWS::ElasticLoadBalancingV2::Listener") {
		if listener["Protocol"] == "TLS" && listener["SslPolicy"] != "ELBSecurityPolicy-TLS13-1-2-2021-06" {
			t.Errorf("%s in China: %v", id, listener["SslPolicy"])
		}
	}
}
