package constructs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsautoscaling"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/bootstrap"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// MasterNodes is the number of Master Nodes: always four, OpenVidu High Availability knows no other.
const MasterNodes = 4

// MasterClusterProps are the properties of MasterCluster.
type MasterClusterProps struct {
	InstanceProps

	// DomainName of the cluster, which the main load balancer's certificate covers. Required.
	DomainName *string
	// License key of OpenVidu PRO. It reaches no template when it is a parameter with NoEcho. Required.
	License *string
	// TurnDomainName for TURN over TLS, see TurnTlsEndpoint. Default: none.
	TurnDomainName *string
	// RtcEngine of the Media Nodes: pion or mediasoup. Default: pion.
	RtcEngine *string
	// OpenViduVersion to install first, 3.8.0 or newer. Later the secret's OPENVIDU_VERSION counts, and a change here is refused
	// with the way to upgrade. Default: 3.9.0.
	OpenViduVersion *string
	// InitialMeetAdminPassword of OpenVidu Meet's user admin. It counts at creation only; change it in OpenVidu Meet later.
	// Default: a random one, in the secret (also for "").
	InitialMeetAdminPassword *string
	// InitialMeetApiKey of OpenVidu Meet. It counts at creation only; change it in OpenVidu Meet later.
	// Default: none (also for ""); an administrator makes one in OpenVidu Meet.
	InitialMeetApiKey *string
	// RecordingBuckets for recordings and the cluster's own data in S3. Decided once: what is in one place is not found in
	// the other. Default: MinIO on the volumes.
	RecordingBuckets RecordingBuckets
	// AdditionalInstallFlags for OpenVidu's installer on all nodes, after its own, like --force-utc-timezone. They count
	// where OpenVidu is installed: on Media Nodes, and in the first life of a Master Node's slot. They stand in the user data,
	// see BeforeStart; one that is known at deployment only counts as 1,000 bytes (InstallFlagsLength). Default: none.
	AdditionalInstallFlags *[]*string
	// PrivateIps of the four slots, in their order, each free and in its slot's subnet. They must not change later. Data that
	// is restored wants the addresses that it was written with. Default: any free ones.
	PrivateIps *[]*string
	// RestoredSecret is another cluster's secret, or one with its content: the credentials, the version and the domain that data
	// in restored volumes was written with. DomainName must be that domain. It is read once, at creation. Default: none, new
	// credentials.
	RestoredSecret awssecretsmanager.ISecret
	// RestoredSecretWhen decides at deployment whether RestoredSecret is read. Default: always.
	RestoredSecretWhen awscdk.CfnCondition
	// SecretEncryptionKey of the secrets. Default: the account's key for Secrets Manager (aws/secretsmanager).
	SecretEncryptionKey awskms.IKey
	// SecretEncryptionKeyWhen decides at deployment whether SecretEncryptionKey is used. Default: always.
	SecretEncryptionKeyWhen awscdk.CfnCondition
	// Vpc of the cluster. Required.
	Vpc awsec2.IVpc
	// VpcSubnets of the slots: 1 to 4, in their order, cycled when fewer than four (a, b, c gives a, b, c, a). They must
	// not change later: a slot's private IP and data belong to its subnet. Default: the VPC's public subnets, the first
	// four.
	VpcSubnets *awsec2.SubnetSelection
	// Volumes of the slots, in the zones of their subnets. Default: RecordingVolumes with its own defaults.
	Volumes RecordingVolumes
	// LogRetention of the logs that all nodes send to CloudWatch Logs. Default: one month.
	LogRetention awslogs.RetentionDays
	// InstallerUrl is where OpenVidu's installers are, without the version, https only.
	// Default: OpenVidu's own bucket.
	InstallerUrl *string
	// RequireSameInstaller refuses an installer that differs from the one that the first node of its release recorded in the
	// secret. OpenVidu may publish a release anew: then no node is added until the record is removed. Default: false, a
	// difference is told and the node goes on.
	RequireSameInstaller *bool
	// RequireSameInstallerWhen decides at deployment, instead of RequireSameInstaller. Default: RequireSameInstaller decides.
	RequireSameInstallerWhen awscdk.CfnCondition
}

