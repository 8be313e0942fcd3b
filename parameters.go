package main

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

// parameter is one field of the form that the CloudFormation console shows.
type parameter struct {
	section, name, label string
	awscdk.CfnParameterProps
}

const (
	sectionDomain  = "Domain and Load Balancer configuration"
	sectionCluster = "OpenVidu HA configuration"
	sectionEc2     = "EC2 Instance configuration"
	sectionScaling = "Media Nodes Autoscaling Group configuration"
	sectionVpc     = "VPC configuration"
	sectionTurn    = "(Optional) TURN server configuration with TLS"
	sectionVolumes = "Volumes configuration"
	sectionS3      = "(Optional) Recordings in S3"
	sectionRestore = "(Optional) Restore from snapshots"
	sectionAlarms  = "(Optional) Monitoring configuration"
	sectionSecure  = "(Optional) Security configuration"

	domainLength = 253 // of a name in DNS, in characters

	certificatePattern = `arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[A-Za-z0-9-]+`
	keyPattern         = `arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+`
	topicPattern       = `arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}`
	// Any type, also one that is newer than this template.
	instanceTypePattern = `^[a-z][a-z0-9-]*\.[a-z0-9-]+$`
	cidrPattern         = `^$|^(([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])\.){3}([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])/([0-9]|[12][0-9]|3[0-2])$`

	amazonLinux2023 = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
)

