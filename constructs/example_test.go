package constructs_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	nlb "github.com/aws/aws-cdk-go/awscdk/v2/awselasticloadbalancingv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	core "github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	openvidu "github.com/openvidu-ha/openvidu-ha/constructs"
)

// The whole cluster in a VPC that exists.
func Example() {
	app, dir := exampleApp()
	stack := awscdk.NewStack(app, jsii.String("Video"), &awscdk.StackProps{Env: &awscdk.Environment{
		Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1"),
	}})
	vpc := awsec2.Vpc_FromVpcAttributes(stack, jsii.String("Vpc"), &awsec2.VpcAttributes{
		VpcId:             jsii.String("vpc-0123456789abcdef0"),
		AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b", "eu-west-1c"),
		PublicSubnetIds:   jsii.Strings("subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb", "subnet-0cccccccccccccccc"),
	})
	// A parameter with NoEcho keeps the license out of the template.
	license := awscdk.NewCfnParameter(stack, jsii.String("License"), &awscdk.CfnParameterProps{NoEcho: jsii.Bool(true)})

	masters := openvidu.NewMasterCluster(stack, jsii.String("Masters"), &openvidu.MasterClusterProps{
		Vpc:        vpc,
		DomainName: jsii.String("openvidu.example.com"),
		License:    license.ValueAsString(),
	})
	fleet := openvidu.NewMediaFleet(stack, jsii.String("Fleet"), &openvidu.MediaFleetProps{
		Vpc:         vpc,
		Masters:     masters,
		MaxCapacity: jsii.Number(10),
	})
	balancer := openvidu.NewMainLoadBalancer(stack, jsii.String("Main"), &openvidu.MainLoadBalancerProps{
		LoadBalancerProps: openvidu.LoadBalancerProps{
			Vpc:         vpc,
			Certificate: awscertificatemanager.Certificate_FromCertificateArn(stack, jsii.String("Certificate"), jsii.String(certificateArn)),
		},
		Masters: masters,
		Fleet:   fleet,
	})
	awscdk.NewCfnOutput(stack, jsii.String("LoadBalancerDNS"), &awscdk.CfnOutputProps{Value: balancer.DnsName()})
	app.Synth(nil)

	count(dir, "Video", "AWS::AutoScaling::AutoScalingGroup", "AWS::EC2::Volume", "AWS::ElasticLoadBalancingV2::LoadBalancer")
	// Output:
	// AWS::AutoScaling::AutoScalingGroup: 5
	// AWS::EC2::Volume: 4
	// AWS::ElasticLoadBalancingV2::LoadBalancer: 1
}

// A VPC made in the same stack: public subnets in three zones are all that a cluster needs.
func Example_ownVpc() {
	app, dir := exampleApp()
	stack := awscdk.NewStack(app, jsii.String("Video"), &awscdk.StackProps{Env: &awscdk.Environment{
		Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1"),
	}})
	stack.Node().SetContext(jsii.String("availability-zones:account=123456789012:region=eu-west-1"),
		jsii.Strings("eu-west-1a", "eu-west-1b", "eu-west-1c")) // what the CDK CLI looks up
	vpc := awsec2.NewVpc(stack, jsii.String("Vpc"), &awsec2.VpcProps{
		MaxAzs:      jsii.Number(3),
		NatGateways: jsii.Number(0),
		SubnetConfiguration: &[]*awsec2.SubnetConfiguration{
			{Name: jsii.String("Public"), SubnetType: awsec2.SubnetType_PUBLIC},
		},
	})
	exampleCluster(stack, vpc)
	app.Synth(nil)

	count(dir, "Video", "AWS::EC2::Subnet", "AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::NetworkInterface")
	// Output:
	// AWS::EC2::Subnet: 3
	// AWS::EC2::InternetGateway: 1
	// AWS::EC2::NatGateway: 0
	// AWS::EC2::NetworkInterface: 4
}

// TURN over TLS has a load balancer and a domain name of its own. Without one, leave both out.
func ExampleNewTurnTlsEndpoint() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	masters := openvidu.NewMasterCluster(stack, jsii.String("Masters"), &openvidu.MasterClusterProps{
		Vpc:            vpc,
		DomainName:     jsii.String("openvidu.example.com"),
		TurnDomainName: jsii.String("turn.example.com"),
		License:        exampleLicense(stack),
	})
	fleet := openvidu.NewMediaFleet(stack, jsii.String("Fleet"), &openvidu.MediaFleetProps{Vpc: vpc, Masters: masters})
	turn := openvidu.NewTurnTlsEndpoint(stack, jsii.String("Turn"), &openvidu.TurnTlsEndpointProps{
		LoadBalancerProps: openvidu.LoadBalancerProps{
			Vpc:         vpc,
			Certificate: awscertificatemanager.Certificate_FromCertificateArn(stack, jsii.String("TurnCertificate"), jsii.String(certificateArn)),
		},
		Fleet: fleet,
	})
	awscdk.NewCfnOutput(stack, jsii.String("TurnLoadBalancerDNS"), &awscdk.CfnOutputProps{Value: turn.DnsName()})
	app.Synth(nil)

	count(dir, "Video", "AWS::ElasticLoadBalancingV2::LoadBalancer", "AWS::ElasticLoadBalancingV2::TargetGroup")
	// Output:
	// AWS::ElasticLoadBalancingV2::LoadBalancer: 1
	// AWS::ElasticLoadBalancingV2::TargetGroup: 1
}

