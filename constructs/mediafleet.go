package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsautoscaling"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/bootstrap"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

const (
	// DefaultMinCapacity of Media Nodes: with two, the rooms of a lost one are rebuilt on the other within seconds.
	DefaultMinCapacity = 2
	// DefaultMaxCapacity of Media Nodes.
	DefaultMaxCapacity = 5
	// DefaultTargetCpuUtilization of the Media Nodes, in percent.
	DefaultTargetCpuUtilization = 50

	// drainHook is scoped to its group, so a constant name does: the node knows it without a reference to the group.
	drainHook = "drain"
	// drainHeartbeatSeconds is how long the hook lives without a heartbeat; the node sends one a minute. 100 of these are
	// more than the 48 hours that a hook may last at most.
	drainHeartbeatSeconds = 3600
	// readyHook holds a Media Node back from service, or from being stopped in the warm pool, until it says that it is ready.
	// With it always there, a change of the warm pool's size has no moment in which a node counts before it is installed.
	readyHook = "ready"
	// warmupSeconds until the CPU of a new Media Node counts: it installs OpenVidu meanwhile.
	warmupSeconds = 300
)

// MediaFleetProps are the properties of MediaFleet.
type MediaFleetProps struct {
	InstanceProps

	// Masters of the cluster. Required.
	Masters MasterCluster
	// Vpc of the fleet, the one of the masters. Required.
	Vpc awsec2.IVpc
	// VpcSubnets of the fleet, any number. Clients reach Media Nodes directly, hence: Default: the VPC's public subnets.
	VpcSubnets *awsec2.SubnetSelection
	// InitialCapacity is the number of Media Nodes to begin with, at least 1. An update of the stack leaves the live number
	// alone, unless this changes. Default: MinCapacity, but at least 1.
	InitialCapacity *float64
	// MinCapacity of the fleet, 0 or more. Default: 2.
	MinCapacity *float64
	// MaxCapacity of the fleet, at least 1. Default: 5.
	MaxCapacity *float64
	// TargetCpuUtilization that scaling keeps the average CPU of the fleet close to, 1 to 100 percent. Default: 50.
	TargetCpuUtilization *float64
	// WarmPoolSize is the number of stopped Media Nodes, OpenVidu installed, that wait to be started when the fleet scales
	// out; a stopped one costs its disk only. Default: 0, no warm pool.
	WarmPoolSize *float64
}

// MediaFleet is the group of Media Nodes, which carry the calls. It scales on CPU. A Media Node that is to go drains first:
// it takes no new rooms and stays until its last room, stream and recording ended, 48 hours at most.
type MediaFleet interface {
	constructs.Construct
	awsec2.IConnectable
	awsiam.IGrantable
	// Group is the Auto Scaling group.
	Group() awsautoscaling.AutoScalingGroup
	// Role of the Media Nodes' instances.
	Role() awsiam.IRole
	// LaunchTemplate of the fleet. A new version reaches Media Nodes as they are replaced.
	LaunchTemplate() awsec2.LaunchTemplate

	// attach registers the fleet with a target group, where the condition holds (nil: always).
	attach(targets awselasticloadbalancingv2.NetworkTargetGroup, when awscdk.CfnCondition)
	// endBefore makes a deletion of the stack end the fleet before what carries its calls in these scopes. Call it when they are whole.
	endBefore(scopes ...constructs.Construct)
	securityGroup() awsec2.SecurityGroup
	turnDomainName() string
	targetCpu() *float64
	// interfaces of the masters, with the fixed addresses.
	interfaces() []awscdk.CfnResource
}

type mediaFleet struct {
	constructs.Construct
	masters  MasterCluster
	nodes    node
	fleet    awsautoscaling.AutoScalingGroup
	template awsec2.LaunchTemplate
	cpu      float64
	before   []any // references to what outlives the fleet, where it exists
}

