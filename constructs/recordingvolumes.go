package constructs

import (
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdlm"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// RecordingVolumesProps are the properties of RecordingVolumes.
type RecordingVolumesProps struct {
	// AvailabilityZones of the slots, in their order: the zone of each Master Node's subnet. Required.
	AvailabilityZones *[]*string
	// Size of each volume, 50 GiB to 64 TiB. It can grow later, never shrink. Default: 100 GiB.
	Size awscdk.Size
	// RemovalPolicy says what becomes of the volumes when they are removed from the stack or the stack is deleted.
	// Volumes whose creation is rolled back are blank, and deleted in any case. Default: RETAIN.
	RemovalPolicy awscdk.RemovalPolicy
	// RetainWhen decides at deployment, instead of RemovalPolicy: volumes are retained when the condition holds, deleted
	// otherwise. It must not change afterwards: that would replace the volumes by blank ones (the old ones are kept).
	// Default: RemovalPolicy decides.
	RetainWhen awscdk.CfnCondition
	// SnapshotRetentionDays is how many daily snapshots of each volume are kept, 0 to 1000; 0 makes none. They are taken by
	// Amazon Data Lifecycle Manager at 03:00 UTC, each consistent as after a power cut. Default: 7.
	SnapshotRetentionDays *float64
	// SnapshotIds that the volumes are restored from, one a slot, in their order. A change replaces the volumes (the old ones
	// are kept). Default: blank volumes.
	SnapshotIds *[]*string
	// EncryptionKey of the volumes and their snapshots. A change replaces them. Give it also where the account's default key for EBS
	// is one of its own making: who attaches volumes is allowed the use of this key and of no other.
	// Default: the account's key for EBS (aws/ebs).
	EncryptionKey awskms.IKey
	// EncryptionKeyWhen decides at deployment whether EncryptionKey is used. It must not change afterwards. Default: always.
	EncryptionKeyWhen awscdk.CfnCondition
}

// RecordingVolumes are the encrypted gp3 volumes that hold the Master Nodes' data, one a slot: recordings, databases,
// metrics and configuration (/opt/openvidu).
type RecordingVolumes interface {
	constructs.Construct
	// VolumeIds in the order of the slots.
	VolumeIds() *[]*string
	// Size of each volume.
	Size() awscdk.Size
	// GrantAttach lets the grantee attach these volumes to instances that carry the tag.
	GrantAttach(grantee awsiam.IGrantable, tagKey, tagValue *string)

	// tagPrivateIps writes on each volume which address its data was written with; snapshots carry it on.
	tagPrivateIps(ips []*string)
	// attachStatement allows to attach the volumes; allowAttachTo says to which instances.
	attachStatement() awsiam.PolicyStatement
	encryption() encryption
	// deletedWhen tells whether the volumes may go with the stack, and on which condition (nil: they do).
	deletedWhen() (ever bool, when awscdk.CfnCondition)
	// zones in the order of the slots.
	zones() []*string
	// tag is the value of volumesTag, on volumes and snapshots.
	tag() *string
}

type recordingVolumes struct {
	constructs.Construct
	ids  []*string
	made [][]awsec2.CfnVolume // a slot's: one, or one for each case of RetainWhen
	size awscdk.Size
	key  encryption

	places  []*string
	goes    bool
	deleted awscdk.CfnCondition
}

// NewRecordingVolumes makes one volume for each zone. It panics on wrong props, with all problems at once.
func NewRecordingVolumes(scope constructs.Construct, id *string, props *RecordingVolumesProps) RecordingVolumes {
	props = orNew(props)
	var wrong problems
	wrong.required("AvailabilityZones", props.AvailabilityZones == nil || len(*props.AvailabilityZones) == 0, "give the zone of each slot's subnet")
	size := props.Size
	if size == nil {
		size = awscdk.Size_Gibibytes(jsii.Number(DefaultVolumeSize))
	}
	wrong.within("Size", size.ToGibibytes(nil), 50, 64*1024)
	if props.RetainWhen != nil && props.RemovalPolicy != "" {
		wrong.add("RemovalPolicy is %q beside RetainWhen: give one of them", props.RemovalPolicy)
	}
	wrong.within("SnapshotRetentionDays", props.SnapshotRetentionDays, 0, 1000)
	if props.AvailabilityZones != nil {
		wrong.each("SnapshotIds", props.SnapshotIds, len(*props.AvailabilityZones))
	}
	key := encryption{props.EncryptionKey, props.EncryptionKeyWhen}
	key.check(&wrong, "EncryptionKey")
	wrong.report(scope, id)

	v := &recordingVolumes{size: size, key: key, places: *props.AvailabilityZones}
	constructs.NewConstruct_Override(v, scope, id)

	compliance.Accept(v, "Data Lifecycle Manager takes daily snapshots; plans of AWS Backup are the account's, and may select these volumes too.", "NIST.800.53.R5-EC2EBSInBackupPlan")

	policy := props.RemovalPolicy
	if policy == "" || policy == awscdk.RemovalPolicy_RETAIN {
		policy = awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE
	}
	v.goes = policy == awscdk.RemovalPolicy_DESTROY
	if props.RetainWhen != nil {
		v.goes = true
		v.deleted = awscdk.NewCfnCondition(v, jsii.String("NotRetained"), &awscdk.CfnConditionProps{
			Expression: awscdk.Fn_ConditionNot(props.RetainWhen),
		})
	}
	for i, zone := range *props.AvailabilityZones {
		v.made = append(v.made, nil)
		volume := func(name string, policy awscdk.RemovalPolicy, when awscdk.CfnCondition) *string {
			// Not awsec2.Volume: it takes no size that only CloudFormation knows.
			resource := awsec2.NewCfnVolume(v, jsii.String(fmt.Sprint(name, i+1)), &awsec2.CfnVolumeProps{
				AvailabilityZone: zone,
				Size:             size.ToGibibytes(nil),
				VolumeType:       jsii.String("gp3"),
				Encrypted:        jsii.Bool(true),
				KmsKeyId:         key.arn(),
			})
			if props.SnapshotIds != nil {
				resource.SetSnapshotId((*props.SnapshotIds)[i])
			}
			v.made[i] = append(v.made[i], resource)
			awscdk.Validations_Of(resource).Acknowledge(&awscdk.Acknowledgment{
				Id: jsii.String("CloudFormation-Validate::W3010"), Reason: jsii.String("The zone is the slot's subnet's."),
			})
			resource.ApplyRemovalPolicy(policy, nil)
			// Whatever replaces a volume, the old one and its data stay.
			resource.CfnOptions().SetUpdateReplacePolicy(awscdk.CfnDeletionPolicy_RETAIN)
			if when != nil {
				resource.CfnOptions().SetCondition(when)
			}
			return resource.Ref()
		}
		if props.RetainWhen == nil {
			v.ids = append(v.ids, volume("Volume", policy, nil))
			continue
		}
		retained := volume("Retained", awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE, props.RetainWhen)
		temporary := volume("Deleted", awscdk.RemovalPolicy_DESTROY, v.deleted)
		v.ids = append(v.ids, awscdk.Fn_ConditionIf(props.RetainWhen.LogicalId(), retained, temporary).ToString())
	}
	if days := or(props.SnapshotRetentionDays, DefaultSnapshotRetentionDays); days != 0 {
		v.takeSnapshots(days)
	}
	return v
}

// takeSnapshots lets Data Lifecycle Manager look after all volumes that carry the tag of these.
func (v *recordingVolumes) takeSnapshots(days float64) {
	mine := v.tag()
	for _, slot := range v.made {
		for _, volume := range slot {
			awscdk.Tags_Of(volume).Add(jsii.String(volumesTag), mine, nil)
		}
	}
	// What AWSDataLifecycleManagerServiceRole allows for snapshots of volumes, and these volumes alone. Not its rights to copy and
	// share snapshots, and to make rules of EventBridge: the policy below does neither.
	snapshotArn := awscdk.Fn_Sub(jsii.String("arn:${AWS::Partition}:ec2:${AWS::Region}::snapshot/*"), nil)
	ofThese := &map[string]any{"StringEquals": map[string]any{"aws:ResourceTag/" + volumesTag: mine}}
	rights := newRole(v, "SnapshotRole", "dlm.amazonaws.com")
	rights.add(
		allow("*", "ec2:DescribeInstances", "ec2:DescribeSnapshots", "ec2:DescribeVolumes"),
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions:    jsii.Strings("ec2:CreateSnapshot"),
			Resources:  &[]*string{awscdk.Fn_Sub(jsii.String("arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:volume/*"), nil)},
			Conditions: ofThese,
		}),
		allow(*snapshotArn, "ec2:CreateSnapshot", "ec2:CreateTags"), // what is new has no tag yet
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions:    jsii.Strings("ec2:DeleteSnapshot"),
			Resources:  &[]*string{snapshotArn},
			Conditions: ofThese,
		}))
	v.key.allowVolumes(rights, "VolumesKey", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo")
	role := rights.role
	compliance.Accept(role, "Describe calls cannot be limited to a resource, and no id of a snapshot is known before.",
		"AwsSolutions-IAM5[Resource::*]", "AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ec2:<AWS::Region>::snapshot/*]")
	compliance.Accept(role, "Volumes with the tag of these alone, by a condition.",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ec2:<AWS::Region>:<AWS::AccountId>:volume/*]")
	policy := awsdlm.NewCfnLifecyclePolicy(v, jsii.String("Snapshots"), &awsdlm.CfnLifecyclePolicyProps{
		Description:      jsii.String("OpenVidu daily snapshots"),
		ExecutionRoleArn: role.RoleArn(),
		State:            jsii.String("ENABLED"),
		PolicyDetails: &awsdlm.CfnLifecyclePolicy_PolicyDetailsProperty{
			ResourceTypes: jsii.Strings("VOLUME"),
			TargetTags:    &[]any{&awscdk.CfnTag{Key: jsii.String(volumesTag), Value: mine}},
			Schedules: &[]any{&awsdlm.CfnLifecyclePolicy_ScheduleProperty{
				Name:       jsii.String("Daily"),
				CopyTags:   jsii.Bool(true),
				CreateRule: &awsdlm.CfnLifecyclePolicy_CreateRuleProperty{Interval: jsii.Number(24), IntervalUnit: jsii.String("HOURS"), Times: jsii.Strings("03:00")},
				RetainRule: &awsdlm.CfnLifecyclePolicy_RetainRuleProperty{Count: &days},
			}},
		},
	})
	if *awscdk.Token_IsUnresolved(days) {
		wanted := awscdk.NewCfnCondition(v, jsii.String("WithSnapshots"), &awscdk.CfnConditionProps{
			Expression: awscdk.Fn_ConditionNot(awscdk.Fn_ConditionEquals(days, 0)),
		})
		policy.CfnOptions().SetCondition(wanted)
		role.Node().DefaultChild().(awscdk.CfnResource).CfnOptions().SetCondition(wanted)
	}
}

func (v *recordingVolumes) tagPrivateIps(ips []*string) {
	for i, slot := range v.made {
		for _, volume := range slot {
			awscdk.Tags_Of(volume).Add(jsii.String(privateIpTag), ips[i], nil)
		}
	}
}

const (
	// DefaultVolumeSize of a Master Node's data, in GiB: that of OpenVidu's own template.
	DefaultVolumeSize = 100
	// DefaultSnapshotRetentionDays of the daily snapshots.
	DefaultSnapshotRetentionDays = 7

	// volumesTag names the RecordingVolumes that a volume belongs to, for the snapshots.
	volumesTag = "OpenViduVolumes"
	// privateIpTag is the fixed private IP of the volume's slot. Preflight reads it off snapshots.
	privateIpTag = "OpenViduPrivateIp"
)

func (v *recordingVolumes) VolumeIds() *[]*string { return &v.ids }

func (v *recordingVolumes) Size() awscdk.Size { return v.size }

func (v *recordingVolumes) GrantAttach(grantee awsiam.IGrantable, tagKey, tagValue *string) {
	principal := grantee.GrantPrincipal()
	principal.AddToPrincipalPolicy(v.attachStatement())
	principal.AddToPrincipalPolicy(allowAttachTo(*tagKey, tagValue, attachVolume))
	if v.key.key != nil {
		principal.AddToPrincipalPolicy(v.key.grant())
	}
}

func (v *recordingVolumes) attachStatement() awsiam.PolicyStatement {
	return allowAttach(attachVolume, "volume", v.ids)
}

func (v *recordingVolumes) encryption() encryption                   { return v.key }
func (v *recordingVolumes) deletedWhen() (bool, awscdk.CfnCondition) { return v.goes, v.deleted }

func (v *recordingVolumes) zones() []*string { return v.places }

// tag is unlike that of any other stack's volumes, also after a deletion.
func (v *recordingVolumes) tag() *string {
	stack := awscdk.Stack_Of(v)
	return awscdk.Fn_Sub(jsii.String("${AWS::StackId}/"+strings.TrimPrefix(*v.Node().Path(), *stack.Node().Path()+"/")), nil)
}

func (v *recordingVolumes) ToString() *string { return v.Node().Path() }

// Attaching takes two statements, one for what is attached and one for the instance: a condition on the tag in one
// statement for both would have to match both.

// allowAttach these, to whatever allowAttachTo lets them be attached to.
func allowAttach(action, resource string, ids []*string) awsiam.PolicyStatement {
	var arns []*string
	for _, id := range ids {
		arns = append(arns, awscdk.Fn_Sub(jsii.String(ec2Arn+resource+"/${Id}"), &map[string]*string{"Id": id}))
	}
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{Actions: jsii.Strings(action), Resources: &arns})
}

// allowAttachTo instances with the tag.
func allowAttachTo(tagKey string, tagValue *string, actions ...string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions:    jsii.Strings(actions...),
		Resources:  &[]*string{awscdk.Fn_Sub(jsii.String(ec2Arn+"instance/*"), nil)},
		Conditions: &map[string]any{"StringEquals": map[string]any{"aws:ResourceTag/" + tagKey: tagValue}},
	})
}

const (
	attachVolume    = "ec2:AttachVolume"
	attachInterface = "ec2:AttachNetworkInterface"

	// An id belongs to one region and account; a role has no rights elsewhere.
	ec2Arn = "arn:${AWS::Partition}:ec2:*:*:"
)
