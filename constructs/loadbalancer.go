package constructs

import (
	"strconv"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsroute53"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsroute53targets"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// LoadBalancerProps are what both load balancers have in common.
type LoadBalancerProps struct {
	// Vpc of the nodes. Required.
	Vpc awsec2.IVpc
	// VpcSubnets of the load balancer, one a zone; targets in other zones get no traffic, so name every zone of the nodes
	// behind it. An internet-facing load balancer needs public subnets; the nodes may be in private ones.
	// Default: one public subnet of each zone of the VPC.
	VpcSubnets *awsec2.SubnetSelection
	// InternetFacing is false for a load balancer with private addresses only, reached from the VPC and what is connected to
	// it. A change replaces the load balancer, and with it its DNS name. Default: true.
	InternetFacing *bool
	// IpAddressType is nlb.IpAddressType_DUAL_STACK for a load balancer that clients also reach over IPv6; its subnets must
	// have IPv6 addresses. Default: IPv4.
	IpAddressType nlb.IpAddressType
	// Certificate that covers the domain name, in this region. Default: one that is made and validated in HostedZone; without
	// HostedZone it is required.
	Certificate awscertificatemanager.ICertificate
	// HostedZone of Route 53 that the domain name is in: gets an alias record for it (A, and AAAA where dual-stack). A record
	// of that name that exists already fails the deployment. Default: none; point the domain name to DnsName yourself.
	HostedZone awsroute53.IHostedZone
	// HostedZoneWhen decides at deployment whether the record is made. With it, give Certificate. Default: always.
	HostedZoneWhen awscdk.CfnCondition
}

func (p *LoadBalancerProps) check(wrong *problems) {
	wrong.required("Vpc", p.Vpc == nil, "give the VPC of the nodes")
	wrong.required("Certificate", p.Certificate == nil && (p.HostedZone == nil || p.HostedZoneWhen != nil),
		"give the certificate of the domain name, or the HostedZone to make one in")
}

// certificate that was given, or a new one that DNS records in the hosted zone validate.
func (p *LoadBalancerProps) certificate(scope constructs.Construct, domain *string) awscertificatemanager.ICertificate {
	if p.Certificate != nil {
		return p.Certificate
	}
	return awscertificatemanager.NewCertificate(scope, jsii.String("Certificate"), &awscertificatemanager.CertificateProps{
		DomainName: domain,
		Validation: awscertificatemanager.CertificateValidation_FromDns(p.HostedZone),
	})
}

func (p *LoadBalancerProps) dualStack() bool { return p.IpAddressType == nlb.IpAddressType_DUAL_STACK }

// newLoadBalancer has its security group from the start (none can be added later). Cross-zone: four masters and a scaling
// fleet never spread evenly over the zones. It comes after the masters' interfaces: its own, in the same subnets, take any
// address, also one that a restored master needs.
func newLoadBalancer(scope constructs.Construct, props *LoadBalancerProps, domain *string, group awsec2.SecurityGroup, interfaces []awscdk.CfnResource) nlb.NetworkLoadBalancer {
	subnets := props.VpcSubnets
	if subnets == nil {
		subnets = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PUBLIC, OnePerAz: jsii.Bool(true)}
	}
	balancer := nlb.NewNetworkLoadBalancer(scope, jsii.String("LoadBalancer"), &nlb.NetworkLoadBalancerProps{
		Vpc:              props.Vpc,
		VpcSubnets:       subnets,
		InternetFacing:   jsii.Bool(or(props.InternetFacing, true)),
		IpAddressType:    props.IpAddressType,
		CrossZoneEnabled: jsii.Bool(true),
		SecurityGroups:   &[]awsec2.ISecurityGroup{group},
	})
	for _, other := range interfaces {
		if !sameStack(balancer, other) {
			continue
		}
		balancer.Node().DefaultChild().(awscdk.CfnResource).AddResourceDependency(other, nil)
	}
	compliance.Accept(balancer, "Access logs take a bucket, which is the account's: see LogAccessLogs of the load balancer.",
		"AwsSolutions-ELB2", "NIST.800.53.R5-ELBLoggingEnabled")
	compliance.Accept(balancer, "It holds no data, and protected it would keep its stack from being deleted.", "NIST.800.53.R5-ELBDeletionProtectionEnabled")
	if props.HostedZone != nil {
		// With the dot at its end the name is whole, whatever the zone is called.
		name := jsii.String(*domain + ".")
		target := awsroute53.RecordTarget_FromAlias(awsroute53targets.NewLoadBalancerTarget(balancer, nil))
		records := []constructs.Construct{
			awsroute53.NewARecord(scope, jsii.String("Record"), &awsroute53.ARecordProps{Zone: props.HostedZone, RecordName: name, Target: target}),
		}
		if props.dualStack() {
			records = append(records,
				awsroute53.NewAaaaRecord(scope, jsii.String("Ipv6Record"), &awsroute53.AaaaRecordProps{Zone: props.HostedZone, RecordName: name, Target: target}))
		}
		for _, record := range records {
			record.Node().DefaultChild().(awscdk.CfnResource).CfnOptions().SetCondition(props.HostedZoneWhen)
		}
	}
	return balancer
}

