package constructs

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// peer is who may connect, or to whom.
type peer string

const (
	anyone           peer = "Anyone"
	masterNodes      peer = "Master"
	mediaNodes       peer = "Media"
	mainLoadBalancer peer = "Main"
	turnLoadBalancer peer = "Turn"
)

// port is one rule of who may connect to whom.
type port struct {
	to, from    peer
	protocol    string
	first, last int
	use         string
}

func (p port) connection() awsec2.Port {
	if p.protocol == "udp" {
		return awsec2.Port_UdpRange(jsii.Number(p.first), jsii.Number(p.last))
	}
	return awsec2.Port_TcpRange(jsii.Number(p.first), jsii.Number(p.last))
}

// The ports of the nodes by name, where more than a security group needs them.
const (
	masterApiPort     = 7880 // Caddy: API, dashboard, Meet, WHIP; its health check too
	masterTlsPort     = 443  // Caddy: the same, and TURN for who has no TURN domain
	masterHttpPort    = 80   // Caddy: sends HTTP to HTTPS
	mediaLiveKitPort  = 7880 // LiveKit: API between the nodes; its health check too
	mediaRtmpPort     = 1945
	mediaIngressPort  = 9092 // health check of the ingress service
	mediaTurnPort     = 5349
	listenerTlsPort   = 443
	listenerHttpPort  = 80
	listenerRtmpsPort = 1935
	// What OpenVidu 3.10 names in the addresses of its RTMP ingress; releases before it name 1935.
	listenerRtmps1945Port = 1945
	masterHealthPath      = "/health/caddy"
	mediaRtmpHealthPath   = "/"
	mediaTurnHealthPath   = "/"
)

// ports is the port table of OpenVidu 3.9 High Availability. Every security group rule is made from it.
var ports = []port{
	{mainLoadBalancer, anyone, "tcp", listenerTlsPort, listenerTlsPort, "HTTPS, WSS"},
	{mainLoadBalancer, anyone, "tcp", listenerRtmpsPort, listenerRtmpsPort, "RTMPS"},
	{mainLoadBalancer, anyone, "tcp", listenerRtmps1945Port, listenerRtmps1945Port, "RTMPS of OpenVidu 3.10"},
	{turnLoadBalancer, anyone, "tcp", listenerTlsPort, listenerTlsPort, "TURN over TLS"},

	{masterNodes, mainLoadBalancer, "tcp", masterApiPort, masterApiPort, "API, dashboard"},
	{masterNodes, masterNodes, "tcp", 7000, 7001, "Redis"},
	{masterNodes, masterNodes, "tcp", 9100, 9101, "MinIO, console"},
	{masterNodes, masterNodes, "tcp", 20000, 20000, "MongoDB"},
	{masterNodes, masterNodes, "tcp", 9095, 9096, "Mimir, Loki gRPC"},
	{masterNodes, masterNodes, "tcp", 7946, 7947, "Mimir, Loki gossip"},
	{masterNodes, masterNodes, "tcp", 5000, 5000, "Dashboard"},
	{masterNodes, masterNodes, "tcp", 3000, 3000, "Grafana"},
	{masterNodes, masterNodes, "tcp", 4443, 4443, "v2 compatibility"},
	{masterNodes, masterNodes, "tcp", 9080, 9080, "Meet"},
	{masterNodes, masterNodes, "tcp", 6080, 6080, "Your own application"},
	{masterNodes, mediaNodes, "tcp", masterApiPort, masterApiPort, "API"},
	{masterNodes, mediaNodes, "tcp", 7000, 7001, "Redis"},
	{masterNodes, mediaNodes, "tcp", 9100, 9100, "MinIO"},
	{masterNodes, mediaNodes, "tcp", 20000, 20000, "MongoDB"},
	{masterNodes, mediaNodes, "tcp", 9009, 9009, "Mimir"},
	{masterNodes, mediaNodes, "tcp", 3100, 3100, "Loki"},
	{masterNodes, mediaNodes, "tcp", 4443, 4443, "v2 compatibility"},
	{masterNodes, mediaNodes, "tcp", 9080, 9080, "Meet"},
	{masterNodes, mediaNodes, "tcp", 6080, 6080, "Your own application"},

	{mediaNodes, anyone, "tcp", 7881, 7881, "WebRTC over TCP"},
	{mediaNodes, anyone, "tcp", 50000, 60000, "WebRTC over TCP"},
	{mediaNodes, anyone, "udp", 443, 443, "STUN, TURN"},
	{mediaNodes, anyone, "udp", 7885, 7885, "WHIP"},
	{mediaNodes, anyone, "udp", 50000, 60000, "WebRTC"},
	{mediaNodes, masterNodes, "tcp", mediaLiveKitPort, mediaLiveKitPort, "LiveKit"},
	{mediaNodes, masterNodes, "tcp", 8080, 8080, "WHIP"},
	{mediaNodes, masterNodes, "tcp", mediaTurnPort, mediaTurnPort, "TURN"},
	{mediaNodes, mainLoadBalancer, "tcp", mediaRtmpPort, mediaRtmpPort, "RTMP"},
	{mediaNodes, mainLoadBalancer, "tcp", mediaIngressPort, mediaIngressPort, "RTMP health"},
	{mediaNodes, turnLoadBalancer, "tcp", mediaTurnPort, mediaTurnPort, "TURN"},
	{mediaNodes, turnLoadBalancer, "tcp", mediaLiveKitPort, mediaLiveKitPort, "TURN health"},
}

