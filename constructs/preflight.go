package constructs

import (
	"fmt"
	"slices"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/functions"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// PreflightProps are the properties of Preflight: the parameters of a template, as only CloudFormation knows them. Messages
// name these parameters as the template of this module does. What is left out is not checked.
type PreflightProps struct {
	// VpcId of the cluster (OpenViduVPC). Required.
	VpcId *string
	// MasterSubnetIds are 1 to 4 subnets, in a list that a parameter gives (OpenViduMasterNodeSubnets). Required.
	MasterSubnetIds *[]*string
	// MediaSubnetIds are any number of subnets, in a list that a parameter gives (OpenViduMediaNodeSubnets). Required.
	MediaSubnetIds *[]*string
	// LoadBalancerSubnetIds are public subnets for the load balancers, in a list that a parameter gives
	// (LoadBalancerSubnets); one of each zone is used, and every zone of the nodes must have one. Then the nodes' subnets
	// may be private, with a default route. Default: none (also an empty list); load balancers share the nodes' subnets, which
	// must be public.
	LoadBalancerSubnetIds *[]*string
	// ImageId of the nodes (AmiId). Required.
	ImageId *string
	// MasterRootVolumeSize of the Master Nodes, in GiB (MasterNodeRootVolumeSize). Default: 50.
	MasterRootVolumeSize *float64
	// MediaRootVolumeSize of the Media Nodes, in GiB (MediaNodeRootVolumeSize). Default: 50.
	MediaRootVolumeSize *float64
	// MasterInstanceType of the Master Nodes (MasterNodeInstanceType). Required.
	MasterInstanceType *string
	// MediaInstanceType of the Media Nodes (MediaNodeInstanceType). Required.
	MediaInstanceType *string
	// InitialCapacity of the fleet (InitialNumberOfMediaNodes). Default: not checked.
	InitialCapacity *float64
	// MinCapacity of the fleet (MinNumberOfMediaNodes). Default: not checked.
	MinCapacity *float64
	// MaxCapacity of the fleet (MaxNumberOfMediaNodes). Default: not checked; the free addresses of subnets then are, for one
	// Media Node each.
	MaxCapacity *float64
	// WarmPoolSize of the fleet. Default: 0.
	WarmPoolSize *float64
	// DomainName of the cluster. Required.
	DomainName *string
	// CertificateArn of the ACM certificate that must cover DomainName (OpenViduCertificateARN). Required.
	CertificateArn *string
	// TurnDomainName of TURN over TLS. Default: none (also "").
	TurnDomainName *string
	// TurnCertificateArn of the ACM certificate that must cover TurnDomainName (TurnCertificateARN). Default: none (also "").
	TurnCertificateArn *string
	// HostedZoneId of the zone that both domains must be in. Default: none (also "").
	HostedZoneId *string
	// DiskSize of the data volumes, in GB. Required.
	DiskSize *float64
	// RetainVolumes is true or false. Required.
	RetainVolumes *string
	// KmsKeyArn of the key that encrypts volumes and secrets. Default: none (also ""), the account's own.
	KmsKeyArn *string
	// RecordingsStorage is Volumes or S3. Default: Volumes.
	RecordingsStorage *string
	// AppDataBucketName of a bucket that exists (S3AppDataBucketName). Default: none (also ""), a new one.
	AppDataBucketName *string
	// ClusterDataBucketName of a bucket that exists (S3ClusterDataBucketName). Default: none (also ""), a new one.
	ClusterDataBucketName *string
	// SnapshotIds that the four slots are restored from, in a list that a parameter gives (VolumeSnapshotIds).
	// Default: blank volumes (also an empty list).
	SnapshotIds *[]*string
	// RestoredSecretArn of the secret with the credentials of what is restored (RestoredSharedInfoArn). Default: none (also "").
	RestoredSecretArn *string
}

// Preflight refuses in seconds what would fail after many minutes, or lose data, and looks up what CloudFormation cannot
// read off an id. It is for templates with parameters: a program that hands real subnets to the constructs needs none.
type Preflight interface {
	constructs.Construct
	// MasterSubnets are the subnets of the four slots, with their zones.
	MasterSubnets() *awsec2.SubnetSelection
	// MediaSubnets are the subnets of the fleet.
	MediaSubnets() *awsec2.SubnetSelection
	// LoadBalancerSubnets are one subnet for each zone: of those that were given, else of masters and fleet.
	LoadBalancerSubnets() *awsec2.SubnetSelection
	// TurnSubnets are one subnet for each zone: of those that were given, else of the fleet.
	TurnSubnets() *awsec2.SubnetSelection
	// RootDeviceName of the image.
	RootDeviceName() *string
	// Restored gives the snapshot that a slot, 1 to 4, is restored from, and the private IP that its data was written with.
	// Neither exists where SnapshotIds is empty.
	Restored(slot int) (snapshotId, privateIp *string)
	// MasterNodeZones is a sentence for an output: the zones of the Master Nodes, and what the loss of one means.
	MasterNodeZones() *string
}

type preflight struct {
	constructs.Construct
	props  *PreflightProps
	checks awscdk.CustomResource
	slots  awscdk.CustomResource
}

const (
	masterSubnets = "OpenViduMasterNodeSubnets"
	snapshots     = "VolumeSnapshotIds"
)

// NewPreflight makes the function and runs it at each creation and update. It panics on missing props, with all of them at once.
func NewPreflight(scope constructs.Construct, id *string, props *PreflightProps) Preflight {
	props = orNew(props)
	var wrong problems
	for prop, missing := range map[string]bool{
		"VpcId": props.VpcId == nil, "MasterSubnetIds": props.MasterSubnetIds == nil, "MediaSubnetIds": props.MediaSubnetIds == nil,
		"ImageId": props.ImageId == nil, "MasterInstanceType": props.MasterInstanceType == nil, "MediaInstanceType": props.MediaInstanceType == nil,
		"DomainName": props.DomainName == nil, "CertificateArn": props.CertificateArn == nil, "DiskSize": props.DiskSize == nil,
		"RetainVolumes": props.RetainVolumes == nil,
	} {
		wrong.required(prop, missing, "give the value of its parameter")
	}
	slices.Sort(wrong)
	wrong.report(scope, id)

	p := &preflight{props: props}
	constructs.NewConstruct_Override(p, scope, id)
	stack := awscdk.Stack_Of(p)
	// Of this account's alone: names of buckets are nobody's property, and a parameter may hold any.
	buckets := allow(*stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("s3"), Region: jsii.String(""), Account: jsii.String(""),
		Resource: jsii.String("*")}), "s3:GetBucketLocation")
	buckets.AddCondition(jsii.String("StringEquals"), map[string]any{"s3:ResourceAccount": stack.Account()})
	function, _ := newResponder(p, "Function", functions.Preflight, nil,
		// None of these can be limited to a resource.
		allow("*", "cloudwatch:GetMetricStatistics", "ec2:DescribeAvailabilityZones", "ec2:DescribeImages", "ec2:DescribeInstanceTypeOfferings",
			"ec2:DescribeInstanceTypes", "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables", "ec2:DescribeSnapshots",
			"ec2:DescribeSubnets", "ec2:GetEbsDefaultKmsKeyId"),
		allow(*stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("servicequotas"), Resource: jsii.String("ec2"),
			ResourceName: jsii.String("*")}), "servicequotas:GetServiceQuota"),
		allow(*stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("kms"), Resource: jsii.String("key"), ResourceName: jsii.String("*")}),
			"kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants"),
		buckets,
		// Not the ARNs that are given: a policy that changes with a parameter reaches the function later than the parameter
		// does, and the check of a new certificate would be skipped.
		allow(*stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("acm"), Resource: jsii.String("certificate"),
			ResourceName: jsii.String("*")}), "acm:DescribeCertificate"),
		allow(*stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("route53"), Region: jsii.String(""), Account: jsii.String(""),
			Resource: jsii.String("hostedzone"), ResourceName: jsii.String("*")}), "route53:GetHostedZone"))
	compliance.Accept(function.Role(), "These Describe calls cannot be limited to a resource.", "AwsSolutions-IAM5[Resource::*]")
	compliance.Accept(function.Role(), "Which buckets, certificates, zones, keys and quotas count, parameters say at each update; it learns region, names, validity and who may use them.",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:servicequotas:<AWS::Region>:<AWS::AccountId>:ec2/*]",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:kms:<AWS::Region>:<AWS::AccountId>:key/*]",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:route53:::hostedzone/*]",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:s3:::*]",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:acm:<AWS::Region>:<AWS::AccountId>:certificate/*]")
	// The names are those of the parameters: the function's messages tell them.
	p.checks = newCustomResource(p, "Checks", "Custom::OpenViduPreflight", function, map[string]any{
		"OpenViduVPC":               props.VpcId,
		masterSubnets:               props.MasterSubnetIds,
		"OpenViduMediaNodeSubnets":  props.MediaSubnetIds,
		"LoadBalancerSubnets":       props.LoadBalancerSubnetIds,
		"AmiId":                     props.ImageId,
		"MasterNodeRootVolumeSize":  or(props.MasterRootVolumeSize, DefaultRootVolumeSize),
		"MediaNodeRootVolumeSize":   or(props.MediaRootVolumeSize, DefaultRootVolumeSize),
		"MasterNodeInstanceType":    props.MasterInstanceType,
		"MediaNodeInstanceType":     props.MediaInstanceType,
		"InitialNumberOfMediaNodes": props.InitialCapacity,
		"MinNumberOfMediaNodes":     props.MinCapacity,
		"MaxNumberOfMediaNodes":     props.MaxCapacity,
		"WarmPoolSize":              props.WarmPoolSize,
		"DomainName":                props.DomainName,
		"OpenViduCertificateARN":    props.CertificateArn,
		"TurnDomainName":            props.TurnDomainName,
		"TurnCertificateARN":        props.TurnCertificateArn,
		"HostedZoneId":              props.HostedZoneId,
		"DiskSize":                  props.DiskSize,
		"RetainVolumes":             props.RetainVolumes,
		"KmsKeyArn":                 props.KmsKeyArn,
		"RecordingsStorage":         props.RecordingsStorage,
		"S3AppDataBucketName":       props.AppDataBucketName,
		"S3ClusterDataBucketName":   props.ClusterDataBucketName,
		snapshots:                   props.SnapshotIds,
		"RestoredSharedInfoArn":     props.RestoredSecretArn,
	})
	p.slots = newCustomResource(p, "Slots", "Custom::OpenViduSlots", function, map[string]any{
		masterSubnets: props.MasterSubnetIds,
		snapshots:     props.SnapshotIds,
	})
	// Interfaces and volumes take subnets and zones from here, all else depends on them: so nothing that costs or loses
	// something is made or changed before the checks.
	p.slots.Node().AddDependency(p.checks)
	return p
}

func (p *preflight) MasterSubnets() *awsec2.SubnetSelection {
	var subnets []awsec2.ISubnet
	for i := range MasterNodes {
		subnets = append(subnets, p.subnet(fmt.Sprint("Slot", i+1), &awsec2.SubnetAttributes{
			SubnetId:         p.slots.GetAttString(jsii.String(fmt.Sprint("Subnet", i+1))),
			AvailabilityZone: p.slots.GetAttString(jsii.String(fmt.Sprint("Zone", i+1))),
		}))
	}
	return &awsec2.SubnetSelection{Subnets: &subnets}
}

func (p *preflight) MediaSubnets() *awsec2.SubnetSelection {
	return p.selection("Media", p.props.MediaSubnetIds)
}

func (p *preflight) LoadBalancerSubnets() *awsec2.SubnetSelection {
	return p.selection("LoadBalancer", p.list("LoadBalancerSubnets"))
}

func (p *preflight) TurnSubnets() *awsec2.SubnetSelection {
	return p.selection("Turn", p.list("TurnSubnets"))
}

func (p *preflight) RootDeviceName() *string {
	return p.checks.GetAttString(jsii.String("RootDeviceName"))
}

func (p *preflight) Restored(slot int) (snapshotId, privateIp *string) {
	return p.slots.GetAttString(jsii.String(fmt.Sprint("Snapshot", slot))), p.slots.GetAttString(jsii.String(fmt.Sprint("PrivateIp", slot)))
}

func (p *preflight) MasterNodeZones() *string {
	return p.checks.GetAttString(jsii.String("MasterNodeZones"))
}

// list makes a list of what the checks return as one text.
func (p *preflight) list(attribute string) *[]*string {
	return awscdk.Fn_Split(jsii.String(","), p.checks.GetAttString(&attribute), nil)
}

// selection of a list whose length only CloudFormation knows: its one element is a token that stands for the whole.
func (p *preflight) selection(id string, list *[]*string) *awsec2.SubnetSelection {
	subnet := p.subnet(id, &awsec2.SubnetAttributes{SubnetId: (*list)[0]})
	return &awsec2.SubnetSelection{Subnets: &[]awsec2.ISubnet{subnet}}
}

// subnet is known by its id; nothing here asks for its route table, of which the CDK would warn.
func (p *preflight) subnet(id string, attributes *awsec2.SubnetAttributes) awsec2.ISubnet {
	subnet := awsec2.Subnet_FromSubnetAttributes(p, &id, attributes)
	awscdk.Annotations_Of(subnet).AcknowledgeWarning(jsii.String("@aws-cdk/aws-ec2:noSubnetRouteTableId"), nil)
	return subnet
}

func (p *preflight) ToString() *string { return p.Node().Path() }