// parameterTable is the whole form, in its order.
var parameterTable = []parameter{
	{sectionDomain, "DomainName", "Domain name", awscdk.CfnParameterProps{
		Description:           jsii.String("Domain name of the cluster; point it to LoadBalancerDNS when the stack is ready."),
		AllowedPattern:        jsii.String(constructs.DomainPattern),
		MaxLength:             jsii.Number(domainLength),
		ConstraintDescription: jsii.String("Give a domain name, like openvidu.example.com."),
	}},
	{sectionDomain, "OpenViduCertificateARN", "Certificate ARN", awscdk.CfnParameterProps{
		Description:           jsii.String("Issued ACM certificate of this region that covers DomainName."),
		AllowedPattern:        jsii.String("^" + certificatePattern + "$"),
		ConstraintDescription: jsii.String("Give the ARN of an ACM certificate."),
	}},
	{sectionDomain, "HostedZoneId", "Hosted zone", awscdk.CfnParameterProps{
		Description:           jsii.String("Route 53 zone that gets records for DomainName and TurnDomainName. Empty: none."),
		Default:               "",
		AllowedPattern:        jsii.String("^$|^Z[A-Z0-9]{1,31}$"),
		ConstraintDescription: jsii.String("Give the id of a public hosted zone, like Z0123456789ABCDEFGHIJ, or nothing."),
	}},

	{sectionCluster, "OpenViduLicense", "OpenVidu license", awscdk.CfnParameterProps{
		Description:           jsii.String("License key of your OpenVidu account."),
		NoEcho:                jsii.Bool(true),
		AllowedPattern:        jsii.String(constructs.LicensePattern),
		ConstraintDescription: jsii.String("Give the license key, without spaces."),
	}},
	{sectionCluster, "RTCEngine", "RTC engine", awscdk.CfnParameterProps{
		Description:           jsii.String("Media engine: pion is LiveKit's own, mediasoup OpenVidu's."),
		Default:               constructs.DefaultRtcEngine,
		AllowedValues:         jsii.Strings("pion", "mediasoup"),
		ConstraintDescription: jsii.String("Choose pion or mediasoup."),
	}},
	{sectionCluster, "OpenViduVersion", "OpenVidu version", awscdk.CfnParameterProps{
		Description:           jsii.String("Release to install first; later OPENVIDU_VERSION in the secret counts."),
		Default:               constructs.DefaultOpenViduVersion,
		AllowedPattern:        jsii.String(constructs.VersionPattern),
		ConstraintDescription: jsii.String("Give a release from 3.8.0 on, like 3.9.0."),
	}},
	{sectionCluster, "InitialMeetAdminPassword", "Meet admin password", initial("Password of OpenVidu Meet's user admin", "a random one, in the secret")},
	{sectionCluster, "InitialMeetApiKey", "Meet API key", initial("API key of OpenVidu Meet", "none; make one in OpenVidu Meet")},
	{sectionCluster, "AdditionalInstallFlags", "Additional install flags", awscdk.CfnParameterProps{
		Description:           jsii.String("Flags for OpenVidu's installer on all nodes, separated by commas."),
		Default:               "",
		AllowedPattern:        jsii.String(constructs.InstallFlagsPattern),
		MaxLength:             jsii.Number(constructs.InstallFlagsLength),
		ConstraintDescription: jsii.String("Give flags like --force-utc-timezone,--name=value, without spaces and quotes, or nothing."),
	}},

	{sectionEc2, "MasterNodeInstanceType", "Master Node instance type", instanceType("Master Nodes")},
	{sectionEc2, "MediaNodeInstanceType", "Media Node instance type", instanceType("Media Nodes")},
	{sectionEc2, "KeyName", "SSH key", awscdk.CfnParameterProps{
		Type:                  jsii.String("AWS::EC2::KeyPair::KeyName"),
		Description:           jsii.String("Key pair for SSH; port 22 is closed unless SshAccessCidr is given."),
		ConstraintDescription: jsii.String("Choose a key pair of this region."),
	}},
	{sectionEc2, "SshAccessCidr", "SSH access from", awscdk.CfnParameterProps{
		Description:           jsii.String("IPv4 range that may connect to port 22 of the nodes. Empty: none, use Session Manager."),
		Default:               "",
		AllowedPattern:        jsii.String(cidrPattern),
		ConstraintDescription: jsii.String("Give an IPv4 range, like 203.0.113.7/32, or nothing."),
	}},
	{sectionEc2, "AmiId", "Image", awscdk.CfnParameterProps{
		Type:                  jsii.String("AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"),
		Description:           jsii.String("SSM parameter of an image: Amazon Linux 2023, Ubuntu 22.04 or 24.04. Each update looks it up anew and rolls the Master Nodes if it changed."),
		Default:               amazonLinux2023,
		ConstraintDescription: jsii.String("Give an SSM parameter that holds an image id."),
	}},
	{sectionEc2, "MasterNodeRootVolumeSize", "Master Node root volume", rootVolume("Master Nodes")},
	{sectionEc2, "MediaNodeRootVolumeSize", "Media Node root volume", rootVolume("Media Nodes")},

	{sectionScaling, "InitialNumberOfMediaNodes", "Initial Media Nodes", number(2, 1, 0,
		"Media Nodes to begin with.")},
	{sectionScaling, "MinNumberOfMediaNodes", "Minimum Media Nodes", number(2, 0, 0,
		"Fewest Media Nodes; two or more survive the loss of one.")},
	{sectionScaling, "MaxNumberOfMediaNodes", "Maximum Media Nodes", number(5, 1, 0,
		"Most Media Nodes.")},
	{sectionScaling, "ScaleTargetCPU", "Target CPU", number(50, 1, 100,
		"Average CPU of the Media Nodes that scaling aims at, in percent.")},
	{sectionScaling, "WarmPoolSize", "Warm pool", number(0, 0, 0,
		"Stopped Media Nodes, OpenVidu installed, for a faster scale-out; 0: none.")},

	{sectionVpc, "OpenViduVPC", "VPC", awscdk.CfnParameterProps{
		Type:                  jsii.String("AWS::EC2::VPC::Id"),
		Description:           jsii.String("VPC of the cluster, for ever."),
		ConstraintDescription: jsii.String("Choose a VPC of this region."),
	}},
	{sectionVpc, "OpenViduMasterNodeSubnets", "Master Node subnets", awscdk.CfnParameterProps{
		Type:                  jsii.String("List<AWS::EC2::Subnet::Id>"),
		Description:           jsii.String("1 to 4 public subnets with auto-assigned public IPs, best in four zones, for ever. Fewer are used in turn."),
		ConstraintDescription: jsii.String("Choose 1 to 4 subnets of OpenViduVPC."),
	}},
	{sectionVpc, "OpenViduMediaNodeSubnets", "Media Node subnets", awscdk.CfnParameterProps{
		Type:                  jsii.String("List<AWS::EC2::Subnet::Id>"),
		Description:           jsii.String("Any number of public subnets with auto-assigned public IPs."),
		ConstraintDescription: jsii.String("Choose one or more subnets of OpenViduVPC."),
	}},
	{sectionVpc, "LoadBalancerSubnets", "Load balancer subnets", awscdk.CfnParameterProps{
		Type:                  jsii.String("CommaDelimitedList"),
		Description:           jsii.String("Public subnets of the load balancers, one in each zone of the nodes; then the nodes may be in private subnets with NAT. Empty: subnets of the nodes."),
		Default:               "",
		ConstraintDescription: jsii.String("Give subnets of OpenViduVPC, separated by commas, or nothing."),
	}},

	{sectionTurn, "TurnDomainName", "TURN domain name", awscdk.CfnParameterProps{
		Description:           jsii.String("Domain name of TURN over TLS, for users whose firewall blocks UDP. Empty: none."),
		Default:               "",
		AllowedPattern:        jsii.String("^$|" + constructs.DomainPattern),
		MaxLength:             jsii.Number(domainLength),
		ConstraintDescription: jsii.String("Give a domain name, like turn.example.com, or nothing."),
	}},
	{sectionTurn, "TurnCertificateARN", "TURN certificate ARN", awscdk.CfnParameterProps{
		Description:           jsii.String("Issued ACM certificate of this region that covers TurnDomainName. Empty: none."),
		Default:               "",
		AllowedPattern:        jsii.String("^$|^" + certificatePattern + "$"),
		ConstraintDescription: jsii.String("Give the ARN of an ACM certificate, or nothing."),
	}},

	{sectionVolumes, "RetainVolumes", "Retain volumes", awscdk.CfnParameterProps{
		Description:           jsii.String("Keep the data volumes when the stack is deleted? Decided once."),
		Default:               "true",
		AllowedValues:         jsii.Strings("true", "false"),
		ConstraintDescription: jsii.String("Choose true or false."),
	}},
	{sectionVolumes, "DiskSize", "Disk size", number(constructs.DefaultVolumeSize, 50, 65536,
		"Data volume of each Master Node, in GB; it can grow later, never shrink.")},
	{sectionVolumes, "SnapshotRetentionDays", "Daily snapshots kept", number(constructs.DefaultSnapshotRetentionDays, 0, 1000,
		"Daily snapshots kept of each data volume; 0: none are taken.")},

	{sectionS3, "RecordingsStorage", "Recordings storage", awscdk.CfnParameterProps{
		Description:           jsii.String("Where recordings and the cluster's own logs and metrics are kept. Decided once."),
		Default:               "Volumes",
		AllowedValues:         jsii.Strings("Volumes", "S3"),
		ConstraintDescription: jsii.String("Choose Volumes or S3."),
	}},
	{sectionS3, "S3AppDataBucketName", "Bucket of recordings", bucket("recordings")},
	{sectionS3, "S3ClusterDataBucketName", "Bucket of cluster data", bucket("the cluster's logs and metrics")},

	{sectionRestore, "VolumeSnapshotIds", "Snapshots", awscdk.CfnParameterProps{
		Type:                  jsii.String("CommaDelimitedList"),
		Description:           jsii.String("Four snapshots of another cluster's data volumes, of Master Nodes 1 to 4. Empty: blank volumes. Decided once."),
		Default:               "",
		ConstraintDescription: jsii.String("Give four snapshots, separated by commas, or nothing."),
	}},
	{sectionRestore, "RestoredSharedInfoArn", "Secret of the restored cluster", awscdk.CfnParameterProps{
		Description:           jsii.String("ARN of a secret with the content of that cluster's OpenViduSharedInfo: its data needs its credentials. Empty: none. Decided once."),
		Default:               "",
		AllowedPattern:        jsii.String(`^$|^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,512}-[A-Za-z0-9]{6}$`),
		ConstraintDescription: jsii.String("Give the whole ARN of one secret, or nothing."),
	}},

	{sectionAlarms, "AlarmTopicArn", "Alarm topic ARN", awscdk.CfnParameterProps{
		Description:           jsii.String("Standard SNS topic of this region that is told of lost nodes, full volumes, long drains and expiring certificates. Empty: no alarms."),
		Default:               "",
		AllowedPattern:        jsii.String("^$|^" + topicPattern + "$"),
		ConstraintDescription: jsii.String("Give the ARN of a standard SNS topic, or nothing."),
	}},

	{sectionSecure, "KmsKeyArn", "KMS key ARN", awscdk.CfnParameterProps{
		Description:           jsii.String("Key of this region that encrypts data volumes, snapshots, root volumes and secrets; its policy must admit Auto Scaling. Empty: the account's own keys. Decided once."),
		Default:               "",
		AllowedPattern:        jsii.String("^$|^" + keyPattern + "$"),
		ConstraintDescription: jsii.String("Give the ARN of a symmetric key of KMS, not of an alias, or nothing."),
	}},
	{sectionSecure, "RequireSameInstaller", "Require the same installer", awscdk.CfnParameterProps{
		Description:           jsii.String("Refuse an installer that differs from the first one of its release? A release that is published anew then stops new nodes."),
		Default:               "false",
		AllowedValues:         jsii.Strings("true", "false"),
		ConstraintDescription: jsii.String("Choose true or false."),
	}},
}