// turnOnMainPorts are open only where TURN has no domain of its own: then it shares the cluster's (OpenVidu 3.8 and newer).
var turnOnMainPorts = []port{
	{mainLoadBalancer, anyone, "tcp", listenerHttpPort, listenerHttpPort, "HTTP redirect"},
	{masterNodes, mainLoadBalancer, "tcp", masterTlsPort, masterTlsPort, "API, TURN"},
	{masterNodes, mainLoadBalancer, "tcp", masterHttpPort, masterHttpPort, "HTTP redirect"},
}

// openTurnOnMain makes the rules of turnOnMainPorts, where the condition holds (nil: always); those of anyone also over IPv6 for
// a load balancer that has it.
func openTurnOnMain(scope constructs.Construct, masters, balancer awsec2.SecurityGroup, ipv6 bool, when awscdk.CfnCondition) {
	var made []awscdk.CfnResource
	for _, p := range turnOnMainPorts {
		id := fmt.Sprintf("%sFrom%s%d", p.to, p.from, p.first)
		inbound := &awsec2.CfnSecurityGroupIngressProps{
			GroupId: ref(balancer), CidrIp: jsii.String("0.0.0.0/0"),
			IpProtocol: &p.protocol, FromPort: jsii.Number(p.first), ToPort: jsii.Number(p.last), Description: &p.use,
		}
		if p.from == mainLoadBalancer {
			inbound.GroupId, inbound.CidrIp, inbound.SourceSecurityGroupId = ref(masters), nil, ref(balancer)
			made = append(made, awsec2.NewCfnSecurityGroupEgress(scope, jsii.String(id+"Out"), &awsec2.CfnSecurityGroupEgressProps{
				GroupId: ref(balancer), DestinationSecurityGroupId: ref(masters),
				IpProtocol: &p.protocol, FromPort: jsii.Number(p.first), ToPort: jsii.Number(p.last), Description: &p.use,
			}))
		}
		rules := []awsec2.CfnSecurityGroupIngress{awsec2.NewCfnSecurityGroupIngress(scope, &id, inbound)}
		if p.from == anyone && ipv6 {
			inbound.CidrIp, inbound.CidrIpv6 = nil, jsii.String("::/0")
			rules = append(rules, awsec2.NewCfnSecurityGroupIngress(scope, jsii.String(id+"Ipv6"), inbound))
		}
		for _, rule := range rules {
			if p.from == anyone {
				compliance.Accept(rule, "Browsers come here first, from anywhere, and are sent to HTTPS.", "AwsSolutions-EC23")
			}
			made = append(made, rule)
		}
	}
	for _, rule := range made {
		rule.CfnOptions().SetCondition(when)
	}
}