// A listener of your own on the main load balancer, and the Media Nodes as its targets.
func ExampleMainLoadBalancer() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	_, fleet, main := exampleCluster(stack, vpc)

	targets := nlb.NewNetworkTargetGroup(stack, jsii.String("Whisper"), &nlb.NetworkTargetGroupProps{
		Vpc: vpc, Port: jsii.Number(9000), Protocol: nlb.Protocol_TCP, TargetType: nlb.TargetType_INSTANCE,
	})
	fleet.Group().AttachToNetworkTargetGroup(targets)
	main.LoadBalancer().AddListener(jsii.String("Whisper"), &nlb.BaseNetworkListenerProps{
		Port: jsii.Number(8443), DefaultTargetGroups: &[]nlb.INetworkTargetGroup{targets},
	})
	// The load balancer reaches, and takes, nothing that is not said here.
	main.Connections().AllowFromAnyIpv4(awsec2.Port_Tcp(jsii.Number(8443)), jsii.String("Whisper"))
	fleet.Connections().AllowFrom(main, awsec2.Port_Tcp(jsii.Number(9000)), jsii.String("Whisper"))
	app.Synth(nil)

	count(dir, "Video", "AWS::ElasticLoadBalancingV2::Listener", "AWS::ElasticLoadBalancingV2::TargetGroup")
	// Output:
	// AWS::ElasticLoadBalancingV2::Listener: 5
	// AWS::ElasticLoadBalancingV2::TargetGroup: 5
}

// Two clusters in one stack: each in a scope of its own. They share nothing but the boot scripts in the template.
func Example_twoClusters() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	for _, name := range []string{"Production", "Staging"} {
		exampleCluster(core.NewConstruct(stack, &name), vpc)
	}
	app.Synth(nil)

	count(dir, "Video", "AWS::AutoScaling::AutoScalingGroup", "AWS::SecretsManager::Secret")
	// Output:
	// AWS::AutoScaling::AutoScalingGroup: 10
	// AWS::SecretsManager::Secret: 4
}

// Tags reach every resource that can have them, and through the groups the instances.
func Example_tags() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	masters, _, _ := exampleCluster(stack, vpc)
	awscdk.Tags_Of(masters).Add(jsii.String("cost-center"), jsii.String("4711"), nil)
	app.Synth(nil)

	kinds := map[string]bool{}
	for _, r := range synthesizedResources(dir, "Video") {
		for _, tag := range asList(r.Properties["Tags"]) {
			if tag.(map[string]any)["Key"] == "cost-center" {
				kinds[r.Type] = true
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Println(kind)
	}
	// Output:
	// AWS::AutoScaling::AutoScalingGroup
	// AWS::DLM::LifecyclePolicy
	// AWS::EC2::NetworkInterface
	// AWS::EC2::SecurityGroup
	// AWS::EC2::Volume
	// AWS::Events::Rule
	// AWS::IAM::Role
	// AWS::Lambda::Function
	// AWS::Logs::LogGroup
	// AWS::SecretsManager::Secret
}

// Another role may read the secret: an application's backend takes LIVEKIT_API_KEY and LIVEKIT_API_SECRET from it.
func ExampleSharedInfo() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	masters, _, _ := exampleCluster(stack, vpc)
	backend := awslambda.NewFunction(stack, jsii.String("Backend"), &awslambda.FunctionProps{
		Runtime: awslambda.Runtime_NODEJS_24_X(),
		Handler: jsii.String("index.handler"),
		Code:    awslambda.Code_FromInline(jsii.String("exports.handler = async () => {}")),
	})
	masters.SharedInfo().Secret().GrantRead(backend, nil)
	// Reads at its creation come after the secret is filled.
	backend.Node().AddDependency(masters.SharedInfo().Filled())
	app.Synth(nil)

	for _, r := range synthesizedResources(dir, "Video") {
		if r.Type != "AWS::IAM::Policy" {
			continue
		}
		for _, statement := range asList(r.Properties["PolicyDocument"].(map[string]any)["Statement"]) {
			fmt.Println(statement.(map[string]any)["Action"])
		}
	}
	// Output:
	// [secretsmanager:GetSecretValue secretsmanager:DescribeSecret]
}

