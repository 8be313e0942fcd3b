// Command openvidu-ha synthesizes the CloudFormation template of an OpenVidu High Availability cluster.
package main

import (
	"cmp"
	"os"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsroute53"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	constructs10 "github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
	"github.com/openvidu-ha/openvidu-ha/internal/partition"
)

func main() {
	defer jsii.Close()

	// The CDK CLI says where to write; without it, the same place.
	outdir := os.Getenv("CDK_OUTDIR")
	if outdir == "" {
		outdir = "cdk.out"
	}
	app := newApp(outdir)
	newStack(app, "OpenViduHA")
	app.Synth(nil)
}

// newApp sets in code, not in cdk.json, what shapes the template: so it is the same with and without the CDK CLI.
func newApp(outdir string) awscdk.App {
	return awscdk.NewApp(&awscdk.AppProps{
		Outdir:             &outdir,
		AnalyticsReporting: jsii.Bool(false), // no CDKMetadata resource
		TreeMetadata:       jsii.Bool(false),
		PostCliContext: &map[string]any{
			"aws:cdk:enable-path-metadata":                   false,
			"aws:cdk:enable-asset-metadata":                  false,
			"@aws-cdk/aws-iam:minimizePolicies":              true,
			"@aws-cdk/aws-iam:standardizedServicePrincipals": true, // right in every partition
			"@aws-cdk/core:validateAgainstDefaultRules":      true,
		},
	})
}

