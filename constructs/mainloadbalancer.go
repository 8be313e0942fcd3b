package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// MainLoadBalancerProps are the properties of MainLoadBalancer.
type MainLoadBalancerProps struct {
	LoadBalancerProps

	// Masters that answer on 443. Required.
	Masters MasterCluster
	// Fleet that takes RTMPS on 1935 and 1945. Required.
	Fleet MediaFleet
}

// MainLoadBalancer is the network load balancer of the cluster's domain name: TLS on 443 to the Master Nodes, RTMPS on 1935 and 1945
// to the Media Nodes. Where TURN has no domain of its own, 443 carries TURN too, and port 80 redirects to HTTPS.
type MainLoadBalancer interface {
	constructs.Construct
	awsec2.IConnectable
	// LoadBalancer is the network load balancer; listeners may be added to it.
	LoadBalancer() nlb.NetworkLoadBalancer
	// DnsName that the cluster's domain name must point to.
	DnsName() *string

	masterTargets() *string
	mediaTargets() *string
	certificate() awscertificatemanager.ICertificate
}

type mainBalancer struct {
	constructs.Construct
	balancer nlb.NetworkLoadBalancer
	masters  *string // the full name of the target group that 443 leads to
	media    *string // the full name of the target group of RTMP
	tls      awscertificatemanager.ICertificate
}

// NewMainLoadBalancer makes the load balancer and registers masters and fleet. It panics on wrong props, with all problems
// at once.
func NewMainLoadBalancer(scope constructs.Construct, id *string, props *MainLoadBalancerProps) MainLoadBalancer {
	props = orNew(props)
	var wrong problems
	wrong.required("Masters", props.Masters == nil, "give the MasterCluster")
	wrong.required("Fleet", props.Fleet == nil, "give the MediaFleet")
	wrong.otherStack(scope, "Masters", props.Masters)
	wrong.otherStack(scope, "Fleet", props.Fleet)
	wrong.otherVpc(props.Vpc, props.Masters)
	props.LoadBalancerProps.check(&wrong)
	wrong.report(scope, id)

	m := &mainBalancer{}
	constructs.NewConstruct_Override(m, scope, id)
	group := newSecurityGroup(m, props.Vpc, mainLoadBalancer, "OpenVidu main load balancer", props.dualStack())
	open(m, masterNodes, props.Masters.securityGroup(), mainLoadBalancer, group)
	open(m, mediaNodes, props.Fleet.securityGroup(), mainLoadBalancer, group)
	m.balancer = newLoadBalancer(m, &props.LoadBalancerProps, props.Masters.domainName(), group, props.Masters.interfaces())
	m.tls = props.certificate(m, props.Masters.domainName())

	toMasters := func(id string, port int) nlb.NetworkTargetGroup {
		targets := newTargetGroup(m, id, props.Vpc, port, masterApiPort, masterHealthPath)
		for _, g := range *props.Masters.Groups() {
			g.AttachToNetworkTargetGroup(targets)
		}
		return targets
	}
	masters := toMasters("Masters", masterApiPort)
	m.masters = masters.TargetGroupFullName()
	https := newTlsListener(m.balancer, "Https", listenerTlsPort, m.tls, masters)
	if turn, when := props.Masters.turnOnMainDomain(); turn {
		m.turnOnMain(props, group, https, masters, toMasters, when)
	}

	rtmp := newTargetGroup(m, "Rtmp", props.Vpc, mediaRtmpPort, mediaIngressPort, mediaRtmpHealthPath)
	keepConnections(rtmp) // a stream goes on for as long as the Media Node drains
	m.media = rtmp.TargetGroupFullName()
	props.Fleet.attach(rtmp, nil)
	newTlsListener(m.balancer, "Rtmps", listenerRtmpsPort, m.tls, rtmp)
	newTlsListener(m.balancer, "Rtmps1945", listenerRtmps1945Port, m.tls, rtmp)
	props.Fleet.endBefore(m)
	return m
}

// turnOnMain leads 443 to where Caddy tells TURN from HTTP, and opens 80. The masters are in all target groups whatever the
// condition says: so a change of it only turns a listener, to targets that are there already.
func (m *mainBalancer) turnOnMain(props *MainLoadBalancerProps, group awsec2.SecurityGroup, https nlb.CfnListener,
	api nlb.NetworkTargetGroup, toMasters func(id string, port int) nlb.NetworkTargetGroup, when awscdk.CfnCondition) {
	tls := toMasters("MastersTls", masterTlsPort)
	keepConnections(tls)
	http := m.balancer.AddListener(jsii.String("Http"), &nlb.BaseNetworkListenerProps{
		Port:                jsii.Number(listenerHttpPort),
		Protocol:            nlb.Protocol_TCP,
		DefaultTargetGroups: &[]nlb.INetworkTargetGroup{toMasters("MastersHttp", masterHttpPort)},
	}).Node().DefaultChild().(nlb.CfnListener)
	compliance.Accept(http, "What comes here is sent to HTTPS.", "NIST.800.53.R5-ELBv2ACMCertificateRequired")
	target := tls.TargetGroupArn()
	m.masters = tls.TargetGroupFullName()
	if when != nil {
		http.CfnOptions().SetCondition(when)
		target = awscdk.Fn_ConditionIf(when.LogicalId(), target, api.TargetGroupArn()).ToString()
		m.masters = awscdk.Fn_ConditionIf(when.LogicalId(), m.masters, api.TargetGroupFullName()).ToString()
	}
	https.SetDefaultActions(&[]any{&nlb.CfnListener_ActionProperty{Type: jsii.String("forward"), TargetGroupArn: target}})
	openTurnOnMain(m, props.Masters.securityGroup(), group, props.dualStack(), when)
}

func (m *mainBalancer) Connections() awsec2.Connections       { return m.balancer.Connections() }
func (m *mainBalancer) LoadBalancer() nlb.NetworkLoadBalancer { return m.balancer }
func (m *mainBalancer) DnsName() *string                      { return m.balancer.LoadBalancerDnsName() }
func (m *mainBalancer) ToString() *string                     { return m.Node().Path() }

func (m *mainBalancer) masterTargets() *string                          { return m.masters }
func (m *mainBalancer) mediaTargets() *string                           { return m.media }
func (m *mainBalancer) certificate() awscertificatemanager.ICertificate { return m.tls }
