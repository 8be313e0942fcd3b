package constructs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

// refuses tells whether a constructor panics in the style of the others: the path first, then what is wrong.
func refuses(t *testing.T, path string, make func(), wants ...string) {
	t.Helper()
	defer func() {
		t.Helper()
		got := fmt.Sprint(recover())
		for _, want := range append(wants, path+":\n  - ") {
			if !strings.Contains(got, want) {
				t.Errorf("the message lacks %q:\n%s", want, got)
			}
		}
	}()
	make()
	t.Error("no panic")
}

func masters(p *program, id string, change func(*constructs.MasterClusterProps)) func() {
	return func() {
		props := p.masterProps()
		change(props)
		constructs.NewMasterCluster(p.stack, &id, props)
	}
}

func TestImagesThatNoNodeCanRunAreRefused(t *testing.T) {
	const ubuntu = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
	for id, c := range map[string]struct {
		change func(*constructs.MasterClusterProps)
		want   string
	}{
		"Windows": {func(props *constructs.MasterClusterProps) {
			props.MachineImage = awsec2.MachineImage_LatestWindows(awsec2.WindowsVersion_WINDOWS_SERVER_2022_ENGLISH_FULL_BASE, nil)
		}, "MachineImage is Windows: give Amazon Linux 2023, Ubuntu 22.04 or 24.04"},
		"Two": {func(props *constructs.MasterClusterProps) {
			props.MachineImage = awsec2.MachineImage_LatestAmazonLinux2(nil)
		}, "MachineImage is Amazon Linux 2: give Amazon Linux 2023, Ubuntu 22.04 or 24.04"},
		"Graviton": {func(props *constructs.MasterClusterProps) {
			props.MachineImage = awsec2.MachineImage_LatestAmazonLinux2023(nil)
			props.InstanceType = awsec2.NewInstanceType(jsii.String("c7g.xlarge"))
		}, "MachineImage is for x86_64, InstanceType c7g.xlarge for arm64: give an image and a type of one architecture"},
		"Intel": {func(props *constructs.MasterClusterProps) {
			props.MachineImage = awsec2.MachineImage_LatestAmazonLinux2023(&awsec2.AmazonLinux2023ImageSsmParameterProps{CpuType: awsec2.AmazonLinuxCpuType_ARM_64})
		}, "MachineImage is for arm64, InstanceType c6a.xlarge for x86_64"},
		"Ubuntu": {func(props *constructs.MasterClusterProps) {
			props.MachineImage = awsec2.MachineImage_FromSsmParameter(jsii.String(ubuntu), nil)
		}, "RootDeviceName is required: Ubuntu's root device is /dev/sda1"},
	} {
		p := newProgram(t, "a", "b")
		refuses(t, "Own/"+id, masters(p, id, c.change), c.want)
		fleet := p.masterProps()
		c.change(fleet)
		made := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
		refuses(t, "Own/Fleet"+id, func() {
			constructs.NewMediaFleet(p.stack, jsii.String("Fleet"+id), &constructs.MediaFleetProps{InstanceProps: fleet.InstanceProps, Masters: made, Vpc: p.vpc})
		}, c.want)
	}
	// And these are not.
	p := newProgram(t, "a", "b")
	masters(p, "Ubuntu", func(props *constructs.MasterClusterProps) {
		props.MachineImage, props.RootDeviceName = awsec2.MachineImage_FromSsmParameter(jsii.String(ubuntu), nil), jsii.String("/dev/sda1")
	})()
	masters(p, "Generic", func(props *constructs.MasterClusterProps) {
		props.MachineImage = awsec2.MachineImage_GenericLinux(&map[string]*string{"eu-west-1": jsii.String("ami-0123456789abcdef0")}, nil)
		props.InstanceType = awsec2.NewInstanceType(jsii.String("c7g.xlarge"))
	})()
}