// newStack is the cluster as a template with parameters.
func newStack(app awscdk.App, id string) awscdk.Stack {
	stack := awscdk.NewStack(app, &id, &awscdk.StackProps{
		Description:                 jsii.String("OpenVidu High Availability " + version),
		Synthesizer:                 awscdk.NewLegacyStackSynthesizer(), // no assets, hence no bootstrapped account
		SuppressTemplateIndentation: jsii.Bool(true),
		// For the CDK CLI: it is no part of the template.
		TerminationProtection: jsii.Bool(true),
	})
	p := newParameters(stack)
	stack.AddMetadata(jsii.String("OpenViduHA"), map[string]any{"Version": version})

	vpc := awsec2.Vpc_FromVpcAttributes(stack, jsii.String("Vpc"), &awsec2.VpcAttributes{
		VpcId:             p.text("OpenViduVPC"),
		AvailabilityZones: &[]*string{awscdk.Fn_Select(jsii.Number(0), awscdk.Fn_GetAzs(nil))},
	})
	turn := p.given("WithTurn", p.text("TurnCertificateARN"))
	ssh := p.given("WithSsh", p.text("SshAccessCidr"))
	dns := p.given("WithDns", p.text("HostedZoneId"))
	snapshots := p.given("FromSnapshots", awscdk.Fn_Join(jsii.String(""), p.list("VolumeSnapshotIds")))
	secret := p.given("WithRestoredSecret", p.text("RestoredSharedInfoArn"))
	retain := p.when("Retain", "RetainVolumes", "true")
	s3 := p.when("WithS3", "RecordingsStorage", "S3")
	alarms := p.given("WithAlarms", p.text("AlarmTopicArn"))
	keyed := p.given("WithKey", p.text("KmsKeyArn"))
	key := awskms.Key_FromKeyArn(stack, jsii.String("Key"), p.text("KmsKeyArn"))

	preflight := constructs.NewPreflight(stack, jsii.String("Preflight"), &constructs.PreflightProps{
		VpcId:                 p.text("OpenViduVPC"),
		MasterSubnetIds:       p.list("OpenViduMasterNodeSubnets"),
		MediaSubnetIds:        p.list("OpenViduMediaNodeSubnets"),
		LoadBalancerSubnetIds: p.list("LoadBalancerSubnets"),
		ImageId:               p.text("AmiId"),
		MasterRootVolumeSize:  p.number("MasterNodeRootVolumeSize"),
		MediaRootVolumeSize:   p.number("MediaNodeRootVolumeSize"),
		MasterInstanceType:    p.text("MasterNodeInstanceType"),
		MediaInstanceType:     p.text("MediaNodeInstanceType"),
		InitialCapacity:       p.number("InitialNumberOfMediaNodes"),
		MinCapacity:           p.number("MinNumberOfMediaNodes"),
		MaxCapacity:           p.number("MaxNumberOfMediaNodes"),
		WarmPoolSize:          p.number("WarmPoolSize"),
		DomainName:            p.text("DomainName"),
		CertificateArn:        p.text("OpenViduCertificateARN"),
		TurnDomainName:        p.text("TurnDomainName"),
		TurnCertificateArn:    p.text("TurnCertificateARN"),
		HostedZoneId:          p.text("HostedZoneId"),
		DiskSize:              p.number("DiskSize"),
		RetainVolumes:         p.text("RetainVolumes"),
		KmsKeyArn:             p.text("KmsKeyArn"),
		RecordingsStorage:     p.text("RecordingsStorage"),
		AppDataBucketName:     p.text("S3AppDataBucketName"),
		ClusterDataBucketName: p.text("S3ClusterDataBucketName"),
		SnapshotIds:           p.list("VolumeSnapshotIds"),
		RestoredSecretArn:     p.text("RestoredSharedInfoArn"),
	})
	instance := func(role string) constructs.InstanceProps {
		return constructs.InstanceProps{
			InstanceType:   awsec2.NewInstanceType(p.text(role + "NodeInstanceType")),
			MachineImage:   constructs.MachineImageFromId(p.text("AmiId")),
			KeyPair:        awsec2.KeyPair_FromKeyPairName(stack, jsii.String(role+"Key"), p.text("KeyName")),
			RootDeviceName: preflight.RootDeviceName(),
			RootVolumeSize: awscdk.Size_Gibibytes(p.number(role + "NodeRootVolumeSize")),

			RootVolumeKey:     key,
			RootVolumeKeyWhen: keyed,
		}
	}

	slots := preflight.MasterSubnets()
	var zones, ips, restored []*string
	for i, subnet := range *slots.Subnets {
		zones = append(zones, subnet.AvailabilityZone())
		snapshot, ip := preflight.Restored(i + 1)
		ips = append(ips, awscdk.Fn_ConditionIf(snapshots.LogicalId(), ip, awscdk.Aws_NO_VALUE()).ToString())
		restored = append(restored, awscdk.Fn_ConditionIf(snapshots.LogicalId(), snapshot, awscdk.Aws_NO_VALUE()).ToString())
	}
	volumes := constructs.NewRecordingVolumes(stack, jsii.String("Volumes"), &constructs.RecordingVolumesProps{
		AvailabilityZones:     &zones,
		Size:                  awscdk.Size_Gibibytes(p.number("DiskSize")),
		RetainWhen:            retain,
		SnapshotRetentionDays: p.number("SnapshotRetentionDays"),
		SnapshotIds:           &restored,
		EncryptionKey:         key,
		EncryptionKeyWhen:     keyed,
	})
	buckets := constructs.NewRecordingBuckets(stack, jsii.String("S3"), &constructs.RecordingBucketsProps{
		AppDataBucketName:     p.text("S3AppDataBucketName"),
		ClusterDataBucketName: p.text("S3ClusterDataBucketName"),
		Condition:             s3,
	})
	masters := constructs.NewMasterCluster(stack, jsii.String("Master"), &constructs.MasterClusterProps{
		InstanceProps:            instance("Master"),
		DomainName:               p.text("DomainName"),
		License:                  p.text("OpenViduLicense"),
		TurnDomainName:           p.text("TurnDomainName"),
		RtcEngine:                p.text("RTCEngine"),
		OpenViduVersion:          p.text("OpenViduVersion"),
		InitialMeetAdminPassword: p.text("InitialMeetAdminPassword"),
		InitialMeetApiKey:        p.text("InitialMeetApiKey"),
		AdditionalInstallFlags:   &[]*string{p.text("AdditionalInstallFlags")},
		RecordingBuckets:         buckets,
		Vpc:                      vpc,
		VpcSubnets:               slots,
		Volumes:                  volumes,
		PrivateIps:               &ips,
		RestoredSecret:           awssecretsmanager.Secret_FromSecretCompleteArn(stack, jsii.String("RestoredSecret"), p.text("RestoredSharedInfoArn")),
		RestoredSecretWhen:       secret,
		SecretEncryptionKey:      key,
		SecretEncryptionKeyWhen:  keyed,
		RequireSameInstallerWhen: p.when("SameInstaller", "RequireSameInstaller", "true"),
	})
	media := constructs.NewMediaFleet(stack, jsii.String("Media"), &constructs.MediaFleetProps{
		InstanceProps:        instance("Media"),
		Masters:              masters,
		Vpc:                  vpc,
		VpcSubnets:           preflight.MediaSubnets(),
		InitialCapacity:      p.number("InitialNumberOfMediaNodes"),
		MinCapacity:          p.number("MinNumberOfMediaNodes"),
		MaxCapacity:          p.number("MaxNumberOfMediaNodes"),
		TargetCpuUtilization: p.number("ScaleTargetCPU"),
		WarmPoolSize:         p.number("WarmPoolSize"),
	})
	reached := func(id, certificate string, subnets *awsec2.SubnetSelection, domain string) constructs.LoadBalancerProps {
		return constructs.LoadBalancerProps{
			Vpc:         vpc,
			VpcSubnets:  subnets,
			Certificate: awscertificatemanager.Certificate_FromCertificateArn(stack, &id, p.text(certificate)),
			HostedZone: awsroute53.HostedZone_FromHostedZoneAttributes(stack, jsii.String(id+"Zone"), &awsroute53.HostedZoneAttributes{
				HostedZoneId: p.text("HostedZoneId"), ZoneName: p.text(domain)}),
			HostedZoneWhen: dns,
		}
	}
	balancer := constructs.NewMainLoadBalancer(stack, jsii.String("Main"), &constructs.MainLoadBalancerProps{
		LoadBalancerProps: reached("Certificate", "OpenViduCertificateARN", preflight.LoadBalancerSubnets(), "DomainName"),
		Masters:           masters,
		Fleet:             media,
	})
	endpoint := constructs.NewTurnTlsEndpoint(stack, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{
		LoadBalancerProps: reached("TurnCertificate", "TurnCertificateARN", preflight.TurnSubnets(), "TurnDomainName"),
		Fleet:             media,
		Condition:         turn,
	})
	constructs.NewClusterAlarms(stack, jsii.String("Alarm"), &constructs.ClusterAlarmsProps{
		Masters:      masters,
		Fleet:        media,
		LoadBalancer: balancer,
		Turn:         endpoint,
		Topic:        awssns.Topic_FromTopicArn(stack, jsii.String("AlarmTopic"), p.text("AlarmTopicArn")),
		Condition:    alarms,
	})
	constructs.NewClusterDashboard(stack, jsii.String("Monitoring"), &constructs.ClusterDashboardProps{
		Masters:      masters,
		Fleet:        media,
		LoadBalancer: balancer,
	})

	for _, nodes := range []struct {
		name string
		of   awsec2.IConnectable
	}{{"Master", masters}, {"Media", media}} {
		rule := awsec2.NewCfnSecurityGroupIngress(stack, jsii.String(nodes.name+"Ssh"), &awsec2.CfnSecurityGroupIngressProps{
			GroupId:     (*nodes.of.Connections().SecurityGroups())[0].SecurityGroupId(),
			CidrIp:      p.text("SshAccessCidr"),
			IpProtocol:  jsii.String("tcp"),
			FromPort:    jsii.Number(22),
			ToPort:      jsii.Number(22),
			Description: jsii.String("SSH"),
		})
		rule.CfnOptions().SetCondition(ssh)
		compliance.Accept(rule, "The range is a parameter: closed by default, and who opens it chooses who may connect.",
			"AwsSolutions-EC23", "NIST.800.53.R5-EC2RestrictedSSH", "NIST.800.53.R5-EC2RestrictedCommonPorts")
	}

	newOutputs(stack, preflight, masters, balancer, endpoint, turn)
	nameElements(stack)
	return stack
}

