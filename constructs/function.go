package constructs

import (
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/functions"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// newResponder makes a function for a custom resource. CloudFormation's address for answers is in the event, which whoever may
// invoke the function may write: so it knows its stack and S3's domain by itself.
func newResponder(scope constructs.Construct, id, code string, environment map[string]*string, statements ...awsiam.PolicyStatement) (awslambda.Function, *rights) {
	code = *script(scope, "Frame", functions.Frame) + *script(scope, "Respond", functions.Respond) + code
	function, rights := newFunction(scope, id, code, environment, statements...)
	function.AddEnvironment(jsii.String("URL_SUFFIX"), awscdk.Aws_URL_SUFFIX(), nil)
	return function, rights
}

// newFunction makes a function. Beside the statements it may write its own log and see the state of its stack, whose id is in
// its environment.
func newFunction(scope constructs.Construct, id, code string, environment map[string]*string, statements ...awsiam.PolicyStatement) (awslambda.Function, *rights) {
	logs := newLogGroup(scope, id+"Logs", "")
	rights := newRole(scope, id+"Role", "lambda.amazonaws.com")
	rights.add(append(statements,
		allow(*logs.LogGroupArn(), "logs:CreateLogStream", "logs:PutLogEvents"),
		allow(*awscdk.Stack_Of(scope).StackId(), "cloudformation:DescribeStacks"))...)
	function := awslambda.NewFunction(scope, &id, &awslambda.FunctionProps{
		Runtime:    awslambda.Runtime_NODEJS_24_X(),
		Handler:    jsii.String("index.handler"),
		Code:       awslambda.Code_FromInline(&code),
		Timeout:    awscdk.Duration_Seconds(jsii.Number(functionTimeoutSeconds)),
		MemorySize: jsii.Number(256), // the SDK's clients take half of the default 128
		LogGroup:   logs,
		Role:       rights.role,
		// An invocation that Lambda put off ends before CloudFormation gives up: it must not change what came after.
		MaxEventAge: awscdk.Duration_Seconds(jsii.Number(serviceTimeoutMinutes*60 - functionTimeoutSeconds)),
	})
	function.AddEnvironment(jsii.String("STACK_ID"), awscdk.Stack_Of(scope).StackId(), nil)
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		function.AddEnvironment(&name, environment[name], nil)
	}
	compliance.Accept(function, "It is invoked twice or so in an update, and when launches fail.", "NIST.800.53.R5-LambdaConcurrency")
	compliance.Accept(function, "It tells CloudFormation, also when it fails; nobody would read a dead letter.", "NIST.800.53.R5-LambdaDLQ")
	compliance.Accept(function, "It calls AWS alone, and the VPC need have no way there for a function.", "NIST.800.53.R5-LambdaInsideVPC")
	// The role is an attribute already, and its policy is part of it.
	function.Node().DefaultChild().(awscdk.CfnResource).AddDeletionOverride(jsii.String("DependsOn"))
	return function, rights
}

// newLogGroup keeps a month unless told otherwise, and goes with the stack.
func newLogGroup(scope constructs.Construct, id string, retention awslogs.RetentionDays) awslogs.LogGroup {
	if retention == "" {
		retention = awslogs.RetentionDays_ONE_MONTH
	}
	logs := awslogs.NewLogGroup(scope, &id, &awslogs.LogGroupProps{
		Retention:     retention,
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	leaveDefaults(logs)
	compliance.Accept(logs, "CloudWatch Logs encrypts with a key of its own; credentials are taken out of what nodes send.", "NIST.800.53.R5-CloudWatchLogGroupEncrypted")
	return logs
}

// leaveDefaults takes out the deletion policies that say what CloudFormation does anyway.
func leaveDefaults(made constructs.Construct) {
	resource := made.Node().DefaultChild().(awscdk.CfnResource)
	resource.AddDeletionOverride(jsii.String("DeletionPolicy"))
	resource.AddDeletionOverride(jsii.String("UpdateReplacePolicy"))
}

// rights are a role with policies inside it, to which statements may be added until the template is written: so no node and no
// function ever runs before its permissions are there.
type rights struct {
	role        awsiam.Role
	policy      awsiam.PolicyDocument
	conditional int // policies that exist on a condition
}

func newRole(scope constructs.Construct, id, service string) *rights {
	policy := awsiam.NewPolicyDocument(nil)
	role := awsiam.NewRole(scope, &id, &awsiam.RoleProps{
		AssumedBy:      awsiam.NewServicePrincipal(&service, nil),
		InlinePolicies: &map[string]awsiam.PolicyDocument{"Own": policy},
	})
	compliance.Accept(role, "Inside the role, so that it is there with it.", "NIST.800.53.R5-IAMNoInlinePolicy")
	return &rights{role: role, policy: policy}
}

func (r *rights) add(statements ...awsiam.PolicyStatement) { r.policy.AddStatements(statements...) }

// addWhen adds statements that exist where the condition holds (nil: always). The CDK knows no such policy of a role.
func (r *rights) addWhen(when awscdk.CfnCondition, name string, statements ...awsiam.PolicyStatement) {
	if when == nil {
		r.add(statements...)
		return
	}
	r.conditional++
	policy := awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{Statements: &statements})
	r.role.Node().DefaultChild().(awscdk.CfnResource).AddPropertyOverride(jsii.String(fmt.Sprint("Policies.", r.conditional)),
		awscdk.Fn_ConditionIf(when.LogicalId(), map[string]any{"PolicyName": name, "PolicyDocument": policy}, awscdk.Aws_NO_VALUE()))
}

// allow is a statement without conditions.
func allow(resource string, actions ...string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions:   jsii.Strings(actions...),
		Resources: jsii.Strings(resource),
	})
}

// functionTimeoutSeconds is many times what the few calls take. The rest is for waiting: a minute for policies that IAM does not
// know yet, two for addresses that a deleted stack still holds. The function answers 10 s before it ends.
const functionTimeoutSeconds = 180

// serviceTimeoutMinutes are enough for Lambda, which tries an invocation that failed three times, one and two minutes apart;
// CloudFormation need not wait its hour.
const serviceTimeoutMinutes = 15

func newCustomResource(scope constructs.Construct, id, resourceType string, function awslambda.Function, properties map[string]any) awscdk.CustomResource {
	resource := awscdk.NewCustomResource(scope, &id, &awscdk.CustomResourceProps{
		ResourceType:   &resourceType,
		ServiceToken:   function.FunctionArn(),
		ServiceTimeout: awscdk.Duration_Minutes(jsii.Number(serviceTimeoutMinutes)),
		Properties:     &properties,
	})
	leaveDefaults(resource)
	return resource
}
