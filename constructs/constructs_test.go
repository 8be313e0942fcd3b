package constructs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	core "github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

func TestMain(m *testing.M) {
	code := m.Run()
	jsii.Close()
	os.Exit(code)
}

// program is a stack of somebody who imports the constructs, in an account and region that are known.
type program struct {
	t     *testing.T
	dir   string
	app   awscdk.App
	stack awscdk.Stack
	vpc   awsec2.IVpc
	turn  *string // domain of TURN, if it has one
}

func newProgram(t *testing.T, zones ...string) *program {
	dir := t.TempDir()
	app := awscdk.NewApp(&awscdk.AppProps{Outdir: &dir, AnalyticsReporting: jsii.Bool(false)})
	stack := awscdk.NewStack(app, jsii.String("Own"), &awscdk.StackProps{Env: &awscdk.Environment{
		Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1"),
	}})
	return &program{t, dir, app, stack, importVpc(stack, zones...), nil}
}

// importVpc with a public subnet in each zone.
func importVpc(stack awscdk.Stack, zones ...string) awsec2.IVpc {
	var names, subnets []*string
	for _, zone := range zones {
		names = append(names, jsii.String("eu-west-1"+zone))
		subnets = append(subnets, jsii.String("subnet-"+zone))
	}
	return awsec2.Vpc_FromVpcAttributes(stack, jsii.String("Vpc"), &awsec2.VpcAttributes{
		VpcId: jsii.String("vpc-1"), AvailabilityZones: &names, PublicSubnetIds: &subnets,
	})
}

func (p *program) masterProps() *constructs.MasterClusterProps {
	return &constructs.MasterClusterProps{Vpc: p.vpc, DomainName: jsii.String("openvidu.example.com"), License: jsii.String("licence"),
		TurnDomainName: p.turn}
}

func (p *program) certificate(id string) awscertificatemanager.ICertificate {
	return awscertificatemanager.Certificate_FromCertificateArn(p.stack, &id, jsii.String("arn:aws:acm:eu-west-1:123456789012:certificate/"+id))
}

func (p *program) reached(certificate string) constructs.LoadBalancerProps {
	return constructs.LoadBalancerProps{Vpc: p.vpc, Certificate: p.certificate(certificate)}
}