// MasterCluster is the four Master Nodes of an OpenVidu High Availability cluster. Each has a slot: a subnet, a private IP
// and a data volume that outlive every instance. A group of exactly one instance per slot replaces a lost node with its own
// IP and data; an update replaces one node after another.
type MasterCluster interface {
	constructs.Construct
	awsec2.IConnectable
	awsiam.IGrantable
	// Groups are the four Auto Scaling groups, in the order of the slots.
	Groups() *[]awsautoscaling.AutoScalingGroup
	// PrivateIps are the fixed addresses, in the order of the slots.
	PrivateIps() *[]*string
	// Role of the Master Nodes' instances.
	Role() awsiam.IRole
	// SharedInfo is the cluster's secret, with every URL and credential.
	SharedInfo() SharedInfo
	// LaunchTemplates are one for each slot, in their order: each says which interface and volume are its node's.
	LaunchTemplates() *[]awsec2.LaunchTemplate
	// Volumes of the slots.
	Volumes() RecordingVolumes

	clusterId() *string
	// clusterPath is what the cluster's id has behind the stack's.
	clusterPath() string
	vpc() awsec2.IVpc
	securityGroup() awsec2.SecurityGroup
	domainName() *string
	// turnDomainName is empty where there is none.
	turnDomainName() string
	// turnOnMainDomain tells whether TURN shares the cluster's domain, and when that is decided at deployment.
	turnOnMainDomain() (bool, awscdk.CfnCondition)
	// installs are the installer's address and additional flags.
	installs() []bootstrap.Var
	buckets() RecordingBuckets
	// interfaces with the fixed addresses.
	interfaces() []awscdk.CfnResource
	// launches tells the stack of nodes that never start.
	launches() *launchFailures
}

type masterCluster struct {
	constructs.Construct
	nodes     node
	groups    []awsautoscaling.AutoScalingGroup
	ips       []*string
	shared    SharedInfo
	templates []awsec2.LaunchTemplate
	volumes   RecordingVolumes
	props     MasterClusterProps // a copy
	noTurn    awscdk.CfnCondition
	enis      []awscdk.CfnResource
	failures  *launchFailures
}