// open makes the rules of the table for connections from one peer to another. A load balancer is opened outwards too,
// since it may reach nothing else.
//
// An inbound rule stands in scope, and goes when it goes. Rules for which no circle can arise stand inside their group,
// which takes half the bytes: a load balancer's outwards, the masters' for the Media Nodes of the same stack.
func open(scope constructs.Construct, to peer, toGroup awsec2.SecurityGroup, from peer, fromGroup awsec2.SecurityGroup) {
	inside := from == mediaNodes && *awscdk.Stack_Of(toGroup).Node().Path() == *awscdk.Stack_Of(fromGroup).Node().Path()
	for _, p := range ports {
		if p.to != to || p.from != from {
			continue
		}
		if inside {
			toGroup.AddIngressRule(&inlinePeer{fromGroup}, p.connection(), &p.use, nil)
		} else {
			awsec2.NewCfnSecurityGroupIngress(scope, jsii.String(fmt.Sprintf("%sFrom%s%d", to, from, p.first)), &awsec2.CfnSecurityGroupIngressProps{
				GroupId:               ref(toGroup),
				SourceSecurityGroupId: ref(fromGroup),
				IpProtocol:            &p.protocol,
				FromPort:              jsii.Number(p.first),
				ToPort:                jsii.Number(p.last),
				Description:           &p.use,
			})
		}
		if from == mainLoadBalancer || from == turnLoadBalancer {
			fromGroup.AddEgressRule(&inlinePeer{toGroup}, p.connection(), &p.use, nil)
		}
	}
}

// inlinePeer is a security group whose rule stands inside the other group. CDK's own peers never do, for fear of circles.
type inlinePeer struct{ group awsec2.SecurityGroup }

func (p *inlinePeer) CanInlineRule() *bool            { return jsii.Bool(true) }
func (p *inlinePeer) Connections() awsec2.Connections { return p.group.Connections() }
func (p *inlinePeer) UniqueId() *string               { return p.group.Node().Addr() }
func (p *inlinePeer) ToIngressRuleConfig() *awsec2.IngressRuleConfig {
	return &awsec2.IngressRuleConfig{SourceSecurityGroupId: ref(p.group)}
}
func (p *inlinePeer) ToEgressRuleConfig() *awsec2.EgressRuleConfig {
	return &awsec2.EgressRuleConfig{DestinationSecurityGroupId: ref(p.group)}
}

// ref of a group is its id, as SecurityGroupId is, in fewer bytes.
func ref(group awsec2.SecurityGroup) *string {
	return group.Node().DefaultChild().(awsec2.CfnSecurityGroup).Ref()
}

// newSecurityGroup opens what the table says of anyone: over IPv4, and over IPv6 for nodes and load balancers that have it.
// Nodes reach everything outside; a load balancer reaches only what open lets it.
func newSecurityGroup(scope constructs.Construct, vpc awsec2.IVpc, of peer, description string, ipv6 bool) awsec2.SecurityGroup {
	isNode := of == masterNodes || of == mediaNodes
	group := awsec2.NewSecurityGroup(scope, jsii.String("SG"), &awsec2.SecurityGroupProps{
		Vpc:                  vpc,
		Description:          &description,
		AllowAllOutbound:     &isNode,
		AllowAllIpv6Outbound: &isNode,
	})
	public := false
	for _, p := range ports {
		if p.to != of || p.from != anyone {
			continue
		}
		public = true
		group.AddIngressRule(awsec2.Peer_AnyIpv4(), p.connection(), &p.use, nil)
		if ipv6 {
			group.AddIngressRule(awsec2.Peer_AnyIpv6(), p.connection(), &p.use, nil)
		}
	}
	if public {
		compliance.Accept(group, "Clients connect from anywhere, to the ports that OpenVidu documents.", "AwsSolutions-EC23")
	}
	return group
}
