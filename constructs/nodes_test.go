package constructs_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

func TestOptionsOfTheMastersReachTheNodes(t *testing.T) {
	p := newProgram(t, "a", "b")
	props := p.masterProps()
	props.BeforeStart = jsii.Strings("echo 'one'", "echo two")
	props.AdditionalInstallFlags = jsii.Strings("--force-utc-timezone", "--name=value")
	props.PrivateIps = jsii.Strings("10.0.0.11", "10.0.1.11", "10.0.0.12", "10.0.1.12")
	props.InitialMeetAdminPassword, props.InitialMeetApiKey = jsii.String("meet-password"), jsii.String("meet-key")
	props.RestoredSecret = awssecretsmanager.Secret_FromSecretCompleteArn(p.stack, jsii.String("Old"), jsii.String("arn:aws:secretsmanager:eu-west-1:123456789012:secret:old-AbCdEf"))
	props.LogRetention = awslogs.RetentionDays_ONE_YEAR
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
	constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	resources := p.resources()

	for i, eni := range ofType(resources, "AWS::EC2::NetworkInterface") {
		if got := eni.Properties["PrivateIpAddress"]; got != *(*props.PrivateIps)[i] {
			t.Errorf("slot %d has %v", i+1, got)
		}
	}
	hooks := 0
	for _, launch := range ofType(resources, "AWS::EC2::LaunchTemplate") {
		data := text(launch.Properties["LaunchTemplateData"])
		if !strings.Contains(data, `INSTALL_FLAGS='--force-utc-timezone,--name=value'`) {
			t.Errorf("flags: %s", data)
		}
		if strings.Contains(data, `BEFORE_START='echo '\\''one'\\''\necho two'`) {
			hooks++
		}
		if strings.Contains(data, "meet-") {
			t.Error("the user data holds a credential")
		}
	}
	if hooks != constructs.MasterNodes {
		t.Errorf("%d launch templates run the masters' lines, want the four of the slots", hooks)
	}
	fill := ofType(resources, "Custom::OpenViduCredentials")[0].Properties
	if got := text(fill["Initial"]); got != `{"MEET_INITIAL_ADMIN_PASSWORD":"meet-password","MEET_INITIAL_API_KEY":"meet-key"}` {
		t.Errorf("initial: %s", got)
	}
	restored := 0
	for _, function := range ofType(resources, "AWS::Lambda::Function") {
		if strings.Contains(text(function.Properties["Environment"]), `"RESTORED_SECRET_ARN":"arn:aws:secretsmanager:eu-west-1:123456789012:secret:old-AbCdEf"`) {
			restored++
		}
	}
	if restored != 1 {
		t.Errorf("%d functions know the restored secret, want 1", restored)
	}
	readers := 0
	for _, role := range ofType(resources, "AWS::IAM::Role") {
		if strings.Contains(text(role), "secret:old-AbCdEf") {
			readers++
		}
	}
	if readers != 1 {
		t.Errorf("%d roles read the restored secret, want the function's only", readers)
	}
	retained := 0
	for _, group := range ofType(resources, "AWS::Logs::LogGroup") {
		if group.Properties["RetentionInDays"] == 365.0 {
			retained++
		}
	}
	if retained != 1 {
		t.Errorf("%d log groups keep a year, want the nodes'", retained)
	}
}