// documentedIds are the logical ids that OpenVidu's documentation names.
var documentedIds = map[string]string{
	"MasterInfoSecret":    "OpenViduSharedInfo",
	"MediaASGASG":         "OpenViduMediaNodeASG",
	"MediaLaunchTemplate": "OpenViduMediaNodeLaunchTemplate",
	"MasterASG1ASG":       "OpenViduMasterNodeASG1",
	"MasterASG2ASG":       "OpenViduMasterNodeASG2",
	"MasterASG3ASG":       "OpenViduMasterNodeASG3",
	"MasterASG4ASG":       "OpenViduMasterNodeASG4",
}

// ownIds are those whose prefix keeps them apart from what else a program has in its stack; here is nothing else.
var ownIds = map[string]string{"OpenViduBoot": "Boot", "OpenViduInChina": "InChina"}

// nameElements gives every element the path of its construct as its logical id, without the hash that the CDK appends:
// readers of stack events see plain names, and the template loses two kilobytes.
func nameElements(stack awscdk.Stack) {
	for _, child := range *stack.Node().FindAll(constructs10.ConstructOrder_PREORDER) {
		element, ok := child.(awscdk.CfnElement)
		if !ok {
			continue
		}
		var name string
		for _, part := range strings.Split(*child.Node().Path(), "/")[1:] {
			if part != "Resource" && part != "Default" {
				name += part
			}
		}
		name = cmp.Or(documentedIds[name], ownIds[name], name)
		element.OverrideLogicalId(&name)
	}
}

