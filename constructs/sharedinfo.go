package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/functions"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

const (
	// DefaultRtcEngine is LiveKit's own; the other one, mediasoup, is experimental.
	DefaultRtcEngine = "pion"
	// DefaultOpenViduVersion is the release that these constructs were written for.
	DefaultOpenViduVersion = "3.9.0"
	// DefaultEnabledModules of a cluster.
	DefaultEnabledModules = "observability,v2compatibility,openviduMeet"
)

// SharedInfo is what all nodes share: the secret with every URL and credential, filled before any node boots, and the log
// group that outlives the nodes.
type SharedInfo interface {
	constructs.Construct
	// Secret is one JSON object. Settings come from the props; generated values appear once and stay; hand edits stay.
	Secret() awssecretsmanager.ISecret
	// Revision changes when a setting changes. What refers to it comes after the secret is filled.
	Revision() *string
	// Filled is the resource that fills the secret: what reads the secret at creation depends on it.
	Filled() constructs.IDependable
	// LogGroup takes the logs of boot and drain and OpenVidu's errors, of every node.
	LogGroup() awslogs.ILogGroup
}

type sharedInfo struct {
	constructs.Construct
	secret   awssecretsmanager.Secret
	logGroup awslogs.LogGroup
	filled   awscdk.CustomResource
}

func newSharedInfo(scope constructs.Construct, props *MasterClusterProps, masterIps []*string) SharedInfo {
	s := &sharedInfo{}
	constructs.NewConstruct_Override(s, scope, jsii.String("Info"))

	s.secret = awssecretsmanager.NewSecret(s, jsii.String("Secret"), &awssecretsmanager.SecretProps{
		Description:   jsii.String("OpenVidu High Availability: URLs and credentials"),
		EncryptionKey: props.SecretEncryptionKey,
	})
	compliance.Accept(s.secret, "The databases keep the passwords that they were made with: a rotated secret would lock the cluster out.",
		"AwsSolutions-SMG4", "NIST.800.53.R5-SecretsManagerRotationEnabled")
	if props.SecretEncryptionKey == nil {
		compliance.Accept(s.secret, "The account's key, unless SecretEncryptionKey is given.", "NIST.800.53.R5-SecretsManagerUsingKMSKey")
	}
	// Neither a value nor a generator: a template that holds one would overwrite the whole secret when it changes.
	s.secret.Node().DefaultChild().(awscdk.CfnResource).AddPropertyDeletionOverride(jsii.String("GenerateSecretString"))

	s.logGroup = newLogGroup(s, "Logs", props.LogRetention)

	settings := map[string]any{
		"DOMAIN_NAME":              props.DomainName,
		"LIVEKIT_TURN_DOMAIN_NAME": or(props.TurnDomainName, ""),
		"OPENVIDU_PRO_LICENSE":     props.License,
		"OPENVIDU_RTC_ENGINE":      or(props.RtcEngine, DefaultRtcEngine),
		"ENABLED_MODULES":          DefaultEnabledModules,
	}
	if props.RecordingBuckets != nil {
		settings["S3"] = props.RecordingBuckets.settings()
	}
	environment := map[string]*string{"SECRET_ARN": s.secret.SecretArn()}
	properties := map[string]any{
		// The function takes it from its environment; here it makes CloudFormation fill a secret that replaced another.
		"SecretArn": s.secret.SecretArn(),
		"Version":   or(props.OpenViduVersion, DefaultOpenViduVersion),
		"MasterIps": masterIps,
		"Settings":  settings,
		"Initial": map[string]any{
			"MEET_INITIAL_ADMIN_PASSWORD": or(props.InitialMeetAdminPassword, ""),
			"MEET_INITIAL_API_KEY":        or(props.InitialMeetApiKey, ""),
		},
	}
	statements := []awsiam.PolicyStatement{
		allow(*s.secret.SecretArn(), "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage")}
	if restored := props.RestoredSecret; restored != nil {
		arn, readable := restored.SecretArn(), restored.SecretArn()
		if when := props.RestoredSecretWhen; when != nil {
			arn = awscdk.Fn_ConditionIf(when.LogicalId(), arn, awscdk.Aws_NO_VALUE()).ToString()
			readable = awscdk.Fn_ConditionIf(when.LogicalId(), readable, s.secret.SecretArn()).ToString()
		}
		environment["RESTORED_SECRET_ARN"] = arn
		// A secret that its stack left behind may be encrypted with a key of its own.
		decrypt := allow(*awscdk.Stack_Of(s).FormatArn(&awscdk.ArnComponents{Service: jsii.String("kms"), Resource: jsii.String("key"),
			ResourceName: jsii.String("*")}), "kms:Decrypt")
		decrypt.AddCondition(jsii.String("StringEquals"), map[string]any{
			"kms:ViaService":                  awscdk.Fn_Sub(jsii.String("secretsmanager.${AWS::Region}.${AWS::URLSuffix}"), nil),
			"kms:EncryptionContext:SecretARN": readable,
		})
		statements = append(statements, allow(*readable, "secretsmanager:GetSecretValue"), decrypt)
	}
	fill := newResponder(s, "Credentials", functions.Credentials, environment, statements...)
	if props.RestoredSecret != nil {
		compliance.Accept(fill.Role(), "Which key encrypts the restored secret is its owner's to choose; of that secret alone, by a condition.",
			"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:kms:<AWS::Region>:<AWS::AccountId>:key/*]")
	}
	if restored := props.RestoredSecret; restored != nil && restored.EncryptionKey() != nil {
		restored.EncryptionKey().GrantDecrypt(fill)
	}
	s.filled = newCustomResource(s, "Fill", "Custom::OpenViduCredentials", fill, properties)
	if props.SecretEncryptionKey != nil {
		props.SecretEncryptionKey.GrantEncryptDecrypt(fill).ApplyBefore(s.filled)
	}
	return s
}

func (s *sharedInfo) Secret() awssecretsmanager.ISecret { return s.secret }
func (s *sharedInfo) Revision() *string                 { return s.filled.GetAttString(jsii.String("Revision")) }
func (s *sharedInfo) Filled() constructs.IDependable    { return s.filled }
func (s *sharedInfo) LogGroup() awslogs.ILogGroup       { return s.logGroup }
func (s *sharedInfo) ToString() *string                 { return s.Node().Path() }