// Volumes of your own size and key, that go with the stack.
func ExampleNewRecordingVolumes() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	openvidu.NewMasterCluster(stack, jsii.String("Masters"), &openvidu.MasterClusterProps{
		Vpc:        vpc,
		DomainName: jsii.String("openvidu.example.com"),
		License:    exampleLicense(stack),
		Volumes: openvidu.NewRecordingVolumes(stack, jsii.String("Volumes"), &openvidu.RecordingVolumesProps{
			// One a slot: the zones of the masters' subnets, in their order.
			AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b", "eu-west-1c", "eu-west-1a"),
			Size:              awscdk.Size_Tebibytes(jsii.Number(2)),
			RemovalPolicy:     awscdk.RemovalPolicy_DESTROY,
		}),
	})
	app.Synth(nil)

	for _, r := range synthesizedResources(dir, "Video") {
		if r.Type == "AWS::EC2::Volume" {
			fmt.Println(r.Properties["AvailabilityZone"], r.Properties["Size"], r.DeletionPolicy)
		}
	}
	// Output:
	// eu-west-1a 2048 Delete
	// eu-west-1b 2048 Delete
	// eu-west-1c 2048 Delete
	// eu-west-1a 2048 Delete
}

// TURN over TLS without a domain of its own, as it is unless MasterClusterProps name one: it shares 443 with all else, and port 80
// redirects to it.
func ExampleNewMainLoadBalancer_withoutTurnDomain() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	exampleCluster(stack, vpc)
	app.Synth(nil)

	for _, r := range synthesizedResources(dir, "Video") {
		if r.Type == "AWS::ElasticLoadBalancingV2::Listener" {
			fmt.Println(r.Properties["Protocol"], r.Properties["Port"])
		}
	}
	// Unordered output:
	// TLS 443
	// TLS 1935
	// TLS 1945
	// TCP 80
}

// Recordings in S3, in a bucket of your own; the one for the cluster's own data is made. The nodes reach both by their roles.
func ExampleNewRecordingBuckets() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	buckets := openvidu.NewRecordingBuckets(stack, jsii.String("Buckets"), &openvidu.RecordingBucketsProps{
		AppDataBucketName: jsii.String("my-recordings"),
	})
	masters := openvidu.NewMasterCluster(stack, jsii.String("Masters"), &openvidu.MasterClusterProps{
		Vpc:              vpc,
		DomainName:       jsii.String("openvidu.example.com"),
		License:          exampleLicense(stack),
		RecordingBuckets: buckets,
	})
	openvidu.NewMediaFleet(stack, jsii.String("Fleet"), &openvidu.MediaFleetProps{Vpc: vpc, Masters: masters})
	app.Synth(nil)

	for _, r := range synthesizedResources(dir, "Video") {
		switch r.Type {
		case "AWS::S3::Bucket":
			fmt.Println("made:", r.Properties["VersioningConfiguration"], r.DeletionPolicy)
		case "AWS::IAM::ManagedPolicy":
			for _, statement := range asList(r.Properties["PolicyDocument"].(map[string]any)["Statement"]) {
				fmt.Println(statement.(map[string]any)["Action"])
			}
		case "Custom::OpenViduCredentials":
			s3 := r.Properties["Settings"].(map[string]any)["S3"].(map[string]any)
			fmt.Println("recordings:", s3["EXTERNAL_S3_BUCKET_APP_DATA"])
		}
	}
	// Output:
	// [s3:GetBucketLocation s3:ListBucket s3:ListBucketMultipartUploads]
	// [s3:AbortMultipartUpload s3:DeleteObject s3:GetObject s3:ListMultipartUploadParts s3:PutObject]
	// made: map[Status:Enabled] Retain
	// recordings: my-recordings
}

// Lines of bash of your own, which root runs on each Media Node before OpenVidu starts.
func ExampleInstanceProps() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	masters, _, _ := exampleCluster(stack, vpc)
	openvidu.NewMediaFleet(stack, jsii.String("Tuned"), &openvidu.MediaFleetProps{
		InstanceProps: openvidu.InstanceProps{
			InstanceType: awsec2.NewInstanceType(jsii.String("c6a.2xlarge")),
			BeforeStart: jsii.Strings(
				"echo 'vm.swappiness=1' >/etc/sysctl.d/90-mine.conf",
				"sysctl -q --system",
			),
		},
		Vpc:     vpc,
		Masters: masters,
	})
	app.Synth(nil)

	for _, r := range synthesizedResources(dir, "Video") {
		if r.Type != "AWS::EC2::LaunchTemplate" {
			continue
		}
		data := r.Properties["LaunchTemplateData"].(map[string]any)
		if data["InstanceType"] != "c6a.2xlarge" {
			continue
		}
		join := data["UserData"].(map[string]any)["Fn::Base64"].(map[string]any)["Fn::Join"]
		_, lines, _ := strings.Cut(fmt.Sprint(join), "BEFORE_START=")
		lines, _, _ = strings.Cut(lines, "\nMASTER_IPS=")
		fmt.Println(lines)
	}
	// Output:
	// 'echo '\''vm.swappiness=1'\'' >/etc/sysctl.d/90-mine.conf
	// sysctl -q --system'
}

