package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// TurnTlsEndpointProps are the properties of TurnTlsEndpoint.
type TurnTlsEndpointProps struct {
	LoadBalancerProps

	// Fleet whose TURN servers are reached. Required.
	Fleet MediaFleet
	// Condition under which the endpoint exists, decided at deployment. Default: always.
	Condition awscdk.CfnCondition
}

// TurnTlsEndpoint is TURN over TLS on port 443, for users behind firewalls that let nothing else through: a network load
// balancer straight to the TURN servers of the Media Nodes. Its domain is the TurnDomainName of the MasterCluster.
type TurnTlsEndpoint interface {
	constructs.Construct
	awsec2.IConnectable
	// LoadBalancer is the network load balancer.
	LoadBalancer() nlb.NetworkLoadBalancer
	// DnsName that the TURN domain name must point to.
	DnsName() *string

	certificate() awscertificatemanager.ICertificate
	condition() awscdk.CfnCondition
}

type turnTlsEndpoint struct {
	constructs.Construct
	balancer nlb.NetworkLoadBalancer
	tls      awscertificatemanager.ICertificate
	when     awscdk.CfnCondition
}

// NewTurnTlsEndpoint makes the load balancer and registers the fleet. It panics on wrong props, with all problems at once.
func NewTurnTlsEndpoint(scope constructs.Construct, id *string, props *TurnTlsEndpointProps) TurnTlsEndpoint {
	props = orNew(props)
	var wrong problems
	wrong.required("Fleet", props.Fleet == nil, "give the MediaFleet")
	wrong.required("TurnDomainName of the MasterCluster", props.Fleet != nil && props.Fleet.turnDomainName() == "",
		"without it OpenVidu tells no client of this endpoint")
	wrong.otherStack(scope, "Fleet", props.Fleet)
	props.LoadBalancerProps.check(&wrong)
	wrong.report(scope, id)

	t := &turnTlsEndpoint{when: props.Condition}
	constructs.NewConstruct_Override(t, scope, id)
	common, domain := props.LoadBalancerProps, jsii.String(props.Fleet.turnDomainName())
	if props.Condition != nil && common.HostedZoneWhen != nil {
		common.HostedZoneWhen = awscdk.NewCfnCondition(t, jsii.String("WithRecord"), &awscdk.CfnConditionProps{
			Expression: awscdk.Fn_ConditionAnd(props.Condition, common.HostedZoneWhen),
		})
	}
	group := newSecurityGroup(t, props.Vpc, turnLoadBalancer, "OpenVidu TURN load balancer", common.dualStack())
	open(t, mediaNodes, props.Fleet.securityGroup(), turnLoadBalancer, group)
	t.balancer = newLoadBalancer(t, &common, domain, group, props.Fleet.interfaces())
	targets := newTargetGroup(t, "Turn", props.Vpc, mediaTurnPort, mediaLiveKitPort, mediaTurnHealthPath)
	keepConnections(targets)
	t.tls = common.certificate(t, domain)
	newTlsListener(t.balancer, "Tls", listenerTlsPort, t.tls, targets)
	props.Fleet.attach(targets, props.Condition)
	if props.Condition != nil {
		for _, child := range *t.Node().FindAll(constructs.ConstructOrder_PREORDER) {
			if resource, ok := child.(awscdk.CfnResource); ok && resource.CfnOptions().Condition() == nil {
				resource.CfnOptions().SetCondition(props.Condition)
			}
		}
	}
	props.Fleet.endBefore(t)
	return t
}

func (t *turnTlsEndpoint) Connections() awsec2.Connections       { return t.balancer.Connections() }
func (t *turnTlsEndpoint) LoadBalancer() nlb.NetworkLoadBalancer { return t.balancer }
func (t *turnTlsEndpoint) DnsName() *string                      { return t.balancer.LoadBalancerDnsName() }
func (t *turnTlsEndpoint) ToString() *string                     { return t.Node().Path() }

func (t *turnTlsEndpoint) certificate() awscertificatemanager.ICertificate { return t.tls }
func (t *turnTlsEndpoint) condition() awscdk.CfnCondition                  { return t.when }
