package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

func TestGroupsAreFourOfOneAndAFleet(t *testing.T) {
	d := deploy(t, with(map[string]any{"InitialNumberOfMediaNodes": 3.0}), nil)
	groups := d.OfType("AWS::AutoScaling::AutoScalingGroup")
	if len(groups) != 5 {
		t.Fatalf("groups: %v", slices.Sorted(maps.Keys(groups)))
	}
	cluster := map[string]any{"Key": "OpenViduCluster", "PropagateAtLaunch": true, "Value": d.Values["AWS::StackId"].(string) + "/Master"}
	for i := 1; i <= 4; i++ {
		id := fmt.Sprint("OpenViduMasterNodeASG", i)
		group := groups[id]
		sizes := []any{group["MinSize"], group["MaxSize"], group["DesiredCapacity"]}
		if !reflect.DeepEqual(sizes, []any{"1", "1", "1"}) {
			t.Errorf("%s: sizes %v", id, sizes)
		}
		if !reflect.DeepEqual(group["InstanceMaintenancePolicy"], map[string]any{"MinHealthyPercentage": 0.0, "MaxHealthyPercentage": 100.0}) {
			t.Errorf("%s does not terminate before it launches: %v", id, group["InstanceMaintenancePolicy"])
		}
		subnet := []any{fmt.Sprint("PreflightSlots.Subnet", i)}
		if !reflect.DeepEqual(group["VPCZoneIdentifier"], subnet) {
			t.Errorf("%s is in %v", id, group["VPCZoneIdentifier"])
		}
		if got := d.OfType("AWS::EC2::NetworkInterface")[fmt.Sprint("MasterENI", i)]; got["SubnetId"] != subnet[0] || !reflect.DeepEqual(got["GroupSet"], []any{"MasterSG.GroupId"}) {
			t.Errorf("interface %d: %v", i, got)
		}
		slot := map[string]any{"Key": "OpenViduMasterSlot", "PropagateAtLaunch": true, "Value": fmt.Sprint(i)}
		name := map[string]any{"Key": "Name", "PropagateAtLaunch": true, "Value": fmt.Sprint("openvidu Master Node ", i)}
		if !reflect.DeepEqual(group["Tags"], []any{name, cluster, slot}) {
			t.Errorf("%s: tags %v", id, group["Tags"])
		}
		if group["HealthCheckType"] != nil {
			t.Errorf("%s is replaced when OpenVidu is down, not only when the instance is: %v", id, group["HealthCheckType"])
		}
	}
	media := groups["OpenViduMediaNodeASG"]
	if sizes := []any{media["MinSize"], media["MaxSize"], media["DesiredCapacity"]}; !reflect.DeepEqual(sizes, []any{2.0, 5.0, 3.0}) {
		t.Errorf("fleet: sizes %v", sizes)
	}
	if !reflect.DeepEqual(media["VPCZoneIdentifier"], []any{"subnet-a", "subnet-c"}) {
		t.Errorf("fleet: subnets %v", media["VPCZoneIdentifier"])
	}
	hooks := []any{
		map[string]any{"LifecycleHookName": "drain", "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING", "HeartbeatTimeout": 3600.0, "DefaultResult": "CONTINUE"},
		map[string]any{"LifecycleHookName": "ready", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING", "HeartbeatTimeout": 3600.0, "DefaultResult": "CONTINUE"},
	}
	if !reflect.DeepEqual(media["LifecycleHookSpecificationList"], hooks) {
		t.Errorf("fleet: hooks %v", media["LifecycleHookSpecificationList"])
	}
	if pools := d.OfType("AWS::AutoScaling::WarmPool"); len(pools) > 0 {
		t.Errorf("a warm pool by default: %v", pools)
	}
	warm := deploy(t, with(map[string]any{"WarmPoolSize": 2.0}), nil)
	pool := map[string]any{"AutoScalingGroupName": "OpenViduMediaNodeASG.", "MinSize": 2.0, "MaxGroupPreparedCapacity": 2.0, "PoolState": "Stopped"}
	if got := warm.OfType("AWS::AutoScaling::WarmPool")["MediaWarmPool"]; !reflect.DeepEqual(got, pool) {
		t.Errorf("warm pool: %v", got)
	}
	for id, policy := range d.OfType("AWS::AutoScaling::ScalingPolicy") {
		want := map[string]any{"PredefinedMetricSpecification": map[string]any{"PredefinedMetricType": "ASGAverageCPUUtilization"}, "TargetValue": 50.0}
		if !reflect.DeepEqual(policy["TargetTrackingConfiguration"], want) {
			t.Errorf("%s: %v", id, policy)
		}
	}
}

func TestUpdatesReplaceOneMasterAfterAnotherAndNoMediaNode(t *testing.T) {
	rolling := map[string]any{"AutoScalingRollingUpdate": map[string]any{"MinInstancesInService": 0.0, "MaxBatchSize": 1.0,
		"WaitOnResourceSignals": true, "PauseTime": "PT1H", "SuspendProcesses": []any{"HealthCheck", "ReplaceUnhealthy"}}}
	resources := synthesized.Section("Resources")
	for i := 1; i <= 4; i++ {
		id := fmt.Sprint("OpenViduMasterNodeASG", i)
		group := resources[id]
		if !reflect.DeepEqual(cfn.At(group, "UpdatePolicy"), rolling) {
			t.Errorf("%s: %v", id, cfn.At(group, "UpdatePolicy"))
		}
		if cfn.At(group, "CreationPolicy") != nil {
			t.Errorf("%s has a creation policy: creation would wait for a master that waits for the others", id)
		}
		var want []any
		if i > 1 {
			want = []any{fmt.Sprint("OpenViduMasterNodeASG", i-1)}
		}
		groups := slices.DeleteFunc(slices.Clone(cfn.List(cfn.At(group, "DependsOn"))), func(id any) bool { return !strings.Contains(id.(string), "ASG") })
		if got := groups; !slices.Equal(got, want) {
			t.Errorf("%s depends on %v, want %v", id, got, want)
		}
	}
	media := resources["OpenViduMediaNodeASG"]
	if want := map[string]any{"AutoScalingScheduledAction": map[string]any{"IgnoreUnmodifiedGroupSizeProperties": true}}; !reflect.DeepEqual(cfn.At(media, "UpdatePolicy"), want) {
		t.Errorf("fleet: %v", cfn.At(media, "UpdatePolicy"))
	}
	for id, resource := range resources {
		if cfn.At(resource, "Type") == "AWS::AutoScaling::AutoScalingGroup" {
			launch := cfn.At(resource, "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref")
			want := map[string]any{"Fn::GetAtt": []any{launch, "LatestVersionNumber"}}
			if got := cfn.At(resource, "Properties", "LaunchTemplate", "Version"); !reflect.DeepEqual(got, want) {
				t.Errorf("%s would not use a new version: %v", id, got)
			}
		}
	}
}

func TestStackWaitsForAllMastersAndTheFirstMediaNode(t *testing.T) {
	resources := synthesized.Section("Resources")
	for id, want := range map[string]struct {
		count    float64
		handle   string
		template string
	}{
		"MasterAllReady": {4, "MasterReady", "MasterLaunchTemplate4"},
		"MediaAllReady":  {1, "MediaReady", "OpenViduMediaNodeLaunchTemplate"},
	} {
		// Literals only: a wait condition cannot be updated at all.
		properties := map[string]any{"Count": want.count, "Handle": map[string]any{"Ref": want.handle}, "Timeout": "3600"}
		if got := cfn.At(resources[id], "Properties"); !reflect.DeepEqual(got, properties) {
			t.Errorf("%s: %v", id, got)
		}
		// It begins when the groups can begin, and not behind them: a node that fails is heard also while its group is made.
		depends := cfn.List(cfn.At(resources[id], "DependsOn"))
		for _, before := range []any{want.template, "MasterInfoFill"} {
			if !slices.Contains(depends, before) {
				t.Errorf("%s begins before %s is there", id, before)
			}
		}
		for _, other := range depends {
			if cfn.At(resources[other.(string)], "Type") == "AWS::AutoScaling::AutoScalingGroup" {
				t.Errorf("%s begins when %s has ended", id, other)
			}
		}
	}
}

func TestNothingCostlyComesBeforeTheChecks(t *testing.T) {
	resources := synthesized.Section("Resources")
	var before func(id string, seen map[string]bool)
	before = func(id string, seen map[string]bool) {
		direct := map[string]bool{}
		cfn.References(resources[id], direct)
		for dependency := range direct {
			if _, ok := resources[dependency]; ok && !seen[dependency] {
				seen[dependency] = true
				before(dependency, seen)
			}
		}
	}
	for id, resource := range resources {
		seen := map[string]bool{}
		before(id, seen)
		if seen[id] {
			t.Errorf("%s depends on itself", id)
		}
		switch cfn.At(resource, "Type") {
		case "AWS::EC2::Volume", "AWS::EC2::NetworkInterface", "AWS::EC2::LaunchTemplate", "AWS::AutoScaling::AutoScalingGroup",
			"AWS::ElasticLoadBalancingV2::LoadBalancer", "Custom::OpenViduCredentials":
			if !seen["PreflightChecks"] {
				t.Errorf("%s does not wait for the checks", id)
			}
		}
		if strings.HasPrefix(id, "OpenVidu") && strings.Contains(id, "ASG") && !seen["MasterInfoFill"] && !strings.Contains(id, "Media") {
			t.Errorf("%s boots before the secret is filled", id)
		}
	}
}

func TestChecksGetEveryParameterTheyTellOf(t *testing.T) {
	parameters := map[string]any{}
	want := map[string]any{"ServiceToken": "PreflightFunction.Arn", "ServiceTimeout": "900"}
	for _, name := range []string{"OpenViduVPC", "OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets", "LoadBalancerSubnets", "AmiId",
		"MasterNodeRootVolumeSize", "MediaNodeRootVolumeSize", "MasterNodeInstanceType", "MediaNodeInstanceType", "InitialNumberOfMediaNodes",
		"MinNumberOfMediaNodes", "MaxNumberOfMediaNodes", "WarmPoolSize", "HostedZoneId", "DomainName", "OpenViduCertificateARN", "TurnDomainName", "TurnCertificateARN",
		"DiskSize", "RetainVolumes", "KmsKeyArn", "RecordingsStorage", "S3AppDataBucketName", "S3ClusterDataBucketName", "VolumeSnapshotIds", "RestoredSharedInfoArn"} {
		parameters[name] = "the " + name
		want[name] = "the " + name
		if cfn.At(synthesized.Section("Parameters")[name], "Type") == "CommaDelimitedList" {
			want[name] = []any{"the " + name}
		}
	}
	d := deploy(t, with(parameters), nil)
	if got := d.OfType("Custom::OpenViduPreflight")["PreflightChecks"]; !reflect.DeepEqual(got, want) {
		t.Errorf("the checks get\n%v\nwant\n%v", got, want)
	}
	if got := d.Resolve(cfn.At(synthesized.Section("Outputs"), "MasterNodeZones", "Value")); got != "PreflightChecks.MasterNodeZones" {
		t.Errorf("MasterNodeZones is %v", got)
	}
}

// A late invocation must not change what came after CloudFormation gave up on it.
func TestNoFunctionRunsAfterCloudFormationGaveUp(t *testing.T) {
	d := deploy(t, with(nil), nil)
	configured := map[string]bool{}
	for _, config := range d.OfType("AWS::Lambda::EventInvokeConfig") {
		configured[fmt.Sprint(config["FunctionName"])] = true
		for id, function := range d.OfType("AWS::Lambda::Function") {
			if end := config["MaximumEventAgeInSeconds"].(float64) + function["Timeout"].(float64); end > 900 {
				t.Errorf("%s may end after %v s", id, end)
			}
		}
	}
	for id := range d.OfType("AWS::Lambda::Function") {
		if !configured[id+"."] {
			t.Errorf("%s may be invoked for hours: %v", id, configured)
		}
	}
	for _, kind := range []string{"Custom::OpenViduPreflight", "Custom::OpenViduSlots", "Custom::OpenViduCredentials"} {
		for id, resource := range d.OfType(kind) {
			if resource["ServiceTimeout"] != "900" {
				t.Errorf("%s: ServiceTimeout is %v", id, resource["ServiceTimeout"])
			}
		}
	}
}

func TestMediaNodesBootAfterTheSecretIsFilled(t *testing.T) {
	resources := synthesized.Section("Resources")
	found := map[string]bool{}
	cfn.References(resources["OpenViduMediaNodeASG"], found)
	cfn.References(resources["OpenViduMediaNodeLaunchTemplate"], found)
	if !found["MasterInfoFill"] {
		t.Error("neither the fleet nor its launch template waits for the secret's content")
	}
}
