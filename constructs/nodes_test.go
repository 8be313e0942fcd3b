package constructs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
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
	if hooks != 1 {
		t.Errorf("%d nodes run the masters' lines, want 1", hooks)
	}
	fill := ofType(resources, "Custom::OpenViduCredentials")[0].Properties
	if got := text(fill["Initial"]); got != `{"MEET_INITIAL_ADMIN_PASSWORD":"meet-password","MEET_INITIAL_API_KEY":"meet-key"}` {
		t.Errorf("initial: %s", got)
	}
	if got := fill["RestoredSecretArn"]; got != "arn:aws:secretsmanager:eu-west-1:123456789012:secret:old-AbCdEf" {
		t.Errorf("restored secret: %v", got)
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

func TestSnapshotsAreTakenDailyAndRestored(t *testing.T) {
	for _, c := range []struct {
		days *float64
		want any
	}{{nil, 7.0}, {jsii.Number(30), 30.0}, {jsii.Number(0), nil}} {
		p := newProgram(t, "a")
		constructs.NewRecordingVolumes(p.stack, jsii.String("Volumes"), &constructs.RecordingVolumesProps{
			AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b"), SnapshotRetentionDays: c.days, SnapshotIds: jsii.Strings("snap-1", "snap-2"),
		})
		resources := p.resources()
		policies := ofType(resources, "AWS::DLM::LifecyclePolicy")
		var tags any
		for i, volume := range ofType(resources, "AWS::EC2::Volume") {
			if got := volume.Properties["SnapshotId"]; got != fmt.Sprint("snap-", i+1) {
				t.Errorf("volume %d is made from %v", i+1, got)
			}
			tags = volume.Properties["Tags"]
		}
		if c.want == nil {
			if len(policies) > 0 {
				t.Errorf("there are snapshots: %v", policies)
			}
			continue
		}
		details := policies[0].Properties["PolicyDetails"].(map[string]any)
		schedule := details["Schedules"].([]any)[0].(map[string]any)
		if got := schedule["RetainRule"].(map[string]any)["Count"]; got != c.want {
			t.Errorf("%v snapshots are kept, want %v", got, c.want)
		}
		if got := text(schedule["CreateRule"]); got != `{"Interval":24,"IntervalUnit":"HOURS","Times":["03:00"]}` {
			t.Errorf("schedule: %s", got)
		}
		if schedule["CopyTags"] != true || text(details["TargetTags"]) != text(tags) {
			t.Errorf("the policy looks for %s, the volumes carry %s", text(details["TargetTags"]), text(tags))
		}
	}
}

func TestWarmPoolIsOfItsSizeAndHoldsNodesBackUntilTheyAreInstalled(t *testing.T) {
	p := newProgram(t, "a", "b")
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	constructs.NewMediaFleet(p.stack, jsii.String("Warm"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc, WarmPoolSize: jsii.Number(3)})
	constructs.NewMediaFleet(p.stack, jsii.String("Cold"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	resources := p.resources()
	pools := ofType(resources, "AWS::AutoScaling::WarmPool")
	if len(pools) != 1 {
		t.Fatalf("%d pools", len(pools))
	}
	for key, want := range map[string]any{"MinSize": 3.0, "MaxGroupPreparedCapacity": 3.0, "PoolState": "Stopped"} {
		if got := pools[0].Properties[key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	hooks := map[string]string{}
	for id, r := range resources {
		if list := r.Properties["LifecycleHookSpecificationList"]; r.Type == "AWS::AutoScaling::AutoScalingGroup" && list != nil {
			hooks[id[:4]] = text(list)
		}
	}
	ready := `{"DefaultResult":"ABANDON","HeartbeatTimeout":3600,"LifecycleHookName":"ready","LifecycleTransition":"autoscaling:EC2_INSTANCE_LAUNCHING"}`
	if !strings.Contains(hooks["Warm"], ready) || strings.Contains(hooks["Cold"], "ready") {
		t.Errorf("hooks: %v", hooks)
	}
}

func TestWrongOptionsPanicWithEveryProblem(t *testing.T) {
	p := newProgram(t, "a")
	for name, c := range map[string]struct {
		make func()
		want []string
	}{
		"masters": {func() {
			props := p.masterProps()
			props.AdditionalInstallFlags = jsii.Strings("--good", "--bad 'x'", "plain")
			props.PrivateIps = jsii.Strings("10.0.0.1")
			props.BeforeStart = jsii.Strings(strings.Repeat("x", 2001))
			constructs.NewMasterCluster(p.stack, jsii.String("M"), props)
		}, []string{`AdditionalInstallFlags[1] is "--bad 'x'": give a flag like --name`, `AdditionalInstallFlags[2] is "plain"`,
			"PrivateIps has 1 elements: give one for each of the 4 slots", "BeforeStart has 2001 characters: give 2000 at most"}},
		"volumes": {func() {
			constructs.NewRecordingVolumes(p.stack, jsii.String("V"), &constructs.RecordingVolumesProps{
				AvailabilityZones: jsii.Strings("a", "b"), SnapshotIds: jsii.Strings("snap-1"), SnapshotRetentionDays: jsii.Number(1001)})
		}, []string{"SnapshotIds has 1 elements: give one for each of the 2 slots", "SnapshotRetentionDays is 1001: give a whole number from 0 to 1000"}},
		"fleet": {func() {
			constructs.NewMediaFleet(p.stack, jsii.String("F"), &constructs.MediaFleetProps{Vpc: p.vpc, WarmPoolSize: jsii.Number(-1)})
		}, []string{"Masters is required", "WarmPoolSize is -1: give a whole number from 0 to 1000"}},
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