// NewMasterCluster makes the four Master Nodes. It panics on wrong props, with all problems at once.
func NewMasterCluster(scope constructs.Construct, id *string, props *MasterClusterProps) MasterCluster {
	props = orNew(props)
	var wrong problems
	wrong.required("Vpc", props.Vpc == nil, "give the VPC of the cluster")
	wrong.required("DomainName", props.DomainName == nil, "give the domain name of the cluster")
	wrong.match("DomainName", props.DomainName, domainPattern, "give a fully qualified domain name, like openvidu.example.com")
	wrong.match("TurnDomainName", props.TurnDomainName, optionalDomainPattern, "give a fully qualified domain name, like turn.example.com")
	wrong.required("License", props.License == nil || *props.License == "", "give the license key of your OpenVidu account")
	wrong.match("RtcEngine", props.RtcEngine, enginePattern, "give pion or mediasoup")
	wrong.match("OpenViduVersion", props.OpenViduVersion, versionPattern, "give a release from 3.8.0 on, like "+DefaultOpenViduVersion)
	installer := or(props.InstallerUrl, DefaultInstallerUrl)
	if !strings.HasPrefix(installer, "https://") || strings.ContainsAny(installer, "'\n ") {
		wrong.add("InstallerUrl is %q: give an https address", installer)
	}
	for i, flag := range values(or(props.AdditionalInstallFlags, nil)) {
		wrong.match(fmt.Sprintf("AdditionalInstallFlags[%d]", i), &flag, installFlagsPattern, "give a flag like --name or --name=value, without spaces, commas and quotes")
	}
	wrong.each("PrivateIps", props.PrivateIps, MasterNodes)
	var slots []awsec2.ISubnet
	if props.Vpc != nil {
		selection := props.VpcSubnets
		if selection == nil {
			selection = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PUBLIC}
		}
		given := *props.Vpc.SelectSubnets(selection).Subnets
		if props.VpcSubnets == nil && len(given) > MasterNodes {
			given = given[:MasterNodes]
		}
		if len(given) < 1 || len(given) > MasterNodes {
			wrong.add("VpcSubnets selects %d subnets: select 1 to %d", len(given), MasterNodes)
		} else {
			for i := range MasterNodes {
				slots = append(slots, given[i%len(given)])
			}
		}
	}
	if props.Vpc != nil {
		wrong.isolated(props.Vpc, slots)
	}
	wrong.credential("License", props.License, licensePattern, "has a space: give the license key without spaces")
	wrong.credential("InitialMeetAdminPassword", props.InitialMeetAdminPassword, initialPattern, "is not 8 to 128 letters, digits or _.,:@%+=-")
	wrong.credential("InitialMeetApiKey", props.InitialMeetApiKey, initialPattern, "is not 8 to 128 letters, digits or _.,:@%+=-")
	wrong.elements("AdditionalInstallFlags", props.AdditionalInstallFlags)
	wrong.elements("PrivateIps", props.PrivateIps)
	props.InstanceProps.check(scope, &wrong)
	encryption{props.SecretEncryptionKey, props.SecretEncryptionKeyWhen}.check(&wrong, "SecretEncryptionKey")
	if props.RequireSameInstaller != nil && props.RequireSameInstallerWhen != nil {
		wrong.add("RequireSameInstaller is %v beside RequireSameInstallerWhen: give one of them", *props.RequireSameInstaller)
	}
	if props.Volumes != nil && len(*props.Volumes.VolumeIds()) != MasterNodes {
		wrong.add("Volumes has %d volumes: give one for each of the %d slots", len(*props.Volumes.VolumeIds()), MasterNodes)
	} else if props.Volumes != nil {
		wrong.otherStack(scope, "Volumes", props.Volumes)
		for i, slot := range slots {
			if zone, theirs := zoneOf(slot), *props.Volumes.zones()[i]; zone != "" && !*awscdk.Token_IsUnresolved(theirs) && zone != theirs {
				wrong.add("Volumes: the volume of slot %d is in %s, its subnet in %s: give each the zone of its slot's subnet", i+1, theirs, zone)
			}
		}
	}
	wrong.report(scope, id)

	c := &masterCluster{props: *props}
	constructs.NewConstruct_Override(c, scope, id)
	for prop, value := range map[string]*string{"License": props.License, "InitialMeetAdminPassword": props.InitialMeetAdminPassword, "InitialMeetApiKey": props.InitialMeetApiKey} {
		if text := or(value, ""); text != "" && !*awscdk.Token_IsUnresolved(text) {
			awscdk.Annotations_Of(c).AddWarningV2(jsii.String("openvidu-ha:literal"+prop),
				jsii.String(prop+" is part of the template, where whoever may read the stack reads it: give the value of a parameter with NoEcho"))
		}
	}
	stack := awscdk.Stack_Of(c)
	// The stack's id is unlike any other's, also after a deletion; the path tells two clusters of a stack apart.
	path := strings.TrimPrefix(*c.Node().Path(), *stack.Node().Path()+"/")
	cluster := awscdk.Fn_Sub(jsii.String("${AWS::StackId}/"+path), nil)

	c.volumes = props.Volumes
	if c.volumes == nil {
		var zones []*string
		for _, slot := range slots {
			zones = append(zones, slot.AvailabilityZone())
		}
		c.volumes = NewRecordingVolumes(c, jsii.String("Volumes"), &RecordingVolumesProps{AvailabilityZones: &zones})
	}

	if turn := or(props.TurnDomainName, ""); *awscdk.Token_IsUnresolved(turn) {
		c.noTurn = awscdk.NewCfnCondition(c, jsii.String("NoTurnDomain"), &awscdk.CfnConditionProps{
			Expression: awscdk.Fn_ConditionEquals(turn, ""),
		})
	}

	// The interfaces come before all else: their addresses are the list that every node and the secret are told.
	group := newSecurityGroup(c, props.Vpc, masterNodes, "OpenVidu Master Nodes", true)
	var enis []*string
	for i, subnet := range slots {
		eni := awsec2.NewCfnNetworkInterface(c, jsii.String(fmt.Sprint("ENI", i+1)), &awsec2.CfnNetworkInterfaceProps{
			SubnetId: subnet.SubnetId(),
			GroupSet: &[]any{group.SecurityGroupId()},
		})
		if props.PrivateIps != nil {
			eni.SetPrivateIpAddress((*props.PrivateIps)[i])
		}
		enis = append(enis, eni.Ref())
		c.enis = append(c.enis, eni)
		c.ips = append(c.ips, eni.AttrPrimaryPrivateIpAddress())
	}
	c.volumes.tagPrivateIps(c.ips)
	c.shared = newSharedInfo(c, props, c.ips, c.volumes)
	c.nodes = newNode(c, group, cluster, path, c.shared, c.shared.Secret(), bootstrap.Master)
	open(c, masterNodes, group, masterNodes, group)

	c.nodes.add(
		// OpenVidu's procedures store in the one what they change, and it must reach the other: a version is written, then made the
		// current one in the place of the version that was read.
		allow(*c.shared.Secret().SecretArn(), "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"),
		allow(*c.shared.mediaSecret().SecretArn(), "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"),
		allowAttach(attachInterface, "network-interface", enis),
		allowAttachTo(clusterTag, cluster, attachInterface, attachVolume),
		allow("*", "ec2:DescribeNetworkInterfaces"), // cannot be limited to a resource
		allow(*stack.StackId(), "cloudformation:SignalResource"))
	c.shared.encryption().allow(c.nodes.rights, "SecretKeyWrite", "secretsmanager", "kms:GenerateDataKey")
	c.nodes.add(c.volumes.attachStatement())
	c.volumes.encryption().allowVolumes(c.nodes.rights, "VolumesKey")
	if buckets := props.RecordingBuckets; buckets != nil {
		c.nodes.role.AddManagedPolicy(buckets.policy())
	}

	compliance.Accept(c.nodes.role, "Instances with the cluster's tag alone, by a condition: no id is known before.",
		"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ec2:*:*:instance/*]")
	compliance.Accept(c.nodes.role, "Each names one interface or volume: an id belongs to one region and account.",
		`AwsSolutions-IAM5[/^Resource::\["arn:\$\{AWS::Partition\}:ec2:\*:\*:(network-interface|volume)/\$\{Id\}"/]`)
	compliance.Accept(c.nodes.role, "DescribeNetworkInterfaces and what Session Manager needs cannot be limited to a resource.", "AwsSolutions-IAM5[Resource::*]")

	common := append(c.nodes.header(c, c, props.InstanceProps),
		bootstrap.Value("MEDIA_SECRET_ARN", *c.shared.mediaSecret().SecretArn()),
		bootstrap.Value("DISK_SIZE", *numberText(*c.volumes.Size().ToGibibytes(nil))),
		bootstrap.Value("REVISION", *c.shared.Revision()))

	c.failures = newLaunchFailures(c)
	for i, subnet := range slots {
		slot := fmt.Sprint(i + 1)
		// A launch template for each slot, which says what the node is: tags and metadata can be changed by others.
		template := newLaunchTemplate(c, "LaunchTemplate"+slot, c.nodes, props.InstanceProps, nil, append(slices.Clone(common),
			bootstrap.Value("SLOT", slot),
			bootstrap.Value("ENI_ID", *enis[i]),
			bootstrap.Value("VOLUME_ID", *(*c.volumes.VolumeIds())[i]),
			bootstrap.Value("FIXED_IP", *c.ips[i]),
			// For SignalResource. Its physical name would close a circle, group -> launch template -> group.
			bootstrap.Value("GROUP", *awscdk.Lazy_String(&groupOfSlot{c, i}, nil))))
		c.templates = append(c.templates, template)
		g := awsautoscaling.NewAutoScalingGroup(c, jsii.String("ASG"+slot), &awsautoscaling.AutoScalingGroupProps{
			Vpc:                  props.Vpc,
			VpcSubnets:           &awsec2.SubnetSelection{Subnets: &[]awsec2.ISubnet{subnet}},
			LaunchTemplate:       template,
			MinCapacity:          jsii.Number(1),
			MaxCapacity:          jsii.Number(1),
			MinHealthyPercentage: jsii.Number(0), // terminate, then launch: there is one IP and one volume
			MaxHealthyPercentage: jsii.Number(100),
			// The size is always one, whatever somebody set by hand.
			IgnoreUnmodifiedSizeProperties: jsii.Bool(false),
			UpdatePolicy: awsautoscaling.UpdatePolicy_RollingUpdate(&awsautoscaling.RollingUpdateOptions{
				MinInstancesInService: jsii.Number(0),
				MaxBatchSize:          jsii.Number(1),
				WaitOnResourceSignals: jsii.Bool(true),
				PauseTime:             awscdk.Duration_Seconds(jsii.Number(readyTimeoutSeconds)),
				// The other processes that CloudFormation advises to suspend have nothing to do in a group of one.
				SuspendProcesses: &[]awsautoscaling.ScalingProcess{
					awsautoscaling.ScalingProcess_HEALTH_CHECK,
					awsautoscaling.ScalingProcess_REPLACE_UNHEALTHY,
				},
			}),
		})
		resource := g.Node().DefaultChild().(awsautoscaling.CfnAutoScalingGroup)
		resource.SetDesiredCapacity(jsii.String("1"))
		if i > 0 {
			// Updates follow the dependencies: the next master is replaced when this one is healthy again. At creation
			// nothing waits, since the groups have no creation policy.
			resource.AddResourceDependency(c.groups[i-1].Node().DefaultChild().(awscdk.CfnResource), nil)
		}
		c.nodes.tagGroup(g, awscdk.Fn_Sub(jsii.String("${AWS::StackName} Master Node "+slot), nil))
		awscdk.Tags_Of(g).Add(jsii.String(slotTag), &slot, nil)
		compliance.Accept(g, "A master answers only when others do: replacing the one that does not would add to an outage.",
			"NIST.800.53.R5-AutoScalingGroupELBHealthCheckRequired")
		reachable(g, props.Vpc, &awsec2.SubnetSelection{Subnets: &[]awsec2.ISubnet{subnet}})
		c.failures.hearMaster(g, c.nodes.handle)
		c.groups = append(c.groups, g)
	}
	before := []constructs.IDependable{c.shared.Filled()}
	for _, template := range c.templates {
		before = append(before, template)
	}
	c.nodes.waitFor(c, MasterNodes, before...)
	return c
}

