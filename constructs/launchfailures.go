package constructs

import (
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsautoscaling"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/functions"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// launchFailures tells a waiting stack why no instance starts: a node that never boots cannot. It is one for the groups of a stack.
type launchFailures struct {
	constructs.Construct
	function awslambda.Function
	before   []awscdk.CfnResource // what hears, to be there before the first launch
	masters  []string             // the groups that also updates wait for
	media    []string             // the others
	urls     []string             // where the others' nodes report, in the same order
}

func newLaunchFailures(scope constructs.Construct) *launchFailures {
	l := &launchFailures{}
	constructs.NewConstruct_Override(l, scope, jsii.String("Launches"))
	stack := awscdk.Stack_Of(l)
	l.function, _ = newFunction(l, "Function", *script(l, "Frame", functions.Frame)+functions.Launches, nil,
		// Neither can be limited to a resource.
		allow("*", "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeScalingActivities"),
		allow(*stack.StackId(), "cloudformation:SignalResource"))
	compliance.Accept(l.function.Role(), "These Describe calls cannot be limited to a resource.", "AwsSolutions-IAM5[Resource::*]")
	// By the beginning of the groups' names, which CloudFormation makes of the stack's: their references would let the rule
	// come after the groups, and the first events be missed. The function looks whose group it is.
	rule := awsevents.NewCfnRule(l, jsii.String("Rule"), &awsevents.CfnRuleProps{
		Description: jsii.String("Launches that fail: tells the stack that waits for them"),
		EventPattern: map[string]any{
			"source":      jsii.Strings("aws.autoscaling"),
			"detail-type": jsii.Strings("EC2 Instance Launch Unsuccessful"),
			"detail": map[string]any{"AutoScalingGroupName": []any{
				map[string]any{"prefix": awscdk.Fn_Sub(jsii.String("${AWS::StackName}-"), nil)}}},
		},
		Targets: &[]any{&awsevents.CfnRule_TargetProperty{Id: jsii.String("Function"), Arn: l.function.FunctionArn()}},
	})
	permission := awslambda.NewCfnPermission(l, jsii.String("Permission"), &awslambda.CfnPermissionProps{
		Action:       jsii.String("lambda:InvokeFunction"),
		FunctionName: l.function.FunctionArn(),
		Principal:    jsii.String("events.amazonaws.com"),
		SourceArn:    rule.AttrArn(),
	})
	l.before = []awscdk.CfnResource{rule, permission}
	return l
}

// hear lets the group launch its first instance when somebody listens.
func (l *launchFailures) hear(group awsautoscaling.AutoScalingGroup) awsautoscaling.CfnAutoScalingGroup {
	resource := group.Node().DefaultChild().(awsautoscaling.CfnAutoScalingGroup)
	for _, other := range l.before {
		resource.AddResourceDependency(other, nil)
	}
	return resource
}

// hearMaster is hear for a group that also an update waits for.
func (l *launchFailures) hearMaster(group awsautoscaling.AutoScalingGroup, ready awscdk.CfnWaitConditionHandle) {
	l.function.AddEnvironment(jsii.String("MASTER_WAIT_URL"), ready.Ref(), nil)
	l.masters = append(l.masters, *l.hear(group).LogicalId())
	l.function.AddEnvironment(jsii.String("MASTER_GROUPS"), jsii.String(strings.Join(l.masters, ",")), nil)
}

// hearMedia is hear for a group of Media Nodes, which report to a handle of their own.
func (l *launchFailures) hearMedia(group awsautoscaling.AutoScalingGroup, ready awscdk.CfnWaitConditionHandle) {
	l.media = append(l.media, *l.hear(group).LogicalId())
	l.urls = append(l.urls, *ready.Ref())
	l.function.AddEnvironment(jsii.String("MEDIA_GROUPS"), jsii.String(strings.Join(l.media, ",")), nil)
	l.function.AddEnvironment(jsii.String("MEDIA_WAIT_URLS"), jsii.String(strings.Join(l.urls, " ")), nil)
}

// sameStack tells whether one of the two may wait for the other.
func sameStack(one, other constructs.IConstruct) bool {
	return *awscdk.Stack_Of(one).Node().Path() == *awscdk.Stack_Of(other).Node().Path()
}

func (l *launchFailures) ToString() *string { return l.Node().Path() }
