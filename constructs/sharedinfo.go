package constructs

import (
	"fmt"
	"strings"

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
	// DefaultRtcEngine is LiveKit's own. OpenVidu's template for 3.9 has mediasoup as its default.
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

	// mediaSecret holds of the Secret what Media Nodes use, for their role alone: they face the internet.
	mediaSecret() awssecretsmanager.ISecret
	encryption() encryption
}

type sharedInfo struct {
	constructs.Construct
	secret   awssecretsmanager.Secret
	media    awssecretsmanager.Secret
	logGroup awslogs.LogGroup
	filled   awscdk.CustomResource
	key      encryption
}

// mediaKeys are the keys of the secret that Media Nodes read, as media.sh has them.
var mediaKeys = []string{"REDIS_PASSWORD", "OPENVIDU_VERSION"}

func newSharedInfo(scope constructs.Construct, props *MasterClusterProps, masterIps []*string, volumes RecordingVolumes) SharedInfo {
	s := &sharedInfo{key: encryption{props.SecretEncryptionKey, props.SecretEncryptionKeyWhen}}
	constructs.NewConstruct_Override(s, scope, jsii.String("Info"))

	// Whatever stays of the data needs its credentials, so CloudFormation never deletes this secret, except when the creation itself
	// is rolled back. There is one, on no condition: a parameter that decided between two would, when it changes, replace the
	// secret of a running cluster by an empty one. Where the volumes go with the stack, the function deletes it, see below.
	s.secret = s.newSecret("Secret", "OpenVidu High Availability: URLs and credentials")
	s.secret.ApplyRemovalPolicy(awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE)
	s.secret.Node().DefaultChild().(awscdk.CfnResource).CfnOptions().SetUpdateReplacePolicy(awscdk.CfnDeletionPolicy_RETAIN)
	s.media = s.newSecret("MediaSecret", "OpenVidu High Availability: what Media Nodes use of the cluster's secret")

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
	// Which secrets, and what tells whether their data is still there, the function takes from its environment.
	environment := map[string]*string{
		"SECRET_ARN":       s.secret.SecretArn(),
		"MEDIA_SECRET_ARN": s.media.SecretArn(),
		"MEDIA_KEYS":       jsii.String(strings.Join(mediaKeys, ",")),
		"VOLUMES_TAG":      volumes.tag(),
	}
	ever, deleted := volumes.deletedWhen()
	var retained any = fmt.Sprint(!ever)
	if deleted != nil {
		retained = awscdk.Fn_ConditionIf(deleted.LogicalId(), "false", "true").ToString()
	}
	properties := map[string]any{
		// The function takes them from its environment; here they make CloudFormation fill a secret that replaced another.
		"SecretArn":       s.secret.SecretArn(),
		"MediaSecretArn":  s.media.SecretArn(),
		"MediaKeys":       mediaKeys,
		"VolumesRetained": retained,
		"Version":         or(props.OpenViduVersion, DefaultOpenViduVersion),
		"MasterIps":       masterIps,
		"Settings":        settings,
		"Initial": map[string]any{
			"MEET_INITIAL_ADMIN_PASSWORD": or(props.InitialMeetAdminPassword, ""),
			"MEET_INITIAL_API_KEY":        or(props.InitialMeetApiKey, ""),
		},
	}
	statements := []awsiam.PolicyStatement{
		allow(*s.secret.SecretArn(), "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"),
		allow(*s.media.SecretArn(), "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage")}
	if restored := props.RestoredSecret; restored != nil {
		arn := restored.SecretArn()
		if when := props.RestoredSecretWhen; when != nil {
			arn = awscdk.Fn_ConditionIf(when.LogicalId(), arn, awscdk.Aws_NO_VALUE()).ToString()
		}
		environment["RESTORED_SECRET_ARN"] = arn
	}
	fill, rights := newResponder(s, "Credentials", functions.Credentials, environment, statements...)
	if restored := props.RestoredSecret; restored != nil {
		// A secret that its stack left behind may be encrypted with a key of its own.
		decrypt := allow(*awscdk.Stack_Of(s).FormatArn(&awscdk.ArnComponents{Service: jsii.String("kms"), Resource: jsii.String("key"),
			ResourceName: jsii.String("*")}), "kms:Decrypt")
		conditions := viaService("secretsmanager")
		conditions["kms:EncryptionContext:SecretARN"] = restored.SecretArn()
		decrypt.AddCondition(jsii.String("StringEquals"), conditions)
		rights.addWhen(props.RestoredSecretWhen, "RestoredSecret", allow(*restored.SecretArn(), "secretsmanager:GetSecretValue"), decrypt)
		if props.RestoredSecretWhen == nil { // what is on a condition cdk-nag does not see
			compliance.Accept(fill.Role(), "Which key encrypts the restored secret is its owner's to choose; of that secret alone, by a condition.",
				"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:kms:<AWS::Region>:<AWS::AccountId>:key/*]")
		}
		if restored.EncryptionKey() != nil {
			restored.EncryptionKey().GrantDecrypt(fill)
		}
	}
	s.key.allow(rights, "SecretKey", "secretsmanager", "kms:Decrypt", "kms:GenerateDataKey")
	if ever {
		// When the stack is deleted and neither volumes nor snapshots of it are left, so is the secret.
		rights.addWhen(deleted, "DeleteSecret", allow(*s.secret.SecretArn(), "secretsmanager:DeleteSecret"), allow("*", "ec2:DescribeSnapshots"))
		if deleted == nil { // as above
			compliance.Accept(fill.Role(), "DescribeSnapshots cannot be limited to a resource.", "AwsSolutions-IAM5[Resource::*]")
		}
	}
	s.filled = newCustomResource(s, "Fill", "Custom::OpenViduCredentials", fill, properties)
	return s
}

// newSecret is empty: a template with a value or a generator would overwrite the whole secret when it changes.
func (s *sharedInfo) newSecret(id, description string) awssecretsmanager.Secret {
	secret := awssecretsmanager.NewSecret(s, &id, &awssecretsmanager.SecretProps{Description: &description})
	resource := secret.Node().DefaultChild().(awssecretsmanager.CfnSecret)
	resource.SetKmsKeyId(s.key.arn())
	resource.AddPropertyDeletionOverride(jsii.String("GenerateSecretString"))
	compliance.Accept(secret, "The databases keep the passwords that they were made with: a rotated secret would lock the cluster out.",
		"AwsSolutions-SMG4", "NIST.800.53.R5-SecretsManagerRotationEnabled")
	if s.key.key == nil {
		compliance.Accept(secret, "The account's key, unless SecretEncryptionKey is given.", "NIST.800.53.R5-SecretsManagerUsingKMSKey")
	}
	return secret
}

func (s *sharedInfo) Secret() awssecretsmanager.ISecret { return s.secret }
func (s *sharedInfo) Revision() *string                 { return s.filled.GetAttString(jsii.String("Revision")) }
func (s *sharedInfo) Filled() constructs.IDependable    { return s.filled }
func (s *sharedInfo) LogGroup() awslogs.ILogGroup       { return s.logGroup }
func (s *sharedInfo) ToString() *string                 { return s.Node().Path() }

func (s *sharedInfo) mediaSecret() awssecretsmanager.ISecret { return s.media }
func (s *sharedInfo) encryption() encryption                 { return s.key }
