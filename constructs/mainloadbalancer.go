package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// MainLoadBalancerProps are the properties of MainLoadBalancer.
type MainLoadBalancerProps struct {
	// Masters that answer on 443. Required.
	Masters MasterCluster
	// Fleet that takes RTMPS on 1935. Required.
	Fleet MediaFleet
	// Vpc of both. Required.
	Vpc awsec2.IVpc
	// VpcSubnets of the load balancer, public, one a zone; targets in other zones get no traffic, so name every zone of the
	// masters and of the fleet. Default: one public subnet of each zone of the VPC.
	VpcSubnets *awsec2.SubnetSelection
	// Certificate that covers the cluster's domain name, in this region. Required.
	Certificate awscertificatemanager.ICertificate
}

// MainLoadBalancer is the network load balancer of the cluster's domain name: TLS on 443 to the Master Nodes, RTMPS on 1935
// to the Media Nodes.
type MainLoadBalancer interface {
	constructs.Construct
	awsec2.IConnectable
	// LoadBalancer is the network load balancer; listeners may be added to it.
	LoadBalancer() nlb.NetworkLoadBalancer
	// DnsName that the cluster's domain name must point to.
	DnsName() *string

	masterTargets() nlb.NetworkTargetGroup
	mediaTargets() nlb.NetworkTargetGroup
	certificate() awscertificatemanager.ICertificate
}

type mainBalancer struct {
	constructs.Construct
	balancer nlb.NetworkLoadBalancer
	masters  nlb.NetworkTargetGroup
	media    nlb.NetworkTargetGroup
	tls      awscertificatemanager.ICertificate
}

// NewMainLoadBalancer makes the load balancer and registers masters and fleet. It panics on wrong props, with all problems
// at once.
func NewMainLoadBalancer(scope constructs.Construct, id *string, props *MainLoadBalancerProps) MainLoadBalancer {
	var wrong problems
	wrong.required("Masters", props.Masters == nil, "give the MasterCluster")
	wrong.required("Fleet", props.Fleet == nil, "give the MediaFleet")
	wrong.required("Vpc", props.Vpc == nil, "give the VPC of the cluster")
	wrong.required("Certificate", props.Certificate == nil, "give the certificate of the cluster's domain name")
	wrong.report(scope, id)

	m := &mainBalancer{tls: props.Certificate}
	constructs.NewConstruct_Override(m, scope, id)
	group := newSecurityGroup(m, props.Vpc, mainLoadBalancer, "OpenVidu main load balancer")
	open(m, masterNodes, props.Masters.securityGroup(), mainLoadBalancer, group)
	open(m, mediaNodes, props.Fleet.securityGroup(), mainLoadBalancer, group)
	m.balancer = newLoadBalancer(m, props.Vpc, props.VpcSubnets, group)

	m.masters = newTargetGroup(m, "Masters", props.Vpc, masterApiPort, masterApiPort, masterHealthPath,
		awscdk.Duration_Seconds(jsii.Number(30))) // API requests are short; signalling reconnects
	for _, g := range *props.Masters.Groups() {
		g.AttachToNetworkTargetGroup(m.masters)
	}
	newTlsListener(m.balancer, "Https", listenerTlsPort, props.Certificate, m.masters)

	// A stream goes on for as long as the Media Node drains.
	m.media = newTargetGroup(m, "Rtmp", props.Vpc, mediaRtmpPort, mediaIngressPort, mediaRtmpHealthPath,
		awscdk.Duration_Hours(jsii.Number(1)))
	props.Fleet.attach(m.media, nil)
	newTlsListener(m.balancer, "Rtmps", listenerRtmpsPort, props.Certificate, m.media)
	return m
}

func (m *mainBalancer) Connections() awsec2.Connections       { return m.balancer.Connections() }
func (m *mainBalancer) LoadBalancer() nlb.NetworkLoadBalancer { return m.balancer }
func (m *mainBalancer) DnsName() *string                      { return m.balancer.LoadBalancerDnsName() }
func (m *mainBalancer) ToString() *string                     { return m.Node().Path() }

func (m *mainBalancer) masterTargets() nlb.NetworkTargetGroup           { return m.masters }
func (m *mainBalancer) mediaTargets() nlb.NetworkTargetGroup            { return m.media }
func (m *mainBalancer) certificate() awscertificatemanager.ICertificate { return m.tls }
