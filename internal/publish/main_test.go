package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNewestStableIsBySemanticVersion(t *testing.T) {
	for _, c := range []struct {
		prefix, want string
		keys         []string
	}{
		{"", "", nil},
		{"", "0.10.0", []string{"0.9.0/" + file, "0.10.0/" + file, "0.2.0/" + file}},
		{"", "0.9.0", []string{"0.9.0/" + file, "1.0.0-rc.1/" + file, "latest/" + file}},
		{"", "", []string{"1.0.0-rc.1/" + file, "latest/" + file, file}},
		{"a/b", "1.2.3", []string{"a/b/1.2.3/" + file, "a/b/c/9.0.0/" + file, "a/b/8.0.0/other.json", "7.0.0/" + file}},
	} {
		if got := newestStable(c.keys, c.prefix); got != c.want {
			t.Errorf("%v under %q: %q, want %q", c.keys, c.prefix, got, c.want)
		}
	}
}

func TestQuickCreateLinkIsThatOfThePartition(t *testing.T) {
	for _, c := range []struct{ region, bucket, console, object string }{
		{"eu-west-1", "b", "https://eu-west-1.console.aws.amazon.com/", "https%3A%2F%2Fb.s3.eu-west-1.amazonaws.com%2F1.0.0%2Ft.json"},
		{"cn-north-1", "b", "https://cn-north-1.console.amazonaws.cn/", "https%3A%2F%2Fb.s3.cn-north-1.amazonaws.com.cn%2F1.0.0%2Ft.json"},
		{"us-gov-west-1", "b", "https://us-gov-west-1.console.amazonaws-us-gov.com/", "https%3A%2F%2Fb.s3.us-gov-west-1.amazonaws.com%2F1.0.0%2Ft.json"},
		{"eusc-de-east-1", "b", "https://eusc-de-east-1.console.amazonaws-eusc.eu/", "https%3A%2F%2Fb.s3.eusc-de-east-1.amazonaws.eu%2F1.0.0%2Ft.json"},
		{"us-east-1", "a.b", "https://us-east-1.console.aws.amazon.com/", "https%3A%2F%2Fs3.us-east-1.amazonaws.com%2Fa.b%2F1.0.0%2Ft.json"},
	} {
		want := c.console + "cloudformation/home?region=" + c.region +
			"#/stacks/quickcreate?param_A=x%20y%26z%3D1%2B1&stackName=openvidu&templateURL=" + c.object
		if got := quickCreate(c.region, c.bucket, "1.0.0/t.json", map[string]string{"A": "x y&z=1+1"}); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestParametersThatTheLinkMayNotHoldAreRefusedTogether(t *testing.T) {
	known := template{Parameters: map[string]parameter{"RTCEngine": {}, "OpenViduLicense": {NoEcho: true}}}
	read := func(content string) (map[string]string, error) {
		name := filepath.Join(t.TempDir(), "p.json")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		values, _, err := known.values(name)
		return values, err
	}
	if got, err := read(`{"Parameters": {"RTCEngine": "pion"}}`); err != nil || got["RTCEngine"] != "pion" {
		t.Errorf("%v, %v", got, err)
	}
	for content, want := range map[string][]string{
		`{"Parameters": {"OpenViduLicense": "s3cret", "Domain": "a.io"}}`: {"has no parameter Domain", "OpenViduLicense is secret"},
		`{"Parameters": {"RTCEngine": 3}}`:                                {"every value in quotes"},
	} {
		_, err := read(content)
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: %v, want %q", content, err, part)
			}
		}
	}
}

// What exists in the publisher's account is of no use to others, and theirs alone to know.
func TestLinkHoldsNothingOfThePublishersAccount(t *testing.T) {
	content, err := os.ReadFile("../../testdata/OpenViduHA.template.json")
	if err != nil {
		t.Fatal(err)
	}
	var known template
	if err := json.Unmarshal(content, &known); err != nil {
		t.Fatal(err)
	}
	given := map[string]string{}
	for name, parameter := range known.Parameters {
		if !parameter.NoEcho {
			given[name] = "/aws/service/" + name
		}
	}
	text, err := json.Marshal(map[string]any{"Parameters": given})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "all.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	values, own, err := known.values(name)
	if err != nil {
		t.Fatal(err)
	}
	// All others must be named in ownParameters: a new parameter belongs to one of the two.
	want := []string{"AdditionalInstallFlags", "AmiId", "DiskSize", "InitialNumberOfMediaNodes", "MasterNodeInstanceType", "MasterNodeRootVolumeSize",
		"MaxNumberOfMediaNodes", "MediaNodeInstanceType", "MediaNodeRootVolumeSize", "MinNumberOfMediaNodes", "OpenViduVersion", "RTCEngine",
		"RecordingsStorage", "RequireSameInstaller", "RetainVolumes", "ScaleTargetCPU", "SnapshotRetentionDays", "WarmPoolSize"}
	if got := slices.Sorted(maps.Keys(values)); !slices.Equal(got, want) {
		t.Errorf("the link holds %v, want %v", got, want)
	}
	if len(own)+len(values) != len(given) {
		t.Errorf("left out: %v", own)
	}
}

func TestAnUnreleasedVersionIsNotPublished(t *testing.T) {
	name := filepath.Join(t.TempDir(), "CHANGELOG.md")
	if err := os.WriteFile(name, []byte("# Changelog\n\n## [1.1.0] - Unreleased\n\n## [1.0.0] - 2026-11-24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{"1.0.0": "", "1.1.0-rc.1": "", "1.1.0": "is not released yet: set its date, or publish 1.1.0-rc.1", "1.2.0": "has no section of 1.2.0"} {
		if err := released(name, version); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", version, err, want)
		}
	}
}
