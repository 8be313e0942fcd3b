package constructs

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsautoscaling"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsssm"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/bootstrap"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

const (
	// DefaultInstanceType of Master Nodes and Media Nodes.
	DefaultInstanceType = "c6a.xlarge"
	// DefaultRootVolumeSize of a node, in GiB: the images of all services take about 20, logs and uploads the rest.
	DefaultRootVolumeSize = 50
	// DefaultRootDeviceName is Amazon Linux's; Ubuntu's is /dev/sda1.
	DefaultRootDeviceName = "/dev/xvda"
	// DefaultInstallerUrl is OpenVidu's bucket over TLS; the documentation's http address serves the same files.
	DefaultInstallerUrl = "https://s3.eu-west-1.amazonaws.com/get.openvidu.io/pro/ha"

	// clusterTag names the cluster on everything that belongs to it. IAM policies rely on it.
	clusterTag = "OpenViduCluster"
	// slotTag is the slot, 1 to 4, of a Master Node and its group. No node reads it; an IAM policy keeps Media Nodes from groups that
	// have it.
	slotTag = "OpenViduMasterSlot"

	// InstallFlagsLength is the most characters of AdditionalInstallFlags that are known at deployment only: they stand in the
	// user data, so the parameter behind them needs this MaxLength.
	InstallFlagsLength = 1000

	// maxUserData is EC2's limit, in bytes, before base64.
	maxUserData = 16384

	// How long CloudFormation waits for a node: the node's own bounded waits end sooner, and say why. An hour is the
	// longest PauseTime that CloudFormation allows.
	readyTimeoutSeconds = 3600
)

// InstanceProps are what Master Nodes and Media Nodes have in common.
type InstanceProps struct {
	// InstanceType of the nodes, of the Nitro System. Default: c6a.xlarge.
	InstanceType awsec2.InstanceType
	// MachineImage of the nodes: Amazon Linux 2023, Ubuntu 22.04 or 24.04, of the instance type's architecture.
	// Default: the newest Amazon Linux 2023 of that architecture.
	MachineImage awsec2.IMachineImage
	// KeyPair for SSH. No port is open for it: see Connections. Default: none; Session Manager reaches every node.
	KeyPair awsec2.IKeyPair
	// RootDeviceName of the image. Default: /dev/xvda, Amazon Linux's (Ubuntu: /dev/sda1).
	RootDeviceName *string
	// RootVolumeSize of a node, 20 GiB to 16 TiB. Default: 50 GiB.
	RootVolumeSize awscdk.Size
	// RootVolumeKey encrypts the root volume. The key's policy must admit the service-linked role of Auto Scaling,
	// AWSServiceRoleForAutoScaling: without that, instances end right after their launch. Default: the account's key for EBS.
	RootVolumeKey awskms.IKey
	// RootVolumeKeyWhen decides at deployment whether RootVolumeKey is used. Default: always.
	RootVolumeKeyWhen awscdk.CfnCondition
	// BlockContainerMetadata keeps containers on the node from the instance metadata, and so from the node's role. With
	// RecordingBuckets OpenVidu's containers need that role: leave it off. Default: false.
	BlockContainerMetadata *bool
	// BeforeStart are lines of bash that root runs on the node at every boot, between OpenVidu's installation and its start,
	// with errexit, nounset and pipefail on: the place for configuration of one's own. A line that fails, fails the boot.
	// They are part of the user data, so they must not hold a secret. EC2 takes 16,384 bytes of it, which leaves at
	// least 4,096 for these lines; more is refused. A value that is known at
	// deployment only counts as 256 bytes. A change rolls the Master Nodes; Media Nodes take it as they are replaced.
	// Default: none.
	BeforeStart *[]*string
}

func (p InstanceProps) check(scope constructs.Construct, wrong *problems) {
	wrong.elements("BeforeStart", p.BeforeStart)
	wrong.image(scope, p)
	if p.RootVolumeSize != nil {
		wrong.within("RootVolumeSize", p.RootVolumeSize.ToGibibytes(nil), 20, 16*1024)
	}
	p.encryption().check(wrong, "RootVolumeKey")
}

