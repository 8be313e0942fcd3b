package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// present is the template of this commit.
func present(t *testing.T) cfn.Template {
	t.Helper()
	content, err := os.ReadFile("../../testdata/OpenViduHA.template.json")
	if err != nil {
		t.Fatal(err)
	}
	var template cfn.Template
	if err := json.Unmarshal(content, &template); err != nil {
		t.Fatal(err)
	}
	return template
}

// notes of an update from the present template to one that spoil made of it, as "id effect because".
func notes(t *testing.T, spoil func(resources map[string]any, template cfn.Template)) map[string]string {
	t.Helper()
	template := present(t)
	spoil(template.Section("Resources"), template)
	changes, err := compare(present(t), template)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, c := range changes {
		out[c.id] = words[c.effect] + ": " + strings.Join(c.because, ", ")
	}
	return out
}

func set(resources map[string]any, id, property string, value any) {
	cfn.At(resources, id, "Properties").(map[string]any)[property] = value
}

func TestUpdates(t *testing.T) {
	masters := map[string]string{
		"MasterLaunchTemplate1":  words[changed] + ": LaunchTemplateData",
		"MasterLaunchTemplate2":  words[changed] + ": LaunchTemplateData",
		"MasterLaunchTemplate3":  words[changed] + ": LaunchTemplateData",
		"MasterLaunchTemplate4":  words[changed] + ": LaunchTemplateData",
		"OpenViduMasterNodeASG1": words[rolled] + ": LaunchTemplate",
		"OpenViduMasterNodeASG2": words[rolled] + ": LaunchTemplate",
		"OpenViduMasterNodeASG3": words[rolled] + ": LaunchTemplate",
		"OpenViduMasterNodeASG4": words[rolled] + ": LaunchTemplate",
	}
	for name, c := range map[string]struct {
		spoil func(resources map[string]any, template cfn.Template)
		want  map[string]string
		alone bool // nothing else changes
	}{
		"nothing": {func(map[string]any, cfn.Template) {}, nil, true},
		"a default of a parameter, which the stack has already": {func(_ map[string]any, template cfn.Template) {
			cfn.At(template, "Parameters", "DiskSize").(map[string]any)["Default"] = 500.0
		}, nil, true},
		"the masters' script, in its mapping": {func(_ map[string]any, template cfn.Template) {
			cfn.At(template, "Mappings", "Boot", "Script").(map[string]any)["Master"] = "echo"
		}, masters, true},
		"the Media Nodes' instances": {func(resources map[string]any, _ cfn.Template) {
			cfn.At(resources, "OpenViduMediaNodeLaunchTemplate", "Properties", "LaunchTemplateData").(map[string]any)["KeyName"] = "k"
		}, map[string]string{
			"OpenViduMediaNodeLaunchTemplate": words[changed] + ": LaunchTemplateData",
			"OpenViduMediaNodeASG":            words[changed] + ": LaunchTemplate",
		}, true},
		"encryption of a volume": {func(resources map[string]any, _ cfn.Template) {
			set(resources, "VolumesRetained1", "Encrypted", false)
			set(resources, "VolumesRetained2", "Size", 7.0)
		}, map[string]string{
			"VolumesRetained1":       words[replaced] + ": Encrypted",
			"VolumesRetained2":       words[changed] + ": Size",
			"MasterRole":             words[changed] + ": Policies",
			"OpenViduMasterNodeASG1": words[rolled] + ": LaunchTemplate",
		}, false},
		"the secret's name, hence its function's settings and all nodes": {func(resources map[string]any, _ cfn.Template) {
			set(resources, "OpenViduSharedInfo", "Name", "n")
		}, map[string]string{
			"OpenViduSharedInfo":     words[replaced] + ": Name",
			"MasterInfoFill":         words[ranAgain] + ": SecretArn",
			"OpenViduMasterNodeASG4": words[rolled] + ": LaunchTemplate",
		}, false},
		"a wait condition": {func(resources map[string]any, _ cfn.Template) {
			set(resources, "MasterAllReady", "Count", 5.0)
		}, map[string]string{"MasterAllReady": words[refused] + ": Count"}, true},
		"a group's type": {func(resources map[string]any, _ cfn.Template) {
			resources["MediaSG"].(map[string]any)["Type"] = "AWS::EC2::VPC"
		}, map[string]string{"MediaSG": words[replaced] + ": Type"}, false},
		"an expression of a condition": {func(_ map[string]any, template cfn.Template) {
			template.Section("Conditions")["WithTurn"] = map[string]any{"Fn::Equals": []any{"a", "a"}}
		}, map[string]string{
			"TurnLoadBalancer":     words[moved] + ": Condition",
			"OpenViduMediaNodeASG": words[changed] + ": Metadata, TargetGroupARNs",
		}, false},
		"comings and goings": {func(resources map[string]any, _ cfn.Template) {
			delete(resources, "VolumesRetained3")
			delete(resources, "MasterSsh")
			resources["New"] = map[string]any{"Type": "AWS::SNS::Topic"}
			resources["MediaSsh"].(map[string]any)["DeletionPolicy"] = "Retain"
		}, map[string]string{
			"VolumesRetained3": words[kept] + ": ", "MasterSsh": words[removed] + ": ", "New": words[added] + ": ",
			"MediaSsh": words[changed] + ": DeletionPolicy",
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := notes(t, c.spoil)
			for id, want := range c.want {
				if got[id] != want {
					t.Errorf("%s: %q, want %q", id, got[id], want)
				}
			}
			if c.alone && len(got) != len(c.want) {
				t.Errorf("more than wanted: %v", got)
			}
		})
	}
}

