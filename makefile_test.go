package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runMake runs a target with stand-ins for commands, by their names, found first.
func runMake(t *testing.T, standIns map[string]string, stdin string, arguments ...string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	for name, script := range standIns {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.Command("make", arguments...)
	command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	command.Stdin = strings.NewReader(stdin)
	output, err := command.CombinedOutput()
	return string(output), err
}

// cdkStandIn is the CDK CLI as npx runs it: a program of Node.js called cdk. It tells the arguments that others see, and those that it
// took.
func cdkStandIn(t *testing.T) map[string]string {
	t.Helper()
	cdk := filepath.Join(t.TempDir(), "cdk")
	if err := os.WriteFile(cdk, []byte(`
const { readFileSync } = require('fs');
console.log('seen', readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(2).join(' '));
console.log('taken', process.argv.slice(2).join(' '));
console.log('approval', process.env.CDK_REQUIRE_APPROVAL);
`), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"npx": "#!/bin/sh\nshift 2\nexec node " + cdk + " \"$@\"\n"}
}

func line(output, begin string) string {
	for _, line := range strings.Split(output, "\n") {
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
	return ""
}

func TestMakeDeployKeepsTheLicenceOutOfItsArguments(t *testing.T) {
	t.Setenv("OPENVIDU_LICENSE", "the-licence")
	output, err := runMake(t, cdkStandIn(t), "", "deploy", "PARAMETERS=docs/parameters.example.json", "FLAGS=--no-rollback")
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if seen := line(output, "seen"); !strings.Contains(seen, "deploy --no-rollback") || !strings.Contains(seen, "--parameters=DomainName=openvidu.example.com") ||
		strings.Contains(seen, "the-licence") {
		t.Errorf("others see %s", seen)
	}
	if taken := line(output, "taken"); !strings.Contains(taken, "--parameters=OpenViduLicense=the-licence") {
		t.Errorf("the CDK CLI took %s\n%s", taken, output)
	}
}

func TestMakeDeployRunsWithoutATerminal(t *testing.T) {
	output, err := runMake(t, cdkStandIn(t), "", "deploy", "PARAMETERS=docs/parameters.example.json")
	if err != nil || !strings.Contains(output, "OPENVIDU_LICENSE") {
		t.Errorf("%v: it does not say where the licence may come from\n%s", err, output)
	}
	if strings.Contains(line(output, "taken"), "OpenViduLicense") || line(output, "approval") != "approval never" {
		t.Errorf("without a licence, and nobody to ask:\n%s", output)
	}
	if output, err := runMake(t, cdkStandIn(t), "piped-licence\n", "deploy", "PARAMETERS=docs/parameters.example.json"); err != nil ||
		!strings.Contains(line(output, "taken"), "=piped-licence") || strings.Contains(line(output, "seen"), "piped") {
		t.Errorf("%v\n%s", err, output)
	}
}

func TestDeployTurnsOnTerminationProtection(t *testing.T) {
	dir := t.TempDir()
	app := newApp(dir)
	newStack(app, "OpenViduHA")
	app.Synth(nil)
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	// The CDK CLI reads it there.
	if !strings.Contains(strings.ReplaceAll(string(manifest), " ", ""), `"terminationProtection":true`) {
		t.Error("the CDK CLI is not told to protect the stack")
	}
}

func TestMakePicturesNeedsGraphviz(t *testing.T) {
	before, err := os.ReadFile("docs/pictures/boot.svg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile("docs/pictures/boot.svg", before, 0o644) })
	for name, script := range map[string]string{"fails": "#!/bin/sh\nexit 1\n", "is missing": "#!/bin/sh\necho 'neato: command not found' >&2\nexit 127\n"} {
		output, err := runMake(t, map[string]string{"neato": script}, "", "pictures")
		if err == nil {
			t.Errorf("Graphviz %s: %s", name, output)
		}
		if after, err := os.ReadFile("docs/pictures/boot.svg"); err != nil || string(after) != string(before) {
			t.Errorf("Graphviz %s: a picture has %d bytes, not %d", name, len(after), len(before))
		}
	}
}

func TestMakePublishAsksForItsBucketFirst(t *testing.T) {
	output, err := runMake(t, map[string]string{"go": "#!/bin/sh\necho synthesized\n"}, "", "publish")
	if err == nil || !strings.Contains(output, "BUCKET=name") || strings.Contains(output, "synthesized") {
		t.Errorf("%v\n%s", err, output)
	}
}
