package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// A deletion runs in the reverse order of dependencies. What a draining Media Node needs must be among those of the fleet: the
// Master Nodes, the listeners that lead to it, and the rules that let the traffic pass.
func TestMediaNodesDrainBeforeAnythingTheyNeedIsDeleted(t *testing.T) {
	resources := synthesized.Section("Resources")
	needs := map[string]bool{}
	var follow func(id string)
	follow = func(id string) {
		direct := map[string]bool{}
		cfn.References(resources[id], direct)
		for other := range direct {
			if _, ok := resources[other]; ok && !needs[other] {
				needs[other] = true
				follow(other)
			}
		}
	}
	follow("OpenViduMediaNodeASG")
	kept := 0
	for id, resource := range resources {
		switch cfn.At(resource, "Type") {
		case "AWS::AutoScaling::AutoScalingGroup", "AWS::ElasticLoadBalancingV2::Listener", "AWS::ElasticLoadBalancingV2::LoadBalancer",
			"AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress", "AWS::EC2::NetworkInterface", "AWS::SecretsManager::Secret", "AWS::Route53::RecordSet":
			if slices.Contains([]string{"OpenViduMediaNodeASG", "MasterSsh", "MediaSsh"}, id) {
				continue
			}
			kept++
			if !needs[id] {
				t.Errorf("%s (%v) may be deleted while Media Nodes drain", id, cfn.At(resource, "Type"))
			}
		case "AWS::CloudFormation::WaitCondition":
			if needs[id] {
				t.Errorf("Media Nodes do not boot before %s is there", id)
			}
		}
	}
	if kept < 20 {
		t.Errorf("%d resources were looked at", kept)
	}
}

// A target is held in draining for the whole delay, with or without a connection, and Auto Scaling lets the termination hook begin
// only after that (EC2 Auto Scaling User Guide, lifecycle hooks overview).
func TestNoTargetGroupHoldsANodeForLong(t *testing.T) {
	groups := deploy(t, with(withTurn), nil).OfType("AWS::ElasticLoadBalancingV2::TargetGroup")
	for id, group := range groups {
		attributes := map[string]string{}
		for _, attribute := range cfn.List(group["TargetGroupAttributes"]) {
			attributes[fmt.Sprint(cfn.At(attribute, "Key"))] = fmt.Sprint(cfn.At(attribute, "Value"))
		}
		var delay int
		if _, err := fmt.Sscan(attributes["deregistration_delay.timeout_seconds"], &delay); err != nil || delay < 30 || delay > 120 {
			t.Errorf("%s: the deregistration delay is %q s, want 30 to 120", id, attributes["deregistration_delay.timeout_seconds"])
		}
		// Calls and streams outlive the registration.
		if slices.Contains([]string{"MainRtmp", "TurnTurn", "MainMastersTls"}, id) {
			for _, kept := range []string{"deregistration_delay.connection_termination.enabled", "target_health_state.unhealthy.connection_termination.enabled"} {
				if attributes[kept] != "false" {
					t.Errorf("%s: %s is %q", id, kept, attributes[kept])
				}
			}
		}
	}
	if len(groups) != 5 {
		t.Errorf("%d target groups", len(groups))
	}
}

// The instance profile, not only the role: EC2 launches nothing with a profile that does not exist.
func TestGroupsWaitForTheInstanceProfile(t *testing.T) {
	resources := synthesized.Section("Resources")
	for id, resource := range resources {
		if cfn.At(resource, "Type") != "AWS::AutoScaling::AutoScalingGroup" {
			continue
		}
		profiles := 0
		needs := map[string]bool{}
		launch := cfn.At(resource, "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref").(string)
		cfn.References(resources[launch], needs)
		cfn.References(resource, needs)
		for other := range needs {
			if cfn.At(resources[other], "Type") == "AWS::IAM::InstanceProfile" {
				profiles++
			}
		}
		if profiles != 1 {
			t.Errorf("%s waits for %d instance profiles", id, profiles)
		}
	}
}

// A node whose termination hook is abandoned keeps running (EC2 Auto Scaling User Guide, instance lifecycle policies).
func TestAnAbandonedDrainKeepsTheNode(t *testing.T) {
	d := deploy(t, with(map[string]any{"AlarmTopicArn": "arn:topic"}), nil)
	group := d.OfType("AWS::AutoScaling::AutoScalingGroup")["OpenViduMediaNodeASG"]
	if got := cfn.At(group, "InstanceLifecyclePolicy", "RetentionTriggers", "TerminateHookAbandon"); got != "retain" {
		t.Errorf("an abandoned node is %v", got)
	}
	collected := fmt.Sprint(group["MetricsCollection"])
	alarm := d.OfType("AWS::CloudWatch::Alarm")["AlarmNodeRetained"]
	if name := "GroupTerminatingRetainedInstances"; alarm["MetricName"] != name || alarm["Namespace"] != "AWS/AutoScaling" ||
		collected != "[map[Granularity:1Minute Metrics:["+name+"]]]" {
		t.Errorf("alarm %v on what the group collects: %s", alarm, collected)
	}
	if got := fmt.Sprint(alarm["Dimensions"]); got != "[map[Name:AutoScalingGroupName Value:OpenViduMediaNodeASG.]]" {
		t.Errorf("the alarm watches %s", got)
	}
}
