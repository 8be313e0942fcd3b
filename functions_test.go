package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// Who may invoke a function may write its event: what it can know by itself is in its environment.
func TestFunctionsKnowStackAndSecretByThemselves(t *testing.T) {
	for name, c := range map[string]struct {
		d     *cfn.Deployment
		extra map[string]any
	}{
		"new":      {deploy(t, with(nil), nil), nil},
		"restored": {deploy(t, with(restored), nil), map[string]any{"RESTORED_SECRET_ARN": "arn:old-secret"}},
	} {
		stack := c.d.Values["AWS::StackId"]
		filling := map[string]any{"STACK_ID": stack, "URL_SUFFIX": "amazonaws.com", "SECRET_ARN": "OpenViduSharedInfo.",
			"MEDIA_SECRET_ARN": "MasterInfoMediaSecret.", "MEDIA_KEYS": "REDIS_PASSWORD,OPENVIDU_VERSION", "VOLUMES_TAG": fmt.Sprint(stack, "/Volumes")}
		for key, value := range c.extra {
			filling[key] = value
		}
		want := map[string]any{
			"PreflightFunction":     map[string]any{"STACK_ID": stack, "URL_SUFFIX": "amazonaws.com"},
			"MasterInfoCredentials": filling,
			"MasterLaunchesFunction": map[string]any{"STACK_ID": stack, "MASTER_WAIT_URL": "MasterReady.", "MEDIA_WAIT_URLS": "MediaReady.", "MEDIA_GROUPS": "OpenViduMediaNodeASG",
				"MASTER_GROUPS": "OpenViduMasterNodeASG1,OpenViduMasterNodeASG2,OpenViduMasterNodeASG3,OpenViduMasterNodeASG4"},
		}
		got := map[string]any{}
		for id, function := range c.d.OfType("AWS::Lambda::Function") {
			got[id] = cfn.At(function, "Environment", "Variables")
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: environments are\n%v\nwant\n%v", name, got, want)
		}
	}
}

// Who looks into Lambda's console, or into a diff of two templates, reads what was written here, comments included.
func TestFunctionsAreInTheTemplateAsTheyWereWritten(t *testing.T) {
	d := deploy(t, with(nil), nil)
	for id, files := range map[string][]string{
		"PreflightFunction":      {"frame.js", "respond.js", "preflight.js"},
		"MasterInfoCredentials":  {"frame.js", "respond.js", "credentials.js"},
		"MasterLaunchesFunction": {"frame.js", "launches.js"},
	} {
		var want strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join("constructs", "internal", "functions", file))
			if err != nil {
				t.Fatal(err)
			}
			want.Write(text)
		}
		if got := cfn.At(d.OfType("AWS::Lambda::Function")[id], "Code", "ZipFile"); got != want.String() {
			t.Errorf("%s is not what its files say: %.200s", id, got)
		}
	}
}

// A launch may fail in the second in which its group is made.
func TestFailedLaunchesAreHeardFromTheFirstOneOn(t *testing.T) {
	resources := synthesized.Section("Resources")
	d := deploy(t, with(nil), nil)
	rule := d.OfType("AWS::Events::Rule")["MasterLaunchesRule"]
	pattern := map[string]any{
		"source": []any{"aws.autoscaling"}, "detail-type": []any{"EC2 Instance Launch Unsuccessful"},
		"detail": map[string]any{"AutoScalingGroupName": []any{map[string]any{"prefix": d.Values["AWS::StackName"].(string) + "-"}}},
	}
	if got := rule["EventPattern"]; !reflect.DeepEqual(got, pattern) {
		t.Errorf("the rule hears %v, want %v", got, pattern)
	}
	if got := cfn.At(cfn.List(rule["Targets"])[0], "Arn"); got != "MasterLaunchesFunction.Arn" {
		t.Errorf("the rule tells %v", got)
	}
	permission := map[string]any{"Action": "lambda:InvokeFunction", "FunctionName": "MasterLaunchesFunction.Arn", "Principal": "events.amazonaws.com", "SourceArn": "MasterLaunchesRule.Arn"}
	if got := d.OfType("AWS::Lambda::Permission"); len(got) != 1 || !reflect.DeepEqual(got["MasterLaunchesPermission"], permission) {
		t.Errorf("functions may be invoked by %v", got)
	}
	for id, resource := range resources {
		if cfn.At(resource, "Type") == "AWS::AutoScaling::AutoScalingGroup" {
			depends := cfn.List(cfn.At(resource, "DependsOn"))
			if !slices.Contains(depends, any("MasterLaunchesRule")) || !slices.Contains(depends, any("MasterLaunchesPermission")) {
				t.Errorf("%s launches before its failures are heard: %v", id, depends)
			}
		}
	}
}

// The interfaces of a load balancer take any address of their subnets, also one that a restored Master Node needs.
func TestLoadBalancersComeAfterTheFixedAddresses(t *testing.T) {
	found := 0
	for id, resource := range synthesized.Section("Resources") {
		if cfn.At(resource, "Type") != "AWS::ElasticLoadBalancingV2::LoadBalancer" {
			continue
		}
		found++
		for _, eni := range []any{"MasterENI1", "MasterENI2", "MasterENI3", "MasterENI4"} {
			if !slices.Contains(cfn.List(cfn.At(resource, "DependsOn")), eni) {
				t.Errorf("%s may take the address of %s", id, eni)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d load balancers", found)
	}
}