func (p InstanceProps) instanceType() awsec2.InstanceType {
	if p.InstanceType == nil {
		return awsec2.NewInstanceType(jsii.String(DefaultInstanceType))
	}
	return p.InstanceType
}

func (p InstanceProps) encryption() encryption {
	return encryption{p.RootVolumeKey, p.RootVolumeKeyWhen}
}

func (p InstanceProps) beforeStart() string {
	return strings.Join(values(or(p.BeforeStart, nil)), "\n")
}

// node is what MasterCluster and MediaFleet both make.
type node struct {
	*rights
	group      awsec2.SecurityGroup
	profile    awsiam.IInstanceProfile
	logs       awslogs.ILogGroup
	handle     awscdk.CfnWaitConditionHandle
	secret     awssecretsmanager.ISecret
	clusterTag *string
	path       string // of the cluster within its stack, as in the tag's value
	boot       bootstrap.Script
	library    *string                  // the path of its parameters
	parameters []constructs.IDependable // there before a node boots
}

// newNode makes role, instance profile and wait condition handle: all that the launch template depends on. The nodes read this
// secret.
func newNode(scope constructs.Construct, group awsec2.SecurityGroup, cluster *string, path string, shared SharedInfo, secret awssecretsmanager.ISecret, boot bootstrap.Script) node {
	rights := newRole(scope, "Role", "ec2.amazonaws.com")
	libraries := fmt.Sprintf("/openvidu/%s/%s", *awscdk.Aws_STACK_NAME(), (*scope.Node().Addr())[2:14])
	rights.add(
		allow(*secret.SecretArn(), "secretsmanager:GetSecretValue"),
		// Whatever the release: while the stack is updated, nodes of two of them boot.
		allow(*awscdk.Stack_Of(scope).FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("ssm"), Resource: jsii.String("parameter"), ResourceName: jsii.String(libraries[1:] + "/*"),
		}), "ssm:GetParameter"),
		// Session Manager alone (AWS Systems Manager User Guide, Step 2: Verify or add instance permissions for Session Manager).
		// AmazonSSMManagedInstanceCore would let the node read every parameter of the account.
		allow("*", "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
			"ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"),
		allow(*shared.LogGroup().LogGroupArn(), "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions:    jsii.Strings("cloudwatch:PutMetricData"),
			Resources:  jsii.Strings("*"), // cannot be limited to a resource
			Conditions: &map[string]any{"StringEquals": map[string]any{"cloudwatch:namespace": metricNamespace}},
		}))
	shared.encryption().allow(rights, "SecretKey", "secretsmanager", "kms:Decrypt")
	n := node{
		rights:     rights,
		group:      group,
		profile:    awsiam.NewInstanceProfile(scope, jsii.String("Profile"), &awsiam.InstanceProfileProps{Role: rights.role}),
		logs:       shared.LogGroup(),
		secret:     secret,
		handle:     awscdk.NewCfnWaitConditionHandle(scope, jsii.String("Ready"), nil),
		clusterTag: cluster,
		path:       path,
		boot:       boot,
		library:    jsii.String(libraries + "/" + boot.Sum[:16]),
	}
	n.newLibrary(scope)
	compliance.Accept(rights.role, "The boot libraries of these nodes, of this release and of the one before.",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ssm:<AWS::Region>:<AWS::AccountId>:parameter"+strings.ReplaceAll(libraries, *awscdk.Aws_STACK_NAME(), "<AWS::StackName>")+"/*]")
	return n
}

// header is the part of the env header that both kinds of nodes read.
func (n node) header(scope constructs.Construct, masters MasterCluster, props InstanceProps) []bootstrap.Var {
	return append([]bootstrap.Var{
		bootstrap.Value("REGION", *awscdk.Stack_Of(scope).Region()),
		bootstrap.Value("URL_SUFFIX", *awscdk.Aws_URL_SUFFIX()),
		bootstrap.Value("STACK", *awscdk.Stack_Of(scope).StackId()), // policies know it by its id
		bootstrap.Value("CLUSTER", *n.clusterTag),
		bootstrap.Value("SECRET_ARN", *n.secret.SecretArn()),
		bootstrap.Value("LOG_GROUP", *n.logs.LogGroupName()),
		bootstrap.Value("WAIT_URL", *n.handle.Ref()),
		bootstrap.Value("BLOCK_CONTAINER_METADATA", fmt.Sprint(or(props.BlockContainerMetadata, false))),
		bootstrap.Value("BEFORE_START", props.beforeStart()),
		bootstrap.List("MASTER_IPS", values(*masters.PrivateIps())...),
		// What has no room in the user data.
		bootstrap.Value("LIBRARY", *n.library),
		bootstrap.Value("LIBRARY_PARTS", fmt.Sprint(len(n.boot.Library))),
		bootstrap.Value("LIBRARY_SHA256", n.boot.Sum),
	}, masters.installs()...)
}

// token is a value that only CloudFormation knows, as it stands in a text.
var token = regexp.MustCompile(`\$\{Token\[[^]]+\]\}`)

// checkUserData panics when EC2 could refuse the user data, whatever the values are that only CloudFormation knows.
func (n node) checkUserData(scope constructs.Construct, header []bootstrap.Var, props InstanceProps, scripts int) {
	bytes := scripts + bootstrap.Longest(token, n.longest, header...)
	if bytes <= maxUserData {
		return
	}
	var wrong problems
	wrong.add("the user data can have %d bytes, %d more than EC2 takes (%d): shorten BeforeStart, which has %d characters, or download a longer script in it; "+
		"or shorten AdditionalInstallFlags", bytes, bytes-maxUserData, maxUserData, len(props.beforeStart()))
	wrong.report(scope.Node().Scope(), scope.Node().Id())
}

// longest gives the most bytes of a variable's value that only CloudFormation knows.
func (n node) longest(name string) int {
	const (
		region = 16  // us-isof-south-1 has 15
		stack  = 128 // CloudFormation's limit
		random = 13  // what CloudFormation appends to a name, with a hyphen
	)
	id := func(of constructs.IConstruct) int {
		return len(*awscdk.Stack_Of(of).GetLogicalId(of.(awscdk.CfnElement)))
	}
	switch name {
	case "REGION", "URL_SUFFIX": // amazonaws.com.cn has 16
		return region
	case "LIBRARY":
		return stack
	case "STACK":
		return len("arn:aws-us-gov:cloudformation::123456789012:stack//0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9") + region + stack
	case "CLUSTER":
		return n.longest("STACK") + 1 + len(n.path)
	case "MEDIA_SECRET_ARN":
		return n.longest("SECRET_ARN") + len("Media")
	case "SLOT":
		return 1
	case "GROUP": // beside the handle: a path that differs in its end alone, and a hash of the same length
		return id(n.handle) + len("ASG1ASG") - len("Ready")
	case "SECRET_ARN": // after the name, Secrets Manager appends 7 more
		return len("arn:aws-us-gov:secretsmanager::123456789012:secret:") + region + id(n.secret.Node().DefaultChild()) + random + 7
	case "REQUIRE_SAME_INSTALLER":
		return len("false")
	case "LOG_GROUP":
		return stack + 1 + id(n.logs.Node().DefaultChild()) + random
	case "WAIT_URL": // a presigned address: three times the region in its path, once in its query
		return 500 + stack + id(n.handle)
	case "MASTER_IPS", "FIXED_IP":
		return len("255.255.255.255")
	case "ENI_ID", "VOLUME_ID":
		return len("eni-0123456789abcdef0")
	case "DISK_SIZE":
		return len("65536")
	case "REVISION":
		return 16 // credentials.js
	case "INSTALL_FLAGS":
		return InstallFlagsLength
	}
	return 256
}

func values(pointers []*string) []string {
	var out []string
	for _, p := range pointers {
		out = append(out, or(p, ""))
	}
	return out
}

// newLaunchTemplate takes IMDSv2 only, with hop limit 1 (no container behind a bridge reaches the role), and one encrypted
// root volume.
func newLaunchTemplate(scope constructs.Construct, id string, n node, props InstanceProps, monitored *bool, header []bootstrap.Var) awsec2.LaunchTemplate {
	instanceType := props.instanceType()
	image := props.MachineImage
	if image == nil {
		cpu := awsec2.AmazonLinuxCpuType_X86_64
		if instanceType.Architecture() == awsec2.InstanceArchitecture_ARM_64 {
			cpu = awsec2.AmazonLinuxCpuType_ARM_64
		}
		image = awsec2.MachineImage_LatestAmazonLinux2023(&awsec2.AmazonLinux2023ImageSsmParameterProps{CpuType: cpu})
	}
	size := props.RootVolumeSize
	if size == nil {
		size = awscdk.Size_Gibibytes(jsii.Number(DefaultRootVolumeSize))
	}
	n.checkUserData(scope, header, props, len(n.boot.UserData))
	text := bootstrap.Header(header...) + *script(scope, n.boot.Role, n.boot.UserData)
	template := awsec2.NewLaunchTemplate(scope, &id, &awsec2.LaunchTemplateProps{
		InstanceType:            instanceType,
		MachineImage:            image,
		KeyPair:                 props.KeyPair,
		InstanceProfile:         n.profile,
		SecurityGroup:           n.group,
		UserData:                awsec2.UserData_Custom(&text),
		DetailedMonitoring:      monitored,
		HttpTokens:              awsec2.LaunchTemplateHttpTokens_REQUIRED,
		HttpPutResponseHopLimit: jsii.Number(1),
		// With it, EC2 refuses to launch an instance one of whose tag keys holds a space or a slash (EC2 User Guide, Work with
		// instance tags in instance metadata). Off, and not left out: an account can have another default.
		InstanceMetadataTags: jsii.Bool(false),
		BlockDevices: &[]*awsec2.BlockDevice{{
			DeviceName: jsii.String(or(props.RootDeviceName, DefaultRootDeviceName)),
			Volume: awsec2.BlockDeviceVolume_Ebs(size.ToGibibytes(nil), &awsec2.EbsDeviceOptions{
				VolumeType:          awsec2.EbsDeviceVolumeType_GP3,
				Encrypted:           jsii.Bool(true),
				DeleteOnTermination: jsii.Bool(true),
			}),
		}},
	})
	template.Node().AddDependency(n.parameters...)
	if key := props.encryption().arn(); key != nil { // not by EbsDeviceOptions, which know no condition
		template.Node().DefaultChild().(awscdk.CfnResource).AddPropertyOverride(jsii.String("LaunchTemplateData.BlockDeviceMappings.0.Ebs.KmsKeyId"), key)
	}
	// The group names its instances; the template's own name tags would say the same less well.
	awscdk.Tags_Of(template).Remove(jsii.String("Name"), nil)
	// Groups hand no tags on to volumes; the launch template does.
	awscdk.Tags_Of(template).Add(jsii.String(clusterTag), n.clusterTag, nil)
	return template
}

// script stands once in the stack, in a mapping, however many nodes and clusters refer to it.
func script(scope constructs.Construct, name, text string) *string {
	const id = "OpenViduBoot"
	stack := awscdk.Stack_Of(scope)
	mapping, ok := stack.Node().TryFindChild(jsii.String(id)).(awscdk.CfnMapping)
	if !ok {
		mapping = awscdk.NewCfnMapping(stack, jsii.String(id), &awscdk.CfnMappingProps{Lazy: jsii.Bool(false)})
	}
	mapping.SetValue(jsii.String("Script"), &name, text)
	return mapping.FindInMap(jsii.String("Script"), &name, nil)
}

// newLibrary makes the parameters of Systems Manager that hold the library of a role's scripts. Another library has another path, so
// CloudFormation makes its parameters first, and takes those of the last release away when the update is done: a node that is replaced
// meanwhile finds its own.
func (n *node) newLibrary(scope constructs.Construct) {
	for i, text := range n.boot.Library {
		n.parameters = append(n.parameters, awsssm.NewCfnParameter(scope, jsii.String(fmt.Sprint("Library", i+1)), &awsssm.CfnParameterProps{
			Type:        jsii.String("String"),
			Tier:        jsii.String("Standard"), // costs nothing
			Name:        jsii.String(fmt.Sprint(*n.library, "/", i+1)),
			Description: jsii.String(fmt.Sprintf("Boot library of OpenVidu's %s Nodes, part %d of %d", n.boot.Role, i+1, len(n.boot.Library))),
			Value:       jsii.String(text),
		}))
	}
}

// reachable makes the group come after the routes of its subnets where the VPC is made in the same program, and go before them: a
// node that boots or drains needs them.
func reachable(group awsautoscaling.AutoScalingGroup, vpc awsec2.IVpc, subnets *awsec2.SubnetSelection) {
	dependencies := []constructs.IDependable{vpc.InternetConnectivityEstablished()}
	for _, subnet := range subnetsOf(vpc, subnets) {
		dependencies = append(dependencies, subnet.InternetConnectivityEstablished())
	}
	group.Node().DefaultChild().Node().AddDependency(dependencies...)
}

// subnetsOf a selection. Not SelectSubnets for those that are given: it asks for zones, which a parameter does not tell.
func subnetsOf(vpc awsec2.IVpc, selection *awsec2.SubnetSelection) []awsec2.ISubnet {
	if selection.Subnets != nil {
		return *selection.Subnets
	}
	return *vpc.SelectSubnets(selection).Subnets
}

// waitFor makes the stack wait until count different nodes reported to the handle. No property of a wait condition can be
// updated, so nothing that a user may change reaches one. It begins when the groups begin, not behind them: CloudFormation may
// take a group for made only when its instances are in service, and a node that fails must be heard before.
func (n node) waitFor(scope constructs.Construct, count int, before ...constructs.IDependable) {
	wait := awscdk.NewCfnWaitCondition(scope, jsii.String(allReadyId), &awscdk.CfnWaitConditionProps{
		Handle:  n.handle.Ref(),
		Count:   jsii.Number(count),
		Timeout: numberText(readyTimeoutSeconds),
	})
	wait.Node().AddDependency(before...)
}

const allReadyId = "AllReady"

// allReady is the resource that is there when the nodes of a MasterCluster or a MediaFleet have reported for the first time.
func allReady(nodes constructs.Construct) awscdk.CfnResource {
	return nodes.Node().FindChild(jsii.String(allReadyId)).(awscdk.CfnResource)
}

// tagGroup tags the group and its instances.
func (n node) tagGroup(group awsautoscaling.AutoScalingGroup, name *string) {
	awscdk.Tags_Of(group).Add(jsii.String("Name"), name, nil)
	awscdk.Tags_Of(group).Add(jsii.String(clusterTag), n.clusterTag, nil)
	compliance.Accept(group, "ClusterAlarms tells of nodes that are missing; each launch and end is in the activity of the group.", "AwsSolutions-AS3")
}

// MachineImageFromId is an image that is known by its id alone, such as the value of a parameter.
func MachineImageFromId(imageId *string) awsec2.IMachineImage { return &imageFromId{imageId} }

type imageFromId struct{ id *string }

func (i *imageFromId) GetImage(constructs.Construct) *awsec2.MachineImageConfig {
	return &awsec2.MachineImageConfig{
		ImageId:  i.id,
		OsType:   awsec2.OperatingSystemType_LINUX,
		UserData: awsec2.UserData_ForLinux(nil),
	}
}
