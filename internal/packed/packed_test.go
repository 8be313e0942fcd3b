package packed

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

const script = "say() { echo \"$1 $LINENO\"; }\n\ncat <<'END'\n  it's $HOME\nEND\nsay \"$1\"\n"

func pack(t *testing.T, text string) string {
	t.Helper()
	line, err := Pack(text)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// The shell has the script's arguments, functions and line numbers as if the script stood there alone.
func TestPackedScriptRuns(t *testing.T) {
	command := exec.Command("bash", "-s", "here")
	command.Stdin = strings.NewReader("A=b\n" + pack(t, script) + "say \"$A\"\n")
	output, err := command.CombinedOutput()
	if want := "  it's $HOME\nhere 1\nb 1\n"; err != nil || string(output) != want {
		t.Errorf("%v\n%swant\n%s", err, output, want)
	}
}

func TestRewriteChangesScriptsAndLibraries(t *testing.T) {
	library := strings.Repeat("echo library $RANDOM # what a node loads\n", 50)
	encoded, err := Encode(library)
	if err != nil {
		t.Fatal(err)
	}
	half := len(encoded) / 2
	template := map[string]any{"Mappings": map[string]any{"Boot": "A=1\n" + pack(t, script)}, "Resources": map[string]any{
		"NodeLibrary1": map[string]any{"Type": "AWS::SSM::Parameter", "Properties": map[string]any{"Name": "/x/" + sum(library)[:pathDigits] + "/1", "Value": encoded[:half]}},
		"NodeLibrary2": map[string]any{"Type": "AWS::SSM::Parameter", "Properties": map[string]any{"Name": "/x/" + sum(library)[:pathDigits] + "/2", "Value": encoded[half:]}},
		"Template":     map[string]any{"UserData": "LIBRARY='/x/" + sum(library)[:pathDigits] + "' LIBRARY_SHA256='" + sum(library) + "'"},
	}}
	before := fmt.Sprint(template)
	other, err := Rewrite(template, func(text string) string { return strings.ReplaceAll(text, "echo", "printf") })
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(template) != before {
		t.Error("the template itself changed")
	}
	libraries, err := Libraries(other)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(library, "echo", "printf")
	if len(libraries) != 1 || libraries["NodeLibrary1"] != want {
		t.Errorf("the libraries are %q", libraries)
	}
	resources := other["Resources"].(map[string]any)
	if got := fmt.Sprint(resources["Template"]); got != "map[UserData:LIBRARY='/x/"+sum(want)[:pathDigits]+"' LIBRARY_SHA256='"+sum(want)+"']" {
		t.Errorf("nodes are told %s", got)
	}
	for id, end := range map[string]string{"NodeLibrary1": "/1", "NodeLibrary2": "/2"} {
		if name := properties(other, id)["Name"]; name != "/x/"+sum(want)[:pathDigits]+end {
			t.Errorf("%s is named %v", id, name)
		}
	}
	if clear, err := Unpack(fmt.Sprint(other["Mappings"])); err != nil || clear != "map[Boot:A=1\n"+strings.ReplaceAll(script, "echo", "printf")+"]" {
		t.Errorf("the script is %q, %v", clear, err)
	}
}

func TestUnpackGivesWhatWasPacked(t *testing.T) {
	text := "A='b'\n" + pack(t, script) + pack(t, "true\n")
	clear, err := Unpack(text)
	if want := "A='b'\n" + script + "true\n"; err != nil || clear != want {
		t.Errorf("%v\n%q\nwant\n%q", err, clear, want)
	}
	if first, second := pack(t, script), pack(t, script); first != second {
		t.Error("the same script is packed in two ways")
	}
	if _, err := Unpack("source <(base64 -d <<<'AAAA' | gunzip)\n"); err == nil {
		t.Error("what is no packed script has no error")
	}
}