func TestNodesWithoutAWayOutAreRefused(t *testing.T) {
	p := newProgram(t, "a", "b")
	vpc := awsec2.Vpc_FromVpcAttributes(p.stack, jsii.String("Isolated"), &awsec2.VpcAttributes{
		VpcId: jsii.String("vpc-1"), AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b"),
		PublicSubnetIds: jsii.Strings("subnet-a", "subnet-b"), IsolatedSubnetIds: jsii.Strings("subnet-c", "subnet-d"),
	})
	isolated := &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PRIVATE_ISOLATED}
	const want = "VpcSubnets selects isolated subnets (subnet-c, subnet-d): nodes need a route to AWS and to OpenVidu; give public subnets, or private ones with NAT"
	refuses(t, "Own/M", masters(p, "M", func(props *constructs.MasterClusterProps) { props.Vpc, props.VpcSubnets = vpc, isolated }), want)
	made := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	refuses(t, "Own/F", func() {
		constructs.NewMediaFleet(p.stack, jsii.String("F"), &constructs.MediaFleetProps{Masters: made, Vpc: vpc, VpcSubnets: isolated})
	}, want)
}

func TestPartsOfOneClusterAreInOneVpc(t *testing.T) {
	p := newProgram(t, "a", "b")
	other := awsec2.Vpc_FromVpcAttributes(p.stack, jsii.String("Other"), &awsec2.VpcAttributes{
		VpcId: jsii.String("vpc-2"), AvailabilityZones: jsii.Strings("eu-west-1a"), PublicSubnetIds: jsii.Strings("subnet-x"),
	})
	made, fleet, _ := p.cluster(p.stack)
	refuses(t, "Own/F", func() {
		constructs.NewMediaFleet(p.stack, jsii.String("F"), &constructs.MediaFleetProps{Masters: made, Vpc: other})
	}, "Vpc is vpc-2, the masters are in vpc-1: give the VPC of the masters")
	common := p.reached("C")
	common.Vpc = other
	refuses(t, "Own/B", func() {
		constructs.NewMainLoadBalancer(p.stack, jsii.String("B"), &constructs.MainLoadBalancerProps{LoadBalancerProps: common, Masters: made, Fleet: fleet})
	}, "Vpc is vpc-2, the masters are in vpc-1: give the VPC of the masters")
}

func TestVolumesAreInTheZonesOfTheirSlots(t *testing.T) {
	p := newProgram(t, "a", "b")
	volumes := constructs.NewRecordingVolumes(p.stack, jsii.String("Volumes"), &constructs.RecordingVolumesProps{
		AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1a", "eu-west-1a", "eu-west-1b"),
	})
	refuses(t, "Own/M", masters(p, "M", func(props *constructs.MasterClusterProps) { props.Volumes = volumes }),
		"Volumes: the volume of slot 2 is in eu-west-1a, its subnet in eu-west-1b: give each the zone of its slot's subnet")
}

func TestCredentialsThatCannotWorkAreRefused(t *testing.T) {
	p := newProgram(t, "a", "b")
	refuses(t, "Own/M", masters(p, "M", func(props *constructs.MasterClusterProps) {
		props.License, props.InitialMeetApiKey, props.InitialMeetAdminPassword = jsii.String("a licence"), jsii.String("k"), jsii.String("it's short")
	}), "License has a space: give the license key without spaces",
		"InitialMeetApiKey is not 8 to 128 letters, digits or _.,:@%+=-",
		"InitialMeetAdminPassword is not 8 to 128 letters, digits or _.,:@%+=-")
	// A message is for logs: it does not repeat the credential.
	defer func() {
		if got := fmt.Sprint(recover()); strings.Contains(got, "a licence") || strings.Contains(got, "it's short") {
			t.Errorf("the message tells a credential: %s", got)
		}
	}()
	masters(p, "N", func(props *constructs.MasterClusterProps) {
		props.License, props.InitialMeetAdminPassword = jsii.String("a licence"), jsii.String("it's short")
	})()
}