// zoneOf a subnet; "" where only CloudFormation, or nobody, knows it.
func zoneOf(subnet awsec2.ISubnet) (zone string) {
	defer func() { _ = recover() }() // the CDK panics for a subnet that was imported without its zone
	if zone = *subnet.AvailabilityZone(); *awscdk.Token_IsUnresolved(zone) {
		return ""
	}
	return zone
}

// groupOfSlot gives the logical id of a slot's group, which is made after the launch template that tells it.
type groupOfSlot struct {
	cluster *masterCluster
	slot    int
}

func (g *groupOfSlot) Produce() *string {
	return g.cluster.groups[g.slot].Node().DefaultChild().(awscdk.CfnResource).LogicalId()
}

func (c *masterCluster) Connections() awsec2.Connections            { return c.nodes.group.Connections() }
func (c *masterCluster) GrantPrincipal() awsiam.IPrincipal          { return c.nodes.role }
func (c *masterCluster) Groups() *[]awsautoscaling.AutoScalingGroup { return &c.groups }
func (c *masterCluster) PrivateIps() *[]*string                     { return &c.ips }
func (c *masterCluster) Role() awsiam.IRole                         { return c.nodes.role }
func (c *masterCluster) SharedInfo() SharedInfo                     { return c.shared }
func (c *masterCluster) LaunchTemplates() *[]awsec2.LaunchTemplate  { return &c.templates }
func (c *masterCluster) Volumes() RecordingVolumes                  { return c.volumes }
func (c *masterCluster) ToString() *string                          { return c.Node().Path() }