func instanceType(nodes string) awscdk.CfnParameterProps {
	return awscdk.CfnParameterProps{
		Description:           jsii.String("Instance type of the " + nodes + ", of the Nitro System."),
		Default:               constructs.DefaultInstanceType,
		AllowedPattern:        jsii.String(instanceTypePattern),
		ConstraintDescription: jsii.String("Give an instance type, like c6a.xlarge."),
	}
}

func initial(what, otherwise string) awscdk.CfnParameterProps {
	return awscdk.CfnParameterProps{
		Description:           jsii.String(what + ", at first. Empty: " + otherwise + ". It counts at creation only."),
		Default:               "",
		NoEcho:                jsii.Bool(true),
		AllowedPattern:        jsii.String(constructs.InitialPattern),
		ConstraintDescription: jsii.String("Give 8 to 128 letters, digits or _.,:@%+=-, or nothing."),
	}
}

func rootVolume(nodes string) awscdk.CfnParameterProps {
	return number(constructs.DefaultRootVolumeSize, 20, 16384, "Root volume of the "+nodes+", in GB; not less than the image has.")
}

func bucket(of string) awscdk.CfnParameterProps {
	return awscdk.CfnParameterProps{
		Description:           jsii.String("Bucket of yours, in this region, for " + of + " when RecordingsStorage is S3. Empty: a new one. Decided once."),
		Default:               "",
		AllowedPattern:        jsii.String(constructs.BucketPattern),
		ConstraintDescription: jsii.String("Give the name of a bucket, without dots, or nothing."),
	}
}