// newTlsListener ends TLS with the newest policy that the partition knows.
func newTlsListener(balancer nlb.NetworkLoadBalancer, id string, port int, certificate awscertificatemanager.ICertificate, targets nlb.NetworkTargetGroup) nlb.CfnListener {
	listener := balancer.AddListener(&id, &nlb.BaseNetworkListenerProps{
		Port:                jsii.Number(port),
		Protocol:            nlb.Protocol_TLS,
		Certificates:        &[]nlb.IListenerCertificate{nlb.ListenerCertificate_FromCertificateManager(certificate)},
		DefaultTargetGroups: &[]nlb.INetworkTargetGroup{targets},
	}).Node().DefaultChild().(nlb.CfnListener)
	listener.SetSslPolicy(awscdk.Fn_ConditionIf(
		chinaCondition(balancer).LogicalId(), "ELBSecurityPolicy-TLS13-1-2-2021-06", "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09").ToString())
	return listener
}

// chinaCondition stands once in the stack.
func chinaCondition(scope constructs.Construct) awscdk.CfnCondition {
	const id = "OpenViduInChina"
	stack := awscdk.Stack_Of(scope)
	if condition, ok := stack.Node().TryFindChild(jsii.String(id)).(awscdk.CfnCondition); ok {
		return condition
	}
	return awscdk.NewCfnCondition(stack, jsii.String(id), &awscdk.CfnConditionProps{
		Expression: awscdk.Fn_ConditionEquals(awscdk.Aws_PARTITION(), "aws-cn"),
	})
}

// deregistrationSeconds is how long a target that leaves a group stays in draining, whatever still runs on it. Auto Scaling waits for
// that before the termination hook begins, and so before a node that has drained may go (EC2 Auto Scaling User Guide, How lifecycle
// hooks work in Auto Scaling groups): an hour here would be an hour of each node that ends. Connections do not need it: a load
// balancer keeps those of a healthy target that it deregistered, see keepConnections, and the hook keeps the node.
const deregistrationSeconds = 60

// keepConnections is for calls and streams, which live in one connection: neither a failed health check nor the end of the
// deregistration must cut it.
func keepConnections(targets nlb.NetworkTargetGroup) {
	targets.SetAttribute(jsii.String("deregistration_delay.connection_termination.enabled"), jsii.String("false"))
	targets.SetAttribute(jsii.String("target_health_state.unhealthy.connection_termination.enabled"), jsii.String("false"))
}

// newTargetGroup is for instances; their health is checked over HTTP on a port of its own.
func newTargetGroup(scope constructs.Construct, id string, vpc awsec2.IVpc, port, healthPort int, healthPath string) nlb.NetworkTargetGroup {
	return nlb.NewNetworkTargetGroup(scope, &id, &nlb.NetworkTargetGroupProps{
		Vpc:                 vpc,
		Port:                jsii.Number(port),
		Protocol:            nlb.Protocol_TCP,
		TargetType:          nlb.TargetType_INSTANCE,
		DeregistrationDelay: awscdk.Duration_Seconds(jsii.Number(deregistrationSeconds)),
		HealthCheck: &nlb.HealthCheck{
			Protocol: nlb.Protocol_HTTP,
			Port:     jsii.String(strconv.Itoa(healthPort)),
			Path:     &healthPath,
			Interval: awscdk.Duration_Seconds(jsii.Number(10)), // unhealthy after two, healthy after five
		},
	})
}