// NewMediaFleet makes the Media Nodes. It panics on wrong props, with all problems at once.
func NewMediaFleet(scope constructs.Construct, id *string, props *MediaFleetProps) MediaFleet {
	props = orNew(props)
	var wrong problems
	wrong.required("Masters", props.Masters == nil, "give the MasterCluster that the Media Nodes belong to")
	wrong.required("Vpc", props.Vpc == nil, "give the VPC of the masters")
	props.InstanceProps.check(scope, &wrong)
	wrong.otherVpc(props.Vpc, props.Masters)
	subnets := props.VpcSubnets
	if subnets == nil {
		subnets = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PUBLIC}
	}
	if props.Vpc != nil {
		wrong.isolated(props.Vpc, subnetsOf(props.Vpc, subnets))
	}
	wrong.within("MinCapacity", props.MinCapacity, 0, 1000)
	wrong.within("MaxCapacity", props.MaxCapacity, 1, 1000)
	wrong.within("InitialCapacity", props.InitialCapacity, 1, 1000)
	wrong.within("TargetCpuUtilization", props.TargetCpuUtilization, 1, 100)
	wrong.within("WarmPoolSize", props.WarmPoolSize, 0, 1000)
	low, high := or(props.MinCapacity, DefaultMinCapacity), or(props.MaxCapacity, DefaultMaxCapacity)
	initial := or(props.InitialCapacity, max(low, 1))
	if !*awscdk.Token_IsUnresolved(low) && !*awscdk.Token_IsUnresolved(high) && !*awscdk.Token_IsUnresolved(initial) &&
		(low > initial || initial > high) {
		wrong.add("MinCapacity %v, InitialCapacity %v, MaxCapacity %v: each must be at most the next", low, initial, high)
	}
	wrong.report(scope, id)

	f := &mediaFleet{masters: props.Masters, cpu: or(props.TargetCpuUtilization, DefaultTargetCpuUtilization)}
	constructs.NewConstruct_Override(f, scope, id)
	masters := props.Masters
	shared := masters.SharedInfo()
	group := newSecurityGroup(f, props.Vpc, mediaNodes, "OpenVidu Media Nodes", true)
	f.nodes = newNode(f, group, masters.clusterId(), masters.clusterPath(), shared, shared.mediaSecret(), bootstrap.Media)
	open(f, masterNodes, masters.securityGroup(), mediaNodes, group)
	open(f, mediaNodes, group, masterNodes, masters.securityGroup())

	// By tag: the ARN of the group would close a circle, group -> launch template -> role -> group.
	f.nodes.add(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions: jsii.Strings("autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat",
			"autoscaling:SetInstanceHealth"),
		Resources: jsii.Strings("*"),
		Conditions: &map[string]any{
			"StringEquals": map[string]any{"aws:ResourceTag/" + clusterTag: f.nodes.clusterTag},
			"Null":         map[string]any{"aws:ResourceTag/" + slotTag: "true"}, // not the masters' groups
		},
	}), allow("*", "autoscaling:DescribeAutoScalingInstances")) // how a node learns the name of its group; cannot be limited

	compliance.Accept(f.nodes.role, "Groups with the cluster's tag alone, by a condition; other calls cannot be limited to a resource.", "AwsSolutions-IAM5[Resource::*]")

	if buckets := masters.buckets(); buckets != nil {
		f.nodes.role.AddManagedPolicy(buckets.policy())
	}

	header := append(f.nodes.header(f, masters, props.InstanceProps),
		bootstrap.Value("DRAIN_HOOK", drainHook),
		bootstrap.Value("READY_HOOK", readyHook))
	f.template = newLaunchTemplate(f, "LaunchTemplate", f.nodes, props.InstanceProps, jsii.Bool(true), header)

	f.fleet = awsautoscaling.NewAutoScalingGroup(f, jsii.String("ASG"), &awsautoscaling.AutoScalingGroupProps{
		Vpc:                   props.Vpc,
		VpcSubnets:            subnets,
		LaunchTemplate:        f.template,
		MinCapacity:           &low,
		MaxCapacity:           &high,
		DefaultInstanceWarmup: awscdk.Duration_Seconds(jsii.Number(warmupSeconds)),
		// A node that still carries calls when the hook's 48 hours end abandons it, and stays until somebody ends it (EC2 Auto Scaling
		// User Guide, instance lifecycle policies). The hook's own default is CONTINUE: a node that is dead, or stopped in the
		// warm pool, says nothing, and must not stay for ever.
		InstanceLifecyclePolicy: &awsautoscaling.InstanceLifecyclePolicy{RetentionTriggers: &awsautoscaling.RetentionTriggers{
			TerminateHookAbandon: awsautoscaling.TerminateHookAbandonAction_RETAIN}},
		GroupMetrics: &[]awsautoscaling.GroupMetrics{awsautoscaling.NewGroupMetrics(awsautoscaling.NewGroupMetric(jsii.String(metricRetained)))},
		// Written out for what it does: a stack update leaves the live number of Media Nodes alone.
		IgnoreUnmodifiedSizeProperties: jsii.Bool(true),
	})
	f.fleet.Node().AddDependency(shared.Filled())
	resource := f.fleet.Node().DefaultChild().(awsautoscaling.CfnAutoScalingGroup)
	resource.SetDesiredCapacity(numberText(initial))
	// Inside the group, not resources of their own: so no Media Node ever lives without them.
	resource.SetLifecycleHookSpecificationList([]any{
		lifecycleHook(drainHook, "TERMINATING", drainHeartbeatSeconds, "CONTINUE"),
		lifecycleHook(readyHook, "LAUNCHING", readyTimeoutSeconds, "CONTINUE"), // not ABANDON: it may carry calls by then
	})
	if size := or(props.WarmPoolSize, 0); size != 0 {
		f.newWarmPool(size)
	}
	compliance.Accept(f.fleet, "The load balancer checks RTMP and TURN alone: a node that fails may carry calls.",
		"NIST.800.53.R5-AutoScalingGroupELBHealthCheckRequired")
	failures := masters.launches()
	if !sameStack(f, masters) {
		failures = newLaunchFailures(f)
	}
	failures.hearMedia(f.fleet, f.nodes.handle)
	f.nodes.tagGroup(f.fleet, awscdk.Fn_Sub(jsii.String("${AWS::StackName} Media Node"), nil))
	f.fleet.ScaleOnCpuUtilization(jsii.String("Cpu"), &awsautoscaling.CpuUtilizationScalingProps{
		TargetUtilizationPercent: &f.cpu,
	})
	f.nodes.waitFor(f, 1, f.template, shared.Filled())
	f.endBefore(masters, f)
	reachable(f.fleet, props.Vpc, subnets)
	return f
}