// number from low to high; high is 0 where there is no limit.
func number(value, low, high float64, description string) awscdk.CfnParameterProps {
	props := awscdk.CfnParameterProps{
		Type:                  jsii.String("Number"),
		Description:           &description,
		Default:               value,
		MinValue:              &low,
		ConstraintDescription: jsii.String(fmt.Sprintf("Give %v or more.", low)),
	}
	if high > 0 {
		props.MaxValue = &high
		props.ConstraintDescription = jsii.String(fmt.Sprintf("Give a number from %v to %v.", low, high))
	}
	return props
}

// parameters are the values of the form.
type parameters map[string]awscdk.CfnParameter

func (p parameters) text(name string) *string    { return p[name].ValueAsString() }
func (p parameters) number(name string) *float64 { return p[name].ValueAsNumber() }
func (p parameters) list(name string) *[]*string { return p[name].ValueAsList() }

// given is a condition that holds when the value is not empty.
func (p parameters) given(id string, value *string) awscdk.CfnCondition {
	return p.condition(id, awscdk.Fn_ConditionNot(awscdk.Fn_ConditionEquals(value, "")))
}

// when is a condition that holds when the parameter has this value.
func (p parameters) when(id, name, value string) awscdk.CfnCondition {
	return p.condition(id, awscdk.Fn_ConditionEquals(p.text(name), value))
}

