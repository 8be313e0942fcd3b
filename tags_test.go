package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// EC2 refuses to launch an instance whose metadata show tags when one of its tag keys holds a space or a slash (EC2 User Guide,
// Work with instance tags in instance metadata). Disabled, and not left out: an account can have another default.
func TestNoNodeShowsItsTagsInTheMetadata(t *testing.T) {
	launches := deploy(t, with(nil), nil).OfType("AWS::EC2::LaunchTemplate")
	if len(launches) == 0 {
		t.Error("no launch templates")
	}
	for id, launch := range launches {
		if got := cfn.At(launch, "LaunchTemplateData", "MetadataOptions", "InstanceMetadataTags"); got != "disabled" {
			t.Errorf("%s: InstanceMetadataTags is %v", id, got)
		}
	}
}

// What a Master Node is, its own launch template says: no tag, which anyone with ec2:CreateTags can change.
func TestEachSlotHasALaunchTemplateThatSaysWhatItIs(t *testing.T) {
	d := deploy(t, with(nil), nil)
	for i := 1; i <= 4; i++ {
		group := fmt.Sprint("OpenViduMasterNodeASG", i)
		template, _ := cfn.At(d.OfType("AWS::AutoScaling::AutoScalingGroup")[group], "LaunchTemplate", "LaunchTemplateId").(string)
		text, _ := cfn.At(d.OfType("AWS::EC2::LaunchTemplate")[strings.TrimSuffix(template, ".")], "LaunchTemplateData", "UserData").(string)
		for _, want := range []string{
			fmt.Sprintf("\nSLOT='%d'\n", i),
			fmt.Sprintf("\nENI_ID='MasterENI%d.'\n", i),
			fmt.Sprintf("\nVOLUME_ID='VolumesRetained%d.'\n", i),
			fmt.Sprintf("\nFIXED_IP='MasterENI%d.PrimaryPrivateIpAddress'\n", i),
			fmt.Sprintf("\nGROUP='%s'\n", group),
			fmt.Sprintf("\nCLUSTER='%s/Master'\n", d.Values["AWS::StackId"]),
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%s, launch template %q: the header lacks %q", group, template, want)
			}
		}
	}
	media, _ := cfn.At(d.OfType("AWS::EC2::LaunchTemplate")["OpenViduMediaNodeLaunchTemplate"], "LaunchTemplateData", "UserData").(string)
	if !strings.Contains(media, fmt.Sprintf("\nCLUSTER='%s/Master'\n", d.Values["AWS::StackId"])) {
		t.Error("Media Nodes are not told their cluster")
	}
	if strings.Contains(media, "\nGROUP=") {
		t.Error("Media Nodes have a GROUP: they would signal an update that waits for none of them")
	}
}

// Groups hand their tags on to instances, not to volumes: the launch templates must.
func TestTagsOfTheStackReachInstancesAndTheirRootVolumes(t *testing.T) {
	dir := t.TempDir()
	app := newApp(dir)
	awscdk.Tags_Of(newStack(app, "OpenViduHA")).Add(jsii.String("Cost Center"), jsii.String("video/1"), nil)
	app.Synth(nil)
	content, err := os.ReadFile(filepath.Join(dir, "OpenViduHA.template.json"))
	if err != nil {
		t.Fatal(err)
	}
	var tagged cfn.Template
	if err := json.Unmarshal(content, &tagged); err != nil {
		t.Fatal(err)
	}
	has := func(tags any) bool {
		return slices.ContainsFunc(cfn.List(tags), func(tag any) bool {
			return cfn.At(tag, "Key") == "Cost Center" && cfn.At(tag, "Value") == "video/1"
		})
	}
	volumes := 0
	for id, resource := range tagged.Section("Resources") {
		switch cfn.At(resource, "Type") {
		case "AWS::EC2::LaunchTemplate":
			for _, specification := range cfn.List(cfn.At(resource, "Properties", "LaunchTemplateData", "TagSpecifications")) {
				if cfn.At(specification, "ResourceType") == "volume" && has(cfn.At(specification, "Tags")) {
					volumes++
				}
			}
		case "AWS::AutoScaling::AutoScalingGroup", "AWS::EC2::Volume", "AWS::EC2::NetworkInterface", "AWS::SecretsManager::Secret":
			if !has(cfn.At(resource, "Properties", "Tags")) {
				t.Errorf("%s has not the stack's tag", id)
			}
		}
	}
	if volumes != 5 {
		t.Errorf("%d launch templates tag the root volume, want all 5", volumes)
	}
}

// With a stack that has no tags of its own, root volumes say whose they are.
func TestRootVolumesSayWhoseTheyAre(t *testing.T) {
	d := deploy(t, with(nil), nil)
	for id, launch := range d.OfType("AWS::EC2::LaunchTemplate") {
		found := false
		for _, specification := range cfn.List(cfn.At(launch, "LaunchTemplateData", "TagSpecifications")) {
			found = found || cfn.At(specification, "ResourceType") == "volume" && strings.Contains(fmt.Sprint(cfn.At(specification, "Tags")), "OpenViduCluster")
		}
		if !found {
			t.Errorf("%s: the root volume has no tag of the cluster", id)
		}
	}
}
