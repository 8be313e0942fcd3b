package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

func TestTemplateFitsItsBudget(t *testing.T) {
	t.Logf("%d bytes", len(written))
	if len(written) > budget {
		t.Errorf("the template has %d bytes, more than %d", len(written), budget)
	}
}

func TestTemplateIsSelfContained(t *testing.T) {
	text, _ := json.Marshal(synthesized)
	for _, word := range []string{"cdk-bootstrap", "BootstrapVersion", "CDKMetadata", "aws:cdk:path", "AWS::LanguageExtensions"} {
		if bytes.Contains(text, []byte(word)) {
			t.Errorf("the template needs, or tells of, %s", word)
		}
	}
}

// The golden is the contract that users have with the published template: logical ids above all.
func TestTemplateIsTheGoldenOne(t *testing.T) {
	golden := filepath.Join("testdata", "OpenViduHA.template.json")
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(readable(t, withLibraries(t))); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(golden)
	if err == nil && bytes.Equal(out.Bytes(), want) {
		return
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was written: look at its diff, then run the test again", golden)
	}
	dir := t.TempDir()
	actual := filepath.Join(dir, "actual.json")
	if err := os.WriteFile(actual, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Errorf("the template is not %s; if it should change, run: go test . -update\n%s", golden, difference(golden, actual))
}

// withLibraries is the template with its boot libraries in clear, each in its first part.
func withLibraries(t *testing.T) map[string]any {
	t.Helper()
	libraries, err := packed.Libraries(synthesized)
	if err != nil {
		t.Fatal(err)
	}
	out := maps.Clone(map[string]any(synthesized))
	resources := maps.Clone(synthesized.Section("Resources"))
	out["Resources"] = resources
	for id, resource := range resources {
		if cfn.At(resource, "Type") != "AWS::SSM::Parameter" {
			continue
		}
		properties := maps.Clone(cfn.At(resource, "Properties").(map[string]any))
		properties["Value"] = libraries[id]
		resource := maps.Clone(resource.(map[string]any))
		resource["Properties"] = properties
		resources[id] = resource
	}
	if len(libraries) != 2 {
		t.Errorf("%d libraries, want those of Master Nodes and Media Nodes", len(libraries))
	}
	return out
}

// readable unpacks scripts and splits texts of many lines into lists of lines, so that the golden's diffs show the line that changed.
func readable(t *testing.T, value any) any {
	switch v := value.(type) {
	case cfn.Template:
		return readable(t, map[string]any(v))
	case map[string]any:
		out := map[string]any{}
		for key, element := range v {
			out[key] = readable(t, element)
		}
		return out
	case []any:
		out := []any{}
		for _, element := range v {
			out = append(out, readable(t, element))
		}
		return out
	case string:
		if lines := strings.SplitAfter(unpacked(t, v), "\n"); len(lines) > 3 {
			return lines
		}
	}
	return value
}

// difference shows the first lines that differ.
func difference(golden, actual string) string {
	read := func(path string) []string {
		content, _ := os.ReadFile(path)
		return strings.Split(string(content), "\n")
	}
	was, is := read(golden), read(actual)
	for i := range max(len(was), len(is)) {
		if i >= len(was) || i >= len(is) || was[i] != is[i] {
			tail := func(lines []string) string {
				return strings.Join(lines[min(i, len(lines)):min(i+5, len(lines))], "\n")
			}
			return fmt.Sprintf("from line %d on, golden:\n%s\nnow:\n%s", i+1, tail(was), tail(is))
		}
	}
	return ""
}

func TestSynthesisIsRepeatable(t *testing.T) {
	dir := t.TempDir()
	app := newApp(dir)
	newStack(app, "OpenViduHA")
	app.Synth(nil)
	again, err := os.ReadFile(filepath.Join(dir, "OpenViduHA.template.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, written) {
		t.Error("a second synthesis gives another template")
	}
}

func TestResourceIdsArePlainNames(t *testing.T) {
	var hashed []string
	for id := range synthesized.Section("Resources") {
		if regexp.MustCompile(`[0-9A-F]{8}$`).MatchString(id) {
			hashed = append(hashed, id)
		}
	}
	sort.Strings(hashed)
	if len(hashed) > 0 {
		t.Errorf("ids with a hash: %v", hashed)
	}
	for _, id := range []string{"OpenViduSharedInfo", "OpenViduMediaNodeASG", "OpenViduMediaNodeLaunchTemplate",
		"OpenViduMasterNodeASG1", "OpenViduMasterNodeASG2", "OpenViduMasterNodeASG3", "OpenViduMasterNodeASG4"} {
		if synthesized.Section("Resources")[id] == nil {
			t.Errorf("%s, which OpenVidu documents, is missing", id)
		}
	}
}