func (p parameters) condition(id string, expression awscdk.ICfnConditionExpression) awscdk.CfnCondition {
	stack := awscdk.Stack_Of(p["DomainName"])
	return awscdk.NewCfnCondition(stack, &id, &awscdk.CfnConditionProps{Expression: expression})
}

// newParameters makes the form, its sections and its rules.
func newParameters(stack awscdk.Stack) parameters {
	made := parameters{}
	var groups []any
	labels := map[string]any{}
	var names []string
	for i, row := range parameterTable {
		props := row.CfnParameterProps
		made[row.name] = awscdk.NewCfnParameter(stack, jsii.String(row.name), &props)
		labels[row.name] = map[string]any{"default": row.label}
		names = append(names, row.name)
		if i+1 == len(parameterTable) || parameterTable[i+1].section != row.section {
			groups = append(groups, map[string]any{
				"Label":      map[string]any{"default": row.section},
				"Parameters": names,
			})
			names = nil
		}
	}
	stack.TemplateOptions().SetMetadata(&map[string]any{
		"AWS::CloudFormation::Interface": map[string]any{"ParameterGroups": groups, "ParameterLabels": labels},
	})

	// Rules compare texts: they know neither more nor less, and count nothing. So minimum <= initial <= maximum and the number
	// of subnets are left to the preflight function.
	rule := func(id string, assertions ...*awscdk.CfnRuleAssertion) {
		awscdk.NewCfnRule(stack, &id, &awscdk.CfnRuleProps{Assertions: &assertions})
	}
	var inVpc []*awscdk.CfnRuleAssertion
	for _, subnets := range []string{"OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets"} {
		inVpc = append(inVpc, &awscdk.CfnRuleAssertion{
			Assert: awscdk.Fn_ConditionEachMemberEquals(
				awscdk.Token_AsList(awscdk.Fn_ValueOf(&subnets, jsii.String("VpcId")), nil), made.text("OpenViduVPC")),
			AssertDescription: jsii.String(subnets + ": every subnet must be in OpenViduVPC; choose subnets of it."),
		})
	}
	rule("SubnetsInVpc", inVpc...)
	empty := func(name string) awscdk.ICfnRuleConditionExpression {
		return awscdk.Fn_ConditionEquals(made.text(name), "")
	}
	domain, certificate := empty("TurnDomainName"), empty("TurnCertificateARN")
	rule("TurnComplete",
		&awscdk.CfnRuleAssertion{
			Assert: awscdk.Fn_ConditionOr(
				awscdk.Fn_ConditionAnd(domain, certificate),
				awscdk.Fn_ConditionAnd(awscdk.Fn_ConditionNot(domain), awscdk.Fn_ConditionNot(certificate))),
			AssertDescription: jsii.String("TurnDomainName and TurnCertificateARN: give both, or neither."),
		},
		&awscdk.CfnRuleAssertion{
			Assert:            awscdk.Fn_ConditionNot(awscdk.Fn_ConditionEquals(made.text("TurnDomainName"), made.text("DomainName"))),
			AssertDescription: jsii.String("TurnDomainName must differ from DomainName; give TURN a name of its own."),
		})
	return made
}