// TestEveryTypeIsKnown, before somebody needs the notes of a release.
func TestEveryTypeIsKnown(t *testing.T) {
	template := present(t)
	for id, resource := range template.Section("Resources") {
		resource.(map[string]any)["Properties"] = map[string]any{"Anything": id}
	}
	if _, err := compare(present(t), template); err != nil {
		t.Error(err)
	}
	template.Section("Resources")["MasterSG"].(map[string]any)["Type"] = "AWS::Some::Thing"
	before := present(t)
	before.Section("Resources")["MasterSG"].(map[string]any)["Type"] = "AWS::Some::Thing"
	if _, err := compare(before, template); err == nil || !strings.Contains(err.Error(), "MasterSG: nothing is known of AWS::Some::Thing: run make schemas") {
		t.Errorf("an unknown type: %v", err)
	}
}

func TestNewestReleaseIsBySemanticVersion(t *testing.T) {
	dir := t.TempDir()
	if got := newest(dir); got != "" {
		t.Errorf("an empty folder has %q", got)
	}
	for _, version := range []string{"0.9.0", "0.10.0", "0.10.0-rc.1"} {
		if err := os.WriteFile(filepath.Join(dir, version+".template.json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := newest(dir); filepath.Base(got) != "0.10.0.template.json" {
		t.Error(got)
	}
}

// TestGoldenAndPublishedTemplateAreTheSame: the golden one has long texts in lines.
func TestGoldenAndPublishedTemplateAreTheSame(t *testing.T) {
	a := cfn.Template{"Resources": map[string]any{"L": map[string]any{"Type": "AWS::Lambda::Function", "Properties": map[string]any{"Code": "a\nb\nc\nd"}}}}
	b := cfn.Template{"Resources": map[string]any{"L": map[string]any{"Type": "AWS::Lambda::Function", "Properties": map[string]any{"Code": []any{"a\n", "b\n", "c\n", "d"}}}}}
	if changes, err := compare(a, b); err != nil || len(changes) != 0 {
		t.Error(changes, err)
	}
}

var heading = regexp.MustCompile(`(?m)^## \[(\S+)\] - (\S+)$`)

// TestChangelogSaysWhatAnUpdateReplaces, in the section of the present version, and knows the releases.
func TestChangelogSaysWhatAnUpdateReplaces(t *testing.T) {
	content, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	changelog := string(content)
	sections := heading.FindAllStringSubmatchIndex(changelog, -1)
	if len(sections) == 0 {
		t.Fatal("no section: ## [1.2.3] - 2030-01-31")
	}
	var dated []string
	for _, s := range sections {
		if changelog[s[4]:s[5]] != "Unreleased" {
			dated = append(dated, changelog[s[2]:s[3]])
		}
	}
	names, _ := filepath.Glob("../../testdata/released/*.template.json")
	var released []string
	for _, name := range names {
		released = append(released, strings.TrimSuffix(filepath.Base(name), ".template.json"))
	}
	slices.Sort(dated)
	slices.Sort(released)
	if !slices.Equal(dated, released) {
		t.Errorf("CHANGELOG.md has the releases %v, testdata/released has %v", dated, released)
	}
	if top, now := changelog[sections[0][2]:sections[0][3]], version(present(t)); top != now {
		t.Errorf("CHANGELOG.md begins with %s, the template is %v", top, now)
	}
	if len(released) == 0 {
		return // nothing to update from
	}
	end := len(changelog)
	if len(sections) > 1 {
		end = sections[1][0]
	}
	before := newest("../../testdata/released")
	if strings.HasPrefix(filepath.Base(before), fmt.Sprint(version(present(t)), ".template.json")) {
		return // this is the release
	}
	content, err = os.ReadFile(before)
	if err != nil {
		t.Fatal(err)
	}
	var old cfn.Template
	if err := json.Unmarshal(content, &old); err != nil {
		t.Fatal(err)
	}
	changes, err := compare(old, present(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range unmentioned(changelog[:end], changes) {
		t.Errorf("CHANGELOG.md: an update from %s takes `%s` away or replaces it; the section of this version does not say so (make upgrade-notes)", before, id)
	}
}

func TestUnmentioned(t *testing.T) {
	changes := []change{{id: "A", effect: refused}, {id: "B", effect: replaced}, {id: "C", effect: removed}, {id: "D", effect: kept}, {id: "E", effect: rolled}}
	if got := unmentioned("`A` and D, `C`", changes); !slices.Equal(got, []string{"B", "D"}) {
		t.Error(got)
	}
}

func TestTableIsMarkdown(t *testing.T) {
	got := table([]change{{"A", "AWS::EC2::Volume", replaced, []string{"Encrypted", "KmsKeyId"}}})
	want := "| `A` | AWS::EC2::Volume | **replaced by a new one** | Encrypted, KmsKeyId |\n"
	if !strings.HasSuffix(got, want) {
		t.Error(got)
	}
	if table(nil) != "Nothing changes.\n" {
		t.Error(table(nil))
	}
}