func (c *masterCluster) clusterId() *string                  { return c.nodes.clusterTag }
func (c *masterCluster) clusterPath() string                 { return c.nodes.path }
func (c *masterCluster) vpc() awsec2.IVpc                    { return c.props.Vpc }
func (c *masterCluster) securityGroup() awsec2.SecurityGroup { return c.nodes.group }
func (c *masterCluster) domainName() *string                 { return c.props.DomainName }
func (c *masterCluster) turnDomainName() string              { return or(c.props.TurnDomainName, "") }
func (c *masterCluster) buckets() RecordingBuckets           { return c.props.RecordingBuckets }
func (c *masterCluster) interfaces() []awscdk.CfnResource    { return c.enis }
func (c *masterCluster) launches() *launchFailures           { return c.failures }

func (c *masterCluster) turnOnMainDomain() (bool, awscdk.CfnCondition) {
	return c.noTurn != nil || c.turnDomainName() == "", c.noTurn
}

func (c *masterCluster) installs() []bootstrap.Var {
	same := fmt.Sprint(or(c.props.RequireSameInstaller, false))
	if when := c.props.RequireSameInstallerWhen; when != nil {
		same = *awscdk.Fn_ConditionIf(when.LogicalId(), "true", "false").ToString()
	}
	return []bootstrap.Var{
		bootstrap.Value("REQUIRE_SAME_INSTALLER", same),
		bootstrap.Value("INSTALLER_URL", or(c.props.InstallerUrl, DefaultInstallerUrl)),
		bootstrap.Value("INSTALL_FLAGS", strings.Join(values(or(c.props.AdditionalInstallFlags, nil)), ",")),
	}
}
