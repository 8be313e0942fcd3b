package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// The document is made of what other tests try: they prove that each input gets this message.
func TestDocumentTellsEveryRefusedInput(t *testing.T) {
	var out strings.Builder
	row := func(cells ...string) {
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
	}
	code := func(text string) string {
		if text == "" {
			return "(empty)"
		}
		return "`" + text + "`"
	}

	fmt.Fprint(&out, `# Refused input

Every bad input that the tests try, and the message that it gets. This page is written by the tests
(`+"`go test . -run Refused -update`"+`).

A wrong parameter is refused before anything that costs is built. What CloudFormation can check alone it refuses before it
starts; the rest the preflight function refuses within seconds, as the first resource of the stack, all of it in one message
of at most 1,000 characters. A check that could not be made, because a permission is missing or AWS did not answer, refuses
nothing: the log group `+"`PreflightFunctionLogs`"+` says so. What is denied is asked again for a minute first, since the policies of a new
stack take a moment until they hold.

## Patterns and ranges

CloudFormation shows the sentence with the name of the parameter.

| parameter | refused | sentence |
|---|---|---|
`)
	for _, c := range triedValues() {
		var values []string
		for _, value := range c.bad {
			if value == longDomain {
				values = append(values, "a name of 254 characters")
			} else if len(value) > 200 {
				values = append(values, fmt.Sprintf("a text of %d characters", len(value)))
			} else {
				values = append(values, code(value))
			}
		}
		row(code(c.name), strings.Join(values, ", "), fmt.Sprint(cfn.At(synthesized.Section("Parameters"), c.name, "ConstraintDescription")))
	}

	fmt.Fprint(&out, `
## Rules

CloudFormation looks the subnets up; the tests see only that it is told to.

| tried | sentence |
|---|---|
`)
	sentence := func(name string, i int) string {
		assertions := synthesized.Section("Rules")[name].(map[string]any)["Assertions"].([]any)
		return assertions[i].(map[string]any)["AssertDescription"].(string)
	}
	for i, subnets := range []string{"OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets"} {
		row("a subnet of another VPC in "+code(subnets), sentence("SubnetsInVpc", i))
	}
	for _, c := range triedTurn {
		for i, good := range c.want {
			if !good {
				row(fmt.Sprintf("`TurnDomainName` %s, `TurnCertificateARN` %s", code(c.domain), code(c.certificate)), sentence("TurnComplete", i))
			}
		}
	}

	cases := filepath.Join("constructs", "internal", "functions", "cases.js")
	// go test takes a passed test from its cache unless a file changed that the test itself has opened.
	if _, err := os.ReadFile(cases); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("node", cases).Output()
	if err != nil {
		t.Fatal(err)
	}
	var refused map[string][]struct{ Name, Message string }
	if err := json.Unmarshal(output, &refused); err != nil {
		t.Fatal(err)
	}
	for _, section := range []struct{ title, text, cases string }{
		{"Preflight function", "The account, the VPC and all that exists in it are made up.", "preflight"},
		{"Function that fills the secret", "SECRET stands for the ARN of the secret.", "credentials"},
	} {
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\n| tried | message |\n|---|---|\n", section.title, section.text)
		if len(refused[section.cases]) == 0 {
			t.Errorf("%s has no cases", section.cases)
		}
		for _, c := range refused[section.cases] {
			row(c.Name, c.Message)
		}
	}

	document := filepath.Join("docs", "refused-input.md")
	written, err := os.ReadFile(document)
	if err == nil && string(written) == out.String() {
		return
	}
	if *update {
		if err := os.WriteFile(document, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was written: look at its diff, then run the test again", document)
	}
	t.Errorf("%s is not what the tests try; run: go test . -run Refused -update", document)
}
