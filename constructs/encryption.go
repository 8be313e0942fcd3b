package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/jsii-runtime-go"
)

// encryption is a key of KMS, where the condition holds (nil: always). Without a key, the account's own for the service encrypts.
type encryption struct {
	key  awskms.IKey
	when awscdk.CfnCondition
}

func (e encryption) check(wrong *problems, prop string) {
	wrong.required(prop, e.key == nil && e.when != nil, "give the key that "+prop+"When decides on")
}

// arn is the value of a KmsKeyId; nil where there is no key.
func (e encryption) arn() *string {
	switch {
	case e.key == nil:
		return nil
	case e.when == nil:
		return e.key.KeyArn()
	}
	return awscdk.Fn_ConditionIf(e.when.LogicalId(), e.key.KeyArn(), awscdk.Aws_NO_VALUE()).ToString()
}

// allow lets a role use the key, through one service alone.
func (e encryption) allow(to *rights, name, service string, actions ...string) {
	if e.key != nil {
		to.addWhen(e.when, name, e.use(service, actions...))
	}
}

// allowVolumes lets a role attach volumes or take snapshots: EC2 uses their key by a grant, which it makes in the role's name
// (Amazon EBS User Guide, Requirements for Amazon EBS encryption).
func (e encryption) allowVolumes(to *rights, name string, actions ...string) {
	if e.key == nil {
		return
	}
	statements := []awsiam.PolicyStatement{e.grant()}
	if len(actions) > 0 {
		statements = append(statements, e.use("ec2", actions...))
	}
	to.addWhen(e.when, name, statements...)
}

func (e encryption) use(service string, actions ...string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions:    jsii.Strings(actions...),
		Resources:  &[]*string{e.key.KeyArn()},
		Conditions: &map[string]any{"StringEquals": viaService(service)},
	})
}

func (e encryption) grant() awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions:   jsii.Strings("kms:CreateGrant"),
		Resources: &[]*string{e.key.KeyArn()},
		Conditions: &map[string]any{
			"Bool":         map[string]any{"kms:GrantIsForAWSResource": true},
			"StringEquals": viaService("ec2"),
		},
	})
}

func viaService(service string) map[string]any {
	return map[string]any{"kms:ViaService": awscdk.Fn_Sub(jsii.String(service+".${AWS::Region}.${AWS::URLSuffix}"), nil)}
}