// newOutputs are what a user needs next.
func newOutputs(stack awscdk.Stack, preflight constructs.Preflight, masters constructs.MasterCluster, balancer constructs.MainLoadBalancer, endpoint constructs.TurnTlsEndpoint, turn awscdk.CfnCondition) {
	console := consoleDomain(stack)
	link := strings.Join([]string{
		"https://", *console, "/secretsmanager/secret?region=", *stack.Region(), "&name=", *masters.SharedInfo().Secret().SecretArn(),
	}, "")
	awscdk.NewCfnOutput(stack, jsii.String("ServicesAndCredentials"), &awscdk.CfnOutputProps{
		Value:       &link,
		Description: jsii.String("The secret with every URL and credential, in the console"),
	})
	awscdk.NewCfnOutput(stack, jsii.String("LoadBalancerDNS"), &awscdk.CfnOutputProps{
		Value:       balancer.DnsName(),
		Description: jsii.String("Point DomainName here (CNAME, or alias in Route 53)"),
	})
	awscdk.NewCfnOutput(stack, jsii.String("TurnLoadBalancerDNS"), &awscdk.CfnOutputProps{
		Value:       endpoint.DnsName(),
		Description: jsii.String("Point TurnDomainName here (CNAME, or alias in Route 53)"),
		Condition:   turn,
	})
	awscdk.NewCfnOutput(stack, jsii.String("MasterNodeZones"), &awscdk.CfnOutputProps{
		Value:       preflight.MasterNodeZones(),
		Description: jsii.String("Where the Master Nodes are, and what the loss of a zone means"),
	})
}

// consoleDomain of the partition that the stack is in.
func consoleDomain(stack awscdk.Stack) *string {
	conditions := map[string]string{"aws-eusc": "InEurope", "aws-us-gov": "InGovCloud", "aws-cn": "OpenViduInChina"}
	domain := partition.Commercial.Console
	for _, other := range partition.Others {
		id := conditions[other.Name]
		condition, ok := stack.Node().TryFindChild(&id).(awscdk.CfnCondition)
		if !ok {
			condition = awscdk.NewCfnCondition(stack, &id, &awscdk.CfnConditionProps{
				Expression: awscdk.Fn_ConditionEquals(awscdk.Aws_PARTITION(), other.Name),
			})
		}
		domain = *awscdk.Fn_ConditionIf(condition.LogicalId(), other.Console, domain).ToString()
	}
	return &domain
}