func lifecycleHook(name, transition string, heartbeatSeconds float64, result string) *awsautoscaling.CfnAutoScalingGroup_LifecycleHookSpecificationProperty {
	return &awsautoscaling.CfnAutoScalingGroup_LifecycleHookSpecificationProperty{
		LifecycleHookName:   &name,
		LifecycleTransition: jsii.String("autoscaling:EC2_INSTANCE_" + transition),
		HeartbeatTimeout:    &heartbeatSeconds,
		DefaultResult:       &result,
	}
}

// newWarmPool relies on readyHook: without it, Auto Scaling stops an instance before it has installed anything.
func (f *mediaFleet) newWarmPool(size float64) {
	// Not AddWarmPool: it takes no size that only CloudFormation knows. Minimum and maximum the same: a pool of that size,
	// whatever the group's own maximum leaves room for.
	pool := awsautoscaling.NewCfnWarmPool(f, jsii.String("WarmPool"), &awsautoscaling.CfnWarmPoolProps{
		AutoScalingGroupName:     f.fleet.AutoScalingGroupName(),
		MinSize:                  &size,
		MaxGroupPreparedCapacity: &size,
		PoolState:                jsii.String("Stopped"),
	})
	if *awscdk.Token_IsUnresolved(size) {
		pool.CfnOptions().SetCondition(awscdk.NewCfnCondition(f, jsii.String("Warm"), &awscdk.CfnConditionProps{
			Expression: awscdk.Fn_ConditionNot(awscdk.Fn_ConditionEquals(size, 0)),
		}))
	}
}

func (f *mediaFleet) Connections() awsec2.Connections        { return f.nodes.group.Connections() }
func (f *mediaFleet) GrantPrincipal() awsiam.IPrincipal      { return f.nodes.role }
func (f *mediaFleet) Group() awsautoscaling.AutoScalingGroup { return f.fleet }
func (f *mediaFleet) Role() awsiam.IRole                     { return f.nodes.role }
func (f *mediaFleet) LaunchTemplate() awsec2.LaunchTemplate  { return f.template }
func (f *mediaFleet) ToString() *string                      { return f.Node().Path() }

func (f *mediaFleet) securityGroup() awsec2.SecurityGroup { return f.nodes.group }
func (f *mediaFleet) turnDomainName() string              { return f.masters.turnDomainName() }
func (f *mediaFleet) targetCpu() *float64                 { return &f.cpu }
func (f *mediaFleet) interfaces() []awscdk.CfnResource    { return f.masters.interfaces() }

func (f *mediaFleet) endBefore(scopes ...constructs.Construct) {
	group := f.fleet.Node().DefaultChild().(awscdk.CfnResource)
	for _, scope := range scopes {
		for _, child := range *scope.Node().FindAll(constructs.ConstructOrder_PREORDER) {
			resource, ok := child.(awscdk.CfnResource)
			if !ok || resource == group {
				continue
			}
			switch *resource.CfnResourceType() {
			// Not the wait conditions: Media Nodes boot beside the masters.
			case "AWS::AutoScaling::AutoScalingGroup", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress",
				"AWS::ElasticLoadBalancingV2::Listener", "AWS::Route53::RecordSet":
				if when := resource.CfnOptions().Condition(); when == nil {
					group.AddResourceDependency(resource, nil)
				} else {
					f.before = append(f.before, awscdk.Fn_ConditionIf(when.LogicalId(), resource.Ref(), awscdk.Aws_NO_VALUE()))
				}
			}
		}
	}
	if len(f.before) > 0 {
		// DependsOn must not name what may not exist. A reference in the metadata is a dependency too, and knows conditions.
		group.AddMetadata(jsii.String("EndsBefore"), f.before)
	}
}

func (f *mediaFleet) attach(targets awselasticloadbalancingv2.NetworkTargetGroup, when awscdk.CfnCondition) {
	if when == nil {
		f.fleet.AttachToNetworkTargetGroup(targets)
		return
	}
	arn := awscdk.Fn_ConditionIf(when.LogicalId(), targets.TargetGroupArn(), awscdk.Aws_NO_VALUE()).ToString()
	f.fleet.AttachToNetworkTargetGroup(awselasticloadbalancingv2.NetworkTargetGroup_FromTargetGroupAttributes(
		targets, jsii.String("WhereItExists"), &awselasticloadbalancingv2.TargetGroupAttributes{TargetGroupArn: arn}))
}