func TestWarmPoolIsOfItsSize(t *testing.T) {
	p := newProgram(t, "a", "b")
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	constructs.NewMediaFleet(p.stack, jsii.String("Warm"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc, WarmPoolSize: jsii.Number(3)})
	constructs.NewMediaFleet(p.stack, jsii.String("Cold"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	pools := ofType(p.resources(), "AWS::AutoScaling::WarmPool")
	if len(pools) != 1 {
		t.Fatalf("%d pools", len(pools))
	}
	for key, want := range map[string]any{"MinSize": 3.0, "MaxGroupPreparedCapacity": 3.0, "PoolState": "Stopped"} {
		if got := pools[0].Properties[key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
}

// With the longest values that AWS can give, the longest lines that are taken still fit into what EC2 takes, and leave little of
// it unused.
func TestUserDataFitsWithTheLongestValues(t *testing.T) {
	const limit = 16384
	// A stack that knows neither account nor region: all that can be unknown is.
	fresh := func() *program {
		dir := t.TempDir()
		app := awscdk.NewApp(&awscdk.AppProps{Outdir: &dir, AnalyticsReporting: jsii.Bool(false)})
		stack := awscdk.NewStack(app, jsii.String("Own"), nil)
		return &program{t, dir, app, stack, importVpc(stack, "a"), nil}
	}
	tries := 0
	// try makes nodes with these lines, and gives the message of a panic. All ids are equally long: they are part of the values.
	try := func(p *program, kind string, masters constructs.MasterCluster, lines string, flags ...string) (id, message string) {
		tries++
		id = fmt.Sprintf("%s%03d", kind, tries)
		defer func() {
			if r := recover(); r != nil {
				message = fmt.Sprint(r)
			}
		}()
		if kind == "Master" {
			props := p.masterProps()
			props.BeforeStart, props.AdditionalInstallFlags = jsii.Strings(lines), jsii.Strings(flags...)
			constructs.NewMasterCluster(p.stack, &id, props)
		} else {
			constructs.NewMediaFleet(p.stack, &id, &constructs.MediaFleetProps{
				Vpc: p.vpc, Masters: masters, InstanceProps: constructs.InstanceProps{BeforeStart: jsii.Strings(lines)}})
		}
		return id, ""
	}
	for kind, least := range map[string]int{"Master": 4096, "Media": 4096} {
		t.Run(kind, func(t *testing.T) {
			p := fresh()
			masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters01"), p.masterProps())
			x := func(count int) string { return strings.Repeat("x", count) }

			// The message says by how much it is too long.
			id, message := try(p, kind, masters, x(15000))
			found := regexp.MustCompile(`, (\d+) more than EC2 takes \(16384\)`).FindStringSubmatch(message)
			if found == nil || !strings.HasPrefix(message, "Own/"+id+":") || !strings.Contains(message, "BeforeStart, which has 15000 characters") {
				t.Fatalf("the message is %q", message)
			}
			over, _ := strconv.Atoi(found[1])
			longest := 15000 - over
			t.Logf("%d characters are left", longest)
			if longest < least {
				t.Errorf("%d characters are left, not %d, as the documentation has it", longest, least)
			}
			unknown := *awscdk.Aws_PARTITION()
			flags := *awscdk.NewCfnParameter(p.stack, jsii.String("Flags"), nil).ValueAsString()
			for _, c := range []struct {
				what  string
				fits  bool
				lines string
				flags []string
			}{
				{"a character more", false, x(longest + 1), nil},
				{"quotes, which take four bytes each", false, strings.Repeat("'", longest/4+1), nil},
				{"letters of two bytes", false, strings.Repeat("é", longest/2+1), nil},
				{"a value of 256 bytes", true, x(longest-256) + unknown, nil},
				{"a value of 256 bytes and a character", false, x(longest-255) + unknown, nil},
				{"a flag", true, x(longest - 6), []string{"--flag"}},
				{"a flag and a character", false, x(longest - 5), []string{"--flag"}},
				{"flags of 1,000 bytes", true, x(longest - 1000), []string{flags}},
				{"flags of 1,000 bytes and a character", false, x(longest - 999), []string{flags}},
			} {
				if c.flags != nil && kind != "Master" {
					continue // they are the masters'
				}
				if _, message := try(p, kind, masters, c.lines, c.flags...); (message == "") != c.fits {
					t.Errorf("%s: the message is %q", c.what, message)
				}
			}

			p = fresh()
			masters = constructs.NewMasterCluster(p.stack, jsii.String("Masters01"), p.masterProps())
			if _, message := try(p, kind, masters, x(longest)); message != "" {
				t.Fatal(message)
			}
			if bytes := largestUserData(t, p); bytes > limit || bytes < limit-100 {
				t.Errorf("the user data has %d bytes, with %d characters of its own", bytes, longest)
			}
		})
	}
}

// largestUserData of a program, with the longest values that AWS gives.
func largestUserData(t *testing.T, p *program) int {
	t.Helper()
	p.app.Synth(nil)
	content, err := os.ReadFile(filepath.Join(p.dir, "Own.template.json"))
	if err != nil {
		t.Fatal(err)
	}
	var source cfn.Template
	if err := json.Unmarshal(content, &source); err != nil {
		t.Fatal(err)
	}
	const region, suffix, partition = "us-isof-south-1", "amazonaws.com.cn", "aws-us-gov" // never together, but none is longer
	stack := strings.Repeat("s", 128)
	random := "-" + strings.Repeat("r", 12)
	stackId := "arn:" + partition + ":cloudformation:" + region + ":123456789012:stack/" + stack + "/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
	var d *cfn.Deployment
	d = cfn.Deploy(source, map[string]any{"AWS::Region": region, "AWS::URLSuffix": suffix, "AWS::Partition": partition, "AWS::StackName": stack, "AWS::StackId": stackId},
		func(id, attribute string) any {
			switch cfn.At(d.Resources[id], "Type") {
			case "AWS::SecretsManager::Secret":
				return "arn:" + partition + ":secretsmanager:" + region + ":123456789012:secret:" + id + random + "-AbCdEf"
			case "AWS::Logs::LogGroup":
				return stack + "-" + id + random
			case "AWS::CloudFormation::WaitConditionHandle":
				return "https://cloudformation-waitcondition-" + region + ".s3." + region + "." + suffix + "/" + url.QueryEscape(stackId[:strings.LastIndex(stackId, ":stack/")]) + "%3Astack/" +
					stack + "/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/" + id + "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261124T000000Z&X-Amz-SignedHeaders=host" +
					"&X-Amz-Expires=86399&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261124%2F" + region + "%2Fs3%2Faws4_request&X-Amz-Signature=" + strings.Repeat("a", 64)
			case "AWS::EC2::NetworkInterface":
				if attribute == "PrimaryPrivateIpAddress" {
					return "255.255.255.255"
				}
				return "eni-0123456789abcdef0"
			case "AWS::EC2::Volume":
				return "vol-0123456789abcdef0"
			}
			if attribute == "Revision" {
				return "0123456789abcdef"
			}
			return id + "." + attribute
		}, t.Errorf)
	bytes := 0
	for _, launch := range d.OfType("AWS::EC2::LaunchTemplate") {
		bytes = max(bytes, len(cfn.At(launch, "LaunchTemplateData", "UserData").(string)))
	}
	return bytes
}

// A node that boots or drains needs its route: it is made before the groups, and goes after them.
func TestGroupsComeAfterTheRoutesOfTheirVpc(t *testing.T) {
	p := newProgram(t, "a", "b")
	vpc := awsec2.NewVpc(p.stack, jsii.String("Made"), &awsec2.VpcProps{AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b"), NatGateways: jsii.Number(1)})
	p.vpc = vpc
	props := p.masterProps()
	props.VpcSubnets = &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PRIVATE_WITH_EGRESS}
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
	constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: vpc})
	for id, r := range p.resources() {
		if r.Type != "AWS::AutoScaling::AutoScalingGroup" {
			continue
		}
		wants := []string{"MadePublicSubnet1DefaultRoute", "MadePublicSubnet2DefaultRoute"}
		if strings.HasPrefix(id, "Masters") {
			wants = []string{"MadePrivateSubnet"}
		}
		for _, want := range wants {
			if depends := text(r.DependsOn); !strings.Contains(depends, want) || !strings.Contains(depends, "Route") {
				t.Errorf("%s does not wait for %s: %s", id, want, depends)
			}
		}
	}
}

func TestSwitchesReachTheHeaderOfBothKindsOfNodes(t *testing.T) {
	for value, given := range map[string]*bool{"false": nil, "true": jsii.Bool(true)} {
		p := newProgram(t, "a")
		props := p.masterProps()
		props.RequireSameInstaller, props.BlockContainerMetadata = given, given
		masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
		constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc,
			InstanceProps: constructs.InstanceProps{BlockContainerMetadata: given}})
		resources := p.resources()
		for id, r := range resources {
			if r.Type != "AWS::AutoScaling::AutoScalingGroup" {
				continue
			}
			for _, want := range []string{"\nREQUIRE_SAME_INSTALLER='" + value + "'\n", "\nBLOCK_CONTAINER_METADATA='" + value + "'\n"} {
				if !strings.Contains(userDataOf(resources, r), want) {
					t.Errorf("%s: the header lacks %q", id, want)
				}
			}
		}
	}
}

// Each has a key of its own, where its condition holds.
func TestKeysFollowTheirConditions(t *testing.T) {
	p := newProgram(t, "a")
	key := func(name string) awskms.IKey {
		return awskms.Key_FromKeyArn(p.stack, &name, jsii.String("arn:aws:kms:eu-west-1:123456789012:key/"+name))
	}
	when := awscdk.NewCfnCondition(p.stack, jsii.String("Keyed"), &awscdk.CfnConditionProps{Expression: awscdk.Fn_ConditionEquals(awscdk.Aws_REGION(), "eu-west-1")})
	props := p.masterProps()
	props.RootVolumeKey, props.RootVolumeKeyWhen = key("root"), when
	props.SecretEncryptionKey, props.SecretEncryptionKeyWhen = key("secret"), when
	props.Volumes = constructs.NewRecordingVolumes(p.stack, jsii.String("Volumes"), &constructs.RecordingVolumesProps{
		AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1a", "eu-west-1a", "eu-west-1a"), EncryptionKey: key("data"), EncryptionKeyWhen: when,
	})
	constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
	resources := p.resources()
	for kind, want := range map[string]string{"AWS::EC2::Volume": "data", "AWS::SecretsManager::Secret": "secret", "AWS::EC2::LaunchTemplate": "root"} {
		for _, r := range ofType(resources, kind) {
			if got := text(r.Properties); !strings.Contains(got, `"KmsKeyId":{"Fn::If":["Keyed","arn:aws:kms:eu-west-1:123456789012:key/`+want+`",{"Ref":"AWS::NoValue"}]}`) {
				t.Errorf("%s: %s", kind, got)
			}
		}
	}
	refuses(t, "Own/N", masters(p, "N", func(props *constructs.MasterClusterProps) { props.RootVolumeKeyWhen = when }),
		"RootVolumeKey is required: give the key that RootVolumeKeyWhen decides on")
}
