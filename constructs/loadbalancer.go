package constructs

import (
	"strconv"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// newLoadBalancer is internet-facing. Its security group is there from the start (none can be added later). Cross-zone:
// four masters and a scaling fleet never spread evenly over the zones.
func newLoadBalancer(scope constructs.Construct, vpc awsec2.IVpc, subnets *awsec2.SubnetSelection, group awsec2.SecurityGroup) nlb.NetworkLoadBalancer {
	if subnets == nil {
		subnets = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PUBLIC, OnePerAz: jsii.Bool(true)}
	}
	balancer := nlb.NewNetworkLoadBalancer(scope, jsii.String("LoadBalancer"), &nlb.NetworkLoadBalancerProps{
		Vpc:              vpc,
		VpcSubnets:       subnets,
		InternetFacing:   jsii.Bool(true),
		CrossZoneEnabled: jsii.Bool(true),
		SecurityGroups:   &[]awsec2.ISecurityGroup{group},
	})
	compliance.Accept(balancer, "Access logs take a bucket, which is the account's: see LogAccessLogs of the load balancer.",
		"AwsSolutions-ELB2", "NIST.800.53.R5-ELBLoggingEnabled")
	compliance.Accept(balancer, "It holds no data, and protected it would keep its stack from being deleted.", "NIST.800.53.R5-ELBDeletionProtectionEnabled")
	return balancer
}

// newTlsListener ends TLS with the newest policy that the partition knows.
func newTlsListener(balancer nlb.NetworkLoadBalancer, id string, port int, certificate awscertificatemanager.ICertificate, targets nlb.NetworkTargetGroup) nlb.NetworkListener {
	listener := balancer.AddListener(&id, &nlb.BaseNetworkListenerProps{
		Port:                jsii.Number(port),
		Protocol:            nlb.Protocol_TLS,
		Certificates:        &[]nlb.IListenerCertificate{nlb.ListenerCertificate_FromCertificateManager(certificate)},
		DefaultTargetGroups: &[]nlb.INetworkTargetGroup{targets},
	})
	listener.Node().DefaultChild().(nlb.CfnListener).SetSslPolicy(awscdk.Fn_ConditionIf(
		chinaCondition(balancer).LogicalId(), "ELBSecurityPolicy-TLS13-1-2-2021-06", "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09").ToString())
	return listener
}

// chinaCondition stands once in the stack.
func chinaCondition(scope constructs.Construct) awscdk.CfnCondition {
	const id = "InChina"
	stack := awscdk.Stack_Of(scope)
	if condition, ok := stack.Node().TryFindChild(jsii.String(id)).(awscdk.CfnCondition); ok {
		return condition
	}
	return awscdk.NewCfnCondition(stack, jsii.String(id), &awscdk.CfnConditionProps{
		Expression: awscdk.Fn_ConditionEquals(awscdk.Aws_PARTITION(), "aws-cn"),
	})
}

// newTargetGroup is for instances; their health is checked over HTTP on a port of its own.
func newTargetGroup(scope constructs.Construct, id string, vpc awsec2.IVpc, port, healthPort int, healthPath string, deregistration awscdk.Duration) nlb.NetworkTargetGroup {
	return nlb.NewNetworkTargetGroup(scope, &id, &nlb.NetworkTargetGroupProps{
		Vpc:                 vpc,
		Port:                jsii.Number(port),
		Protocol:            nlb.Protocol_TCP,
		TargetType:          nlb.TargetType_INSTANCE,
		DeregistrationDelay: deregistration,
		HealthCheck: &nlb.HealthCheck{
			Protocol: nlb.Protocol_HTTP,
			Port:     jsii.String(strconv.Itoa(healthPort)),
			Path:     &healthPath,
			Interval: awscdk.Duration_Seconds(jsii.Number(10)), // unhealthy after two, healthy after five
		},
	})
}