// cluster makes a whole one under a scope.
func (p *program) cluster(scope core.Construct) (constructs.MasterCluster, constructs.MediaFleet, constructs.MainLoadBalancer) {
	masters := constructs.NewMasterCluster(scope, jsii.String("Masters"), p.masterProps())
	fleet := constructs.NewMediaFleet(scope, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	balancer := constructs.NewMainLoadBalancer(scope, jsii.String("Balancer"), &constructs.MainLoadBalancerProps{
		LoadBalancerProps: p.reached(*scope.Node().Id() + "Certificate"), Masters: masters, Fleet: fleet,
	})
	return masters, fleet, balancer
}

type resource struct {
	Type           string
	Properties     map[string]any
	DependsOn      any
	DeletionPolicy string
	Condition      string
	Metadata       map[string]any
}

// resources synthesizes and gives the resources of a stack.
func (p *program) resources() map[string]resource {
	p.t.Helper()
	return p.resourcesOf("Own")
}

func (p *program) resourcesOf(stack string) map[string]resource {
	p.t.Helper()
	return p.template(stack).Resources
}

type template struct {
	Resources  map[string]resource
	Conditions map[string]any
}

func (p *program) template(stack string) template {
	p.t.Helper()
	p.app.Synth(nil)
	return p.read(stack)
}

// read what was synthesized.
func (p *program) read(stack string) template {
	p.t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, stack+".template.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	var out template
	if err := json.Unmarshal(content, &out); err != nil {
		p.t.Fatal(err)
	}
	return out
}

func ofType(resources map[string]resource, resourceType string) []resource {
	var ids []string
	for id, r := range resources {
		if r.Type == resourceType {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var out []resource
	for _, id := range ids {
		out = append(out, resources[id])
	}
	return out
}

func text(value any) string {
	content, _ := json.Marshal(value)
	return string(content)
}

func TestSlotsCycleOverTheSubnetsOfTheVpc(t *testing.T) {
	for _, c := range []struct{ zones, slots string }{
		{"abcd", "abcd"}, {"abcde", "abcd"}, {"abc", "abca"}, {"ab", "abab"}, {"a", "aaaa"},
	} {
		t.Run(c.zones, func(t *testing.T) {
			p := newProgram(t, strings.Split(c.zones, "")...)
			constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
			resources := p.resources()
			interfaces, volumes := ofType(resources, "AWS::EC2::NetworkInterface"), ofType(resources, "AWS::EC2::Volume")
			groups := ofType(resources, "AWS::AutoScaling::AutoScalingGroup")
			if len(interfaces) != 4 || len(volumes) != 4 || len(groups) != 4 {
				t.Fatalf("%d interfaces, %d volumes, %d groups", len(interfaces), len(volumes), len(groups))
			}
			for i, zone := range strings.Split(c.slots, "") {
				if got := interfaces[i].Properties["SubnetId"]; got != "subnet-"+zone {
					t.Errorf("slot %d: interface in %v", i+1, got)
				}
				if got := volumes[i].Properties["AvailabilityZone"]; got != "eu-west-1"+zone {
					t.Errorf("slot %d: volume in %v", i+1, got)
				}
				if got := groups[i].Properties["VPCZoneIdentifier"]; !reflect.DeepEqual(got, []any{"subnet-" + zone}) {
					t.Errorf("slot %d: group in %v", i+1, got)
				}
			}
		})
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	p.cluster(p.stack)
	resources := p.resources()
	for _, volume := range ofType(resources, "AWS::EC2::Volume") {
		if volume.Properties["Size"] != 100.0 || volume.Properties["Encrypted"] != true || volume.DeletionPolicy != "RetainExceptOnCreate" {
			t.Errorf("volume: %v", volume)
		}
	}
	for _, launch := range ofType(resources, "AWS::EC2::LaunchTemplate") {
		data := launch.Properties["LaunchTemplateData"].(map[string]any)
		if data["InstanceType"] != "c6a.xlarge" || data["KeyName"] != nil {
			t.Errorf("launch template: %v", data)
		}
		if mapping := text(data["BlockDeviceMappings"]); !strings.Contains(mapping, `"DeviceName":"/dev/xvda"`) || !strings.Contains(mapping, `"VolumeSize":50`) {
			t.Errorf("root volume: %s", mapping)
		}
		if image := text(data["ImageId"]); !strings.Contains(image, "amzn") && !strings.Contains(image, "al2023") {
			t.Errorf("image: %s", image)
		}
		if script := text(data["UserData"]); !strings.Contains(script, "https://s3.eu-west-1.amazonaws.com/get.openvidu.io/pro/ha") {
			t.Errorf("installer: %s", script)
		}
	}
	fill := ofType(resources, "Custom::OpenViduCredentials")[0].Properties
	want := map[string]any{"DOMAIN_NAME": "openvidu.example.com", "ENABLED_MODULES": "observability,v2compatibility,openviduMeet",
		"LIVEKIT_TURN_DOMAIN_NAME": "", "OPENVIDU_PRO_LICENSE": "licence", "OPENVIDU_RTC_ENGINE": "pion"}
	if !reflect.DeepEqual(fill["Settings"], want) || fill["Version"] != "3.9.0" {
		t.Errorf("settings: %v", fill)
	}
	for _, group := range ofType(resources, "AWS::AutoScaling::AutoScalingGroup") {
		if group.Properties["LifecycleHookSpecificationList"] == nil {
			continue
		}
		if sizes := []any{group.Properties["MinSize"], group.Properties["MaxSize"], group.Properties["DesiredCapacity"]}; !reflect.DeepEqual(sizes, []any{"2", "5", "2"}) {
			t.Errorf("fleet: sizes %v", sizes)
		}
	}
	if policy := text(ofType(resources, "AWS::AutoScaling::ScalingPolicy")[0].Properties); !strings.Contains(policy, `"TargetValue":50`) {
		t.Errorf("scaling: %s", policy)
	}
	if balancers := ofType(resources, "AWS::ElasticLoadBalancingV2::LoadBalancer"); len(balancers) != 1 {
		t.Errorf("%d load balancers without TURN", len(balancers))
	} else if got := balancers[0].Properties["Subnets"]; !reflect.DeepEqual(got, []any{"subnet-a", "subnet-b", "subnet-c"}) {
		t.Errorf("load balancer in %v", got)
	}
}

func TestPropsReachTheResources(t *testing.T) {
	p := newProgram(t, "a", "b")
	key := awskms.Key_FromKeyArn(p.stack, jsii.String("Key"), jsii.String("arn:aws:kms:eu-west-1:123456789012:key/k"))
	volumes := constructs.NewRecordingVolumes(p.stack, jsii.String("Volumes"), &constructs.RecordingVolumesProps{
		AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b", "eu-west-1a", "eu-west-1b"),
		Size:              awscdk.Size_Gibibytes(jsii.Number(500)),
		RemovalPolicy:     awscdk.RemovalPolicy_DESTROY,
		EncryptionKey:     key,
	})
	arm := constructs.InstanceProps{
		InstanceType:   awsec2.NewInstanceType(jsii.String("c7g.2xlarge")),
		RootVolumeSize: awscdk.Size_Gibibytes(jsii.Number(80)),
		RootDeviceName: jsii.String("/dev/sda1"),
		KeyPair:        awsec2.KeyPair_FromKeyPairName(p.stack, jsii.String("Pair"), jsii.String("pair")),
	}
	props := p.masterProps()
	props.InstanceProps, props.Volumes, props.SecretEncryptionKey = arm, volumes, key
	props.TurnDomainName, props.RtcEngine = jsii.String("turn.example.com"), jsii.String("mediasoup")
	props.OpenViduVersion, props.InstallerUrl = jsii.String("3.10.0"), jsii.String("https://mirror.example.com/ha")
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
	constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{
		InstanceProps: arm, Masters: masters, Vpc: p.vpc,
		MinCapacity: jsii.Number(1), InitialCapacity: jsii.Number(3), MaxCapacity: jsii.Number(9), TargetCpuUtilization: jsii.Number(70),
	})
	resources := p.resources()
	for _, volume := range ofType(resources, "AWS::EC2::Volume") {
		if volume.Properties["Size"] != 500.0 || volume.Properties["KmsKeyId"] == nil || volume.DeletionPolicy != "Delete" {
			t.Errorf("volume: %v", volume)
		}
	}
	for _, launch := range ofType(resources, "AWS::EC2::LaunchTemplate") {
		data := text(launch.Properties["LaunchTemplateData"])
		for _, want := range []string{`"InstanceType":"c7g.2xlarge"`, `"VolumeSize":80`, `"DeviceName":"/dev/sda1"`, `"KeyName":"pair"`, "https://mirror.example.com/ha", "arm64"} {
			if !strings.Contains(data, want) {
				t.Errorf("launch template lacks %s: %s", want, data)
			}
		}
	}
	fill := text(ofType(resources, "Custom::OpenViduCredentials")[0])
	for _, want := range []string{`"LIVEKIT_TURN_DOMAIN_NAME":"turn.example.com"`, `"OPENVIDU_RTC_ENGINE":"mediasoup"`, `"Version":"3.10.0"`} {
		if !strings.Contains(fill, want) {
			t.Errorf("settings lack %s: %s", want, fill)
		}
	}
	roles := text(ofType(resources, "AWS::IAM::Role"))
	if !strings.Contains(roles, `"kms:CreateGrant"`) || !strings.Contains(roles, `"kms:GrantIsForAWSResource":true`) {
		t.Errorf("no master may attach a volume with this key: %s", roles)
	}
	if !strings.Contains(roles, `"Action":["kms:Decrypt","kms:GenerateDataKey"]`) || len(ofType(resources, "AWS::IAM::Policy")) > 0 {
		t.Errorf("the function may run before it may use the key: %s", roles)
	}
	if secret := ofType(resources, "AWS::SecretsManager::Secret")[0].Properties; secret["KmsKeyId"] == nil {
		t.Errorf("secret: %v", secret)
	}
	fleet := text(ofType(resources, "AWS::AutoScaling::AutoScalingGroup")[0])
	for _, want := range []string{`"MinSize":"1"`, `"DesiredCapacity":"3"`, `"MaxSize":"9"`} {
		if !strings.Contains(fleet, want) {
			t.Errorf("fleet lacks %s: %s", want, fleet)
		}
	}
}

func TestTurnEndpointIsOptional(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	p.turn = jsii.String("turn.example.com")
	_, fleet, _ := p.cluster(p.stack)
	turn := constructs.NewTurnTlsEndpoint(p.stack, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{
		LoadBalancerProps: p.reached("Turn2"), Fleet: fleet,
	})
	if turn.DnsName() == nil || turn.LoadBalancer() == nil {
		t.Error("the endpoint hands out nothing")
	}
	resources := p.resources()
	if got := len(ofType(resources, "AWS::ElasticLoadBalancingV2::LoadBalancer")); got != 2 {
		t.Errorf("%d load balancers", got)
	}
	for id, r := range resources {
		if r.Condition != "" {
			t.Errorf("%s has a condition, without being asked for one", id)
		}
	}
}

func TestTwoClustersLiveInOneStack(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	p.cluster(core.NewConstruct(p.stack, jsii.String("One")))
	p.cluster(core.NewConstruct(p.stack, jsii.String("Two")))
	resources := p.resources()
	if got := len(ofType(resources, "AWS::AutoScaling::AutoScalingGroup")); got != 10 {
		t.Errorf("%d groups", got)
	}
	tags := map[string]int{}
	for _, group := range ofType(resources, "AWS::AutoScaling::AutoScalingGroup") {
		for _, tag := range group.Properties["Tags"].([]any) {
			if tag := tag.(map[string]any); tag["Key"] == "OpenViduCluster" {
				tags[text(tag["Value"])]++
			}
		}
	}
	if len(tags) != 2 {
		t.Errorf("the clusters share a tag, hence each other's permissions: %v", tags)
	}
}

func TestMastersTellEachInstanceItsSlotAndGroup(t *testing.T) {
	p := newProgram(t, "a", "b", "c", "d")
	constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	slots := map[string]bool{}
	resources := p.resources()
	for id, r := range resources {
		if r.Type == "AWS::AutoScaling::AutoScalingGroup" {
			match := regexp.MustCompile(`\nSLOT='(\d)'\n(?s:.*)\nGROUP='(\w+)'\n`).FindStringSubmatch(userDataOf(resources, r))
			if match == nil || match[2] != id {
				t.Errorf("%s says %v: a rolling update would wait for the signal of another group", id, match)
				continue
			}
			slots[match[1]] = true
		}
	}
	if len(slots) != 4 {
		t.Errorf("slots: %v", slots)
	}
}

// userDataOf a group's launch template, with references as [].
func userDataOf(resources map[string]resource, group resource) string {
	launch := group.Properties["LaunchTemplate"].(map[string]any)["LaunchTemplateId"].(map[string]any)["Ref"].(string)
	data := resources[launch].Properties["LaunchTemplateData"].(map[string]any)["UserData"].(map[string]any)["Fn::Base64"].(map[string]any)
	var out strings.Builder
	for _, part := range data["Fn::Join"].([]any)[1].([]any) {
		if words, ok := part.(string); ok {
			out.WriteString(words)
		} else if reference, ok := part.(map[string]any)["Ref"]; ok {
			fmt.Fprint(&out, reference)
		} else {
			out.WriteString("[]")
		}
	}
	return out.String()
}

func TestFleetMayLiveInAStackOfItsOwn(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	other := awscdk.NewStack(p.app, jsii.String("Other"), &awscdk.StackProps{Env: &awscdk.Environment{
		Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1"),
	}})
	constructs.NewMediaFleet(other, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	resources := p.resourcesOf("Other")
	if got := len(ofType(resources, "AWS::AutoScaling::AutoScalingGroup")); got != 1 {
		t.Errorf("%d groups", got)
	}
	// Launches that fail are that stack's matter.
	if rules, functions := ofType(resources, "AWS::Events::Rule"), ofType(resources, "AWS::Lambda::Function"); len(rules) != 1 || len(functions) != 1 {
		t.Errorf("%d rules and %d functions hear of failed launches", len(rules), len(functions))
	}
	if got := len(ofType(resources, "AWS::EC2::SecurityGroupIngress")); got != 12 {
		t.Errorf("%d rules between masters and fleet, want 9 + 3 of the port table", got)
	}
}

func TestConstructsAreScopesTargetsOfTagsGranteesAndDependencies(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	p.turn = jsii.String("turn.example.com")
	masters, fleet, balancer := p.cluster(p.stack)
	turn := constructs.NewTurnTlsEndpoint(p.stack, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{LoadBalancerProps: p.reached("TurnC"), Fleet: fleet})
	alarms := constructs.NewClusterAlarms(p.stack, jsii.String("Alarms"), &constructs.ClusterAlarmsProps{Masters: masters, Fleet: fleet, LoadBalancer: balancer})
	dashboard := constructs.NewClusterDashboard(p.stack, jsii.String("Dashboard"), &constructs.ClusterDashboardProps{Masters: masters, Fleet: fleet, LoadBalancer: balancer})
	for _, made := range []core.Construct{masters, fleet, balancer, turn, masters.Volumes(), masters.SharedInfo(), alarms, dashboard} {
		inside := awscdk.NewCfnResource(made, jsii.String("Inside"), &awscdk.CfnResourceProps{Type: jsii.String("AWS::CloudFormation::WaitConditionHandle")})
		awscdk.Tags_Of(made).Add(jsii.String("team"), jsii.String("video"), nil)
		after := awscdk.NewCfnResource(p.stack, jsii.String("After"+*made.Node().Id()), &awscdk.CfnResourceProps{Type: jsii.String("AWS::CloudFormation::WaitConditionHandle")})
		after.Node().AddDependency(made)
		if *inside.Node().Scope().Node().Path() != *made.Node().Path() || *made.ToString() == "" {
			t.Errorf("%s is no scope", *made.Node().Path())
		}
	}
	reader := awsiam.NewRole(p.stack, jsii.String("Reader"), &awsiam.RoleProps{AssumedBy: awsiam.NewAccountRootPrincipal()})
	masters.SharedInfo().Secret().GrantRead(reader, nil)
	masters.Volumes().GrantAttach(reader, jsii.String("mine"), jsii.String("yes"))
	key := awskms.NewKey(p.stack, jsii.String("Key"), nil)
	key.GrantEncrypt(masters)
	key.GrantEncrypt(fleet)
	for _, connectable := range []awsec2.IConnectable{masters, fleet, balancer, turn} {
		connectable.Connections().AllowFrom(awsec2.Peer_Ipv4(jsii.String("192.0.2.0/24")), awsec2.Port_Tcp(jsii.Number(22)), nil)
	}

	resources := p.resources()
	if got := strings.Count(text(resources), `"Key":"team"`); got < 20 {
		t.Errorf("the tag is on %d resources only", got)
	}
	if got := strings.Count(text(resources), "192.0.2.0/24"); got < 4 {
		t.Errorf("%d of 4 groups took the rule", got)
	}
	if got := strings.Count(text(ofType(resources, "AWS::IAM::Policy")), "kms:Encrypt"); got < 2 {
		t.Errorf("%d of 2 roles were granted the key", got)
	}
	for _, id := range []string{"AfterMasters", "AfterFleet", "AfterBalancer", "AfterTurn"} {
		if depends := text(resources[id].DependsOn); strings.Count(depends, ",") < 3 {
			t.Errorf("%s depends on %s", id, depends)
		}
	}
}

func TestPropsOfTheCallerAreLeftAlone(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	props := p.masterProps()
	before := *props
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
	if !reflect.DeepEqual(*props, before) {
		t.Errorf("props were %v, now %v", before, *props)
	}
	fleet := &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc}
	fleetBefore := *fleet
	constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), fleet)
	if !reflect.DeepEqual(*fleet, fleetBefore) {
		t.Errorf("props were %v, now %v", fleetBefore, *fleet)
	}
}

func TestWrongPropsPanicOnceWithEveryProblem(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	scope := core.NewConstruct(p.stack, jsii.String("Video"))
	masters, fleet, balancer := p.cluster(p.stack)
	six := newProgram(t, "a", "b", "c", "d", "e")
	for name, c := range map[string]struct {
		make func()
		want []string
	}{
		"masters": {func() {
			constructs.NewMasterCluster(scope, jsii.String("M"), &constructs.MasterClusterProps{
				DomainName: jsii.String("https://x"), TurnDomainName: jsii.String("turn"), RtcEngine: jsii.String("kurento"),
				OpenViduVersion: jsii.String("latest"), InstallerUrl: jsii.String("http://get.example.com"),
			})
		}, []string{"Own/Video/M:", "Vpc is required", `DomainName is "https://x": give a fully qualified`, `TurnDomainName is "turn"`, "License is required",
			`RtcEngine is "kurento": give pion or mediasoup`, `OpenViduVersion is "latest": give a release from 3.8.0 on, like 3.9.0`, `InstallerUrl is "http://get.example.com": give an https address`}},
		"too many subnets": {func() {
			props := six.masterProps()
			props.VpcSubnets = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PUBLIC}
			constructs.NewMasterCluster(six.stack, jsii.String("M"), props)
		}, []string{"Own/M:", "VpcSubnets selects 5 subnets: select 1 to 4"}},
		"volumes": {func() {
			constructs.NewRecordingVolumes(scope, jsii.String("V"), &constructs.RecordingVolumesProps{
				Size: awscdk.Size_Gibibytes(jsii.Number(49)), RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
				RetainWhen: awscdk.NewCfnCondition(scope, jsii.String("C"), nil),
			})
		}, []string{"Own/Video/V:", "AvailabilityZones is required", "Size is 49: give a whole number from 50 to 65536", `RemovalPolicy is "DESTROY" beside RetainWhen`}},
		"too few volumes": {func() {
			props := p.masterProps()
			props.Volumes = constructs.NewRecordingVolumes(scope, jsii.String("V3"), &constructs.RecordingVolumesProps{AvailabilityZones: jsii.Strings("a", "b", "c")})
			constructs.NewMasterCluster(scope, jsii.String("M3"), props)
		}, []string{"Volumes has 3 volumes: give one for each of the 4 slots"}},
		"fleet": {func() {
			constructs.NewMediaFleet(scope, jsii.String("F"), &constructs.MediaFleetProps{
				InstanceProps: constructs.InstanceProps{RootVolumeSize: awscdk.Size_Gibibytes(jsii.Number(8))},
				MinCapacity:   jsii.Number(-1), MaxCapacity: jsii.Number(0), InitialCapacity: jsii.Number(2.5), TargetCpuUtilization: jsii.Number(101),
			})
		}, []string{"Own/Video/F:", "Masters is required", "Vpc is required", "RootVolumeSize is 8: give a whole number from 20 to 16384", "MinCapacity is -1", "MaxCapacity is 0", "InitialCapacity is 2.5", "TargetCpuUtilization is 101: give a whole number from 1 to 100"}},
		"fleet sizes": {func() {
			constructs.NewMediaFleet(scope, jsii.String("F2"), &constructs.MediaFleetProps{
				Masters: masters, Vpc: p.vpc, MinCapacity: jsii.Number(4), InitialCapacity: jsii.Number(2),
			})
		}, []string{"MinCapacity 4, InitialCapacity 2, MaxCapacity 5: each must be at most the next"}},
		"options of masters": {func() {
			props := p.masterProps()
			props.AdditionalInstallFlags = jsii.Strings("--good", "--bad 'x'", "plain")
			props.PrivateIps = jsii.Strings("10.0.0.1")
			constructs.NewMasterCluster(scope, jsii.String("M2"), props)
		}, []string{"Own/Video/M2:", `AdditionalInstallFlags[1] is "--bad 'x'": give a flag like --name`, `AdditionalInstallFlags[2] is "plain"`,
			"PrivateIps has 1 elements: give one for each of the 4 slots"}},
		"snapshots": {func() {
			constructs.NewRecordingVolumes(scope, jsii.String("V2"), &constructs.RecordingVolumesProps{
				AvailabilityZones: jsii.Strings("a", "b"), SnapshotIds: jsii.Strings("snap-1"), SnapshotRetentionDays: jsii.Number(1001)})
		}, []string{"Own/Video/V2:", "SnapshotIds has 1 elements: give one for each of the 2 slots", "SnapshotRetentionDays is 1001: give a whole number from 0 to 1000"}},
		"warm pool": {func() {
			constructs.NewMediaFleet(scope, jsii.String("F3"), &constructs.MediaFleetProps{Vpc: p.vpc, WarmPoolSize: jsii.Number(-1)})
		}, []string{"Own/Video/F3:", "Masters is required", "WarmPoolSize is -1: give a whole number from 0 to 1000"}},
		"buckets": {func() {
			constructs.NewRecordingBuckets(scope, jsii.String("R"), &constructs.RecordingBucketsProps{
				AppDataBucketName: jsii.String("Mine"), ClusterDataBucketName: jsii.String("Mine"),
			})
		}, []string{"Own/Video/R:", `AppDataBucketName is "Mine": give the name of a bucket`, `ClusterDataBucketName is "Mine", like AppDataBucketName`}},
		"balancer": {func() {
			constructs.NewMainLoadBalancer(scope, jsii.String("B"), &constructs.MainLoadBalancerProps{})
		}, []string{"Own/Video/B:", "Masters is required", "Fleet is required", "Vpc is required", "Certificate is required: give the certificate of the domain name, or the HostedZone"}},
		"turn": {func() {
			constructs.NewTurnTlsEndpoint(scope, jsii.String("T"), &constructs.TurnTlsEndpointProps{Fleet: fleet})
		}, []string{"Own/Video/T:", "TurnDomainName of the MasterCluster is required", "Vpc is required", "Certificate is required"}},
		"alarms": {func() {
			constructs.NewClusterAlarms(scope, jsii.String("A"), &constructs.ClusterAlarmsProps{})
		}, []string{"Own/Video/A:", "Masters is required", "Fleet is required", "LoadBalancer is required"}},
		"alarms of another stack": {func() {
			constructs.NewClusterAlarms(awscdk.NewStack(p.app, jsii.String("Apart"), nil), jsii.String("A"), &constructs.ClusterAlarmsProps{
				Masters: masters, Fleet: fleet, LoadBalancer: balancer,
			})
		}, []string{"Apart/A:", "Masters is in stack Own, not in Apart: make both in one stack", "Fleet is in stack Own, not in Apart"}},
		"dashboard": {func() {
			constructs.NewClusterDashboard(scope, jsii.String("D"), &constructs.ClusterDashboardProps{})
		}, []string{"Own/Video/D:", "Masters is required", "Fleet is required", "LoadBalancer is required"}},
		"dashboard of another stack": {func() {
			constructs.NewClusterDashboard(awscdk.NewStack(p.app, jsii.String("Apart2"), nil), jsii.String("D"), &constructs.ClusterDashboardProps{
				Masters: masters, Fleet: fleet, LoadBalancer: balancer,
			})
		}, []string{"Apart2/D:", "Masters is in stack Own, not in Apart2", "Fleet is in stack Own, not in Apart2"}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				got := fmt.Sprint(recover())
				for _, want := range c.want {
					if !strings.Contains(got, want) {
						t.Errorf("the message lacks %q:\n%s", want, got)
					}
				}
			}()
			c.make()
			t.Error("no panic")
		})
	}
}