// Alarms for an SNS topic of your own.
func ExampleNewClusterAlarms() {
	app, dir := exampleApp()
	stack, vpc := exampleStack(app)
	masters, fleet, main := exampleCluster(stack, vpc)
	alarms := openvidu.NewClusterAlarms(stack, jsii.String("Alarms"), &openvidu.ClusterAlarmsProps{
		Masters: masters, Fleet: fleet, LoadBalancer: main,
		Topic: awssns.Topic_FromTopicArn(stack, jsii.String("OnCall"), jsii.String("arn:aws:sns:eu-west-1:123456789012:on-call")),
	})
	app.Synth(nil)

	told := 0
	for _, r := range synthesizedResources(dir, "Video") {
		if r.Type == "AWS::CloudWatch::Alarm" && text(r.Properties["AlarmActions"]) == `["arn:aws:sns:eu-west-1:123456789012:on-call"]` {
			told++
		}
	}
	fmt.Println(told, "of", len(*alarms.Alarms()))
	// Output:
	// 7 of 7
}

// What follows is what the examples have in common; a program of yours has its own.

const certificateArn = "arn:aws:acm:eu-west-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"

// exampleApp writes into a folder that the examples read again. What the CDK's own rules find in a template is an error.
func exampleApp() (awscdk.App, string) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	return awscdk.NewApp(&awscdk.AppProps{
		Outdir:             &dir,
		AnalyticsReporting: jsii.Bool(false),
		PostCliContext:     &map[string]any{"@aws-cdk/core:validateAgainstDefaultRules": true},
	}), dir
}

func exampleStack(app awscdk.App) (awscdk.Stack, awsec2.IVpc) {
	stack := awscdk.NewStack(app, jsii.String("Video"), &awscdk.StackProps{Env: &awscdk.Environment{
		Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1"),
	}})
	return stack, awsec2.Vpc_FromVpcAttributes(stack, jsii.String("Vpc"), &awsec2.VpcAttributes{
		VpcId:             jsii.String("vpc-0123456789abcdef0"),
		AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b", "eu-west-1c"),
		PublicSubnetIds:   jsii.Strings("subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb", "subnet-0cccccccccccccccc"),
	})
}

func exampleLicense(scope core.Construct) *string {
	return awscdk.NewCfnParameter(scope, jsii.String("License"), &awscdk.CfnParameterProps{NoEcho: jsii.Bool(true)}).ValueAsString()
}

func exampleCluster(scope core.Construct, vpc awsec2.IVpc) (openvidu.MasterCluster, openvidu.MediaFleet, openvidu.MainLoadBalancer) {
	masters := openvidu.NewMasterCluster(scope, jsii.String("Masters"), &openvidu.MasterClusterProps{
		Vpc: vpc, DomainName: jsii.String("openvidu.example.com"), License: exampleLicense(scope),
	})
	fleet := openvidu.NewMediaFleet(scope, jsii.String("Fleet"), &openvidu.MediaFleetProps{Vpc: vpc, Masters: masters})
	main := openvidu.NewMainLoadBalancer(scope, jsii.String("Main"), &openvidu.MainLoadBalancerProps{
		LoadBalancerProps: openvidu.LoadBalancerProps{
			Vpc:         vpc,
			Certificate: awscertificatemanager.Certificate_FromCertificateArn(scope, jsii.String("Certificate"), jsii.String(certificateArn)),
		},
		Masters: masters, Fleet: fleet,
	})
	return masters, fleet, main
}

// synthesizedResources of a stack, in the order of their logical ids.
func synthesizedResources(dir, stack string) []resource {
	content, err := os.ReadFile(filepath.Join(dir, stack+".template.json"))
	if err != nil {
		panic(err)
	}
	var template struct{ Resources map[string]resource }
	if err := json.Unmarshal(content, &template); err != nil {
		panic(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	var out []resource
	for _, id := range slices.Sorted(maps.Keys(template.Resources)) {
		out = append(out, template.Resources[id])
	}
	return out
}

func count(dir, stack string, types ...string) {
	counts := map[string]int{}
	for _, r := range synthesizedResources(dir, stack) {
		counts[r.Type]++
	}
	for _, t := range types {
		fmt.Printf("%s: %d\n", t, counts[t])
	}
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}