func TestALiteralLicenseWarns(t *testing.T) {
	warnings := func(p *program, license *string) int {
		masters(p, "Masters", func(props *constructs.MasterClusterProps) { props.License = license })()
		count := 0
		for _, message := range *p.app.Synth(nil).GetStackByName(p.stack.StackName()).Messages() {
			if strings.Contains(fmt.Sprint(message.Entry.Data), "License is part of the template") {
				count++
			}
		}
		return count
	}
	if got := warnings(newProgram(t, "a"), jsii.String("licence")); got != 1 {
		t.Errorf("%d warnings of a literal license", got)
	}
	p := newProgram(t, "a")
	if got := warnings(p, exampleLicense(p.stack)); got != 0 {
		t.Errorf("%d warnings of a parameter with NoEcho", got)
	}
}

func TestPropsThatAreMissingAreNamed(t *testing.T) {
	p := newProgram(t, "a", "b")
	for id, make := range map[string]func(id *string){
		"M":  func(id *string) { constructs.NewMasterCluster(p.stack, id, nil) },
		"F":  func(id *string) { constructs.NewMediaFleet(p.stack, id, nil) },
		"B":  func(id *string) { constructs.NewMainLoadBalancer(p.stack, id, nil) },
		"T":  func(id *string) { constructs.NewTurnTlsEndpoint(p.stack, id, nil) },
		"V":  func(id *string) { constructs.NewRecordingVolumes(p.stack, id, nil) },
		"A":  func(id *string) { constructs.NewClusterAlarms(p.stack, id, nil) },
		"D":  func(id *string) { constructs.NewClusterDashboard(p.stack, id, nil) },
		"P":  func(id *string) { constructs.NewPreflight(p.stack, id, nil) },
		"P2": func(id *string) { constructs.NewPreflight(p.stack, id, &constructs.PreflightProps{}) },
	} {
		refuses(t, "Own/"+id, func() { make(&id) }, " is required: ")
	}
	constructs.NewRecordingBuckets(p.stack, jsii.String("R"), nil) // all its props are optional
	refuses(t, "Own/L", masters(p, "L", func(props *constructs.MasterClusterProps) {
		props.BeforeStart, props.AdditionalInstallFlags, props.PrivateIps = &[]*string{nil}, &[]*string{nil}, &[]*string{nil, nil, nil, nil}
	}), "BeforeStart[0] is nil", "AdditionalInstallFlags[0] is nil", "PrivateIps[0] is nil")
}

// Otherwise the CDK dies of a DependencyCycle that names no construct.
func TestClustersThatAreSplitOverStacksAreRefusedByName(t *testing.T) {
	p := newProgram(t, "a", "b")
	other := awscdk.NewStack(p.app, jsii.String("Other"), &awscdk.StackProps{Env: &awscdk.Environment{
		Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1"),
	}})
	p.turn = jsii.String("turn.example.com")
	made := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	fleet := constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: made, Vpc: p.vpc})
	refuses(t, "Other/B", func() {
		constructs.NewMainLoadBalancer(other, jsii.String("B"), &constructs.MainLoadBalancerProps{LoadBalancerProps: p.reached("C"), Masters: made, Fleet: fleet})
	}, "Masters is in stack Own, not in Other: make both in one stack", "Fleet is in stack Own, not in Other")
	refuses(t, "Other/T", func() {
		constructs.NewTurnTlsEndpoint(other, jsii.String("T"), &constructs.TurnTlsEndpointProps{LoadBalancerProps: p.reached("D"), Fleet: fleet})
	}, "Fleet is in stack Own, not in Other")
	volumes := constructs.NewRecordingVolumes(other, jsii.String("V"), &constructs.RecordingVolumesProps{
		AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b", "eu-west-1a", "eu-west-1b")})
	refuses(t, "Own/M", masters(p, "M", func(props *constructs.MasterClusterProps) { props.Volumes = volumes }),
		"Volumes is in stack Other, not in Own: make both in one stack")
}
