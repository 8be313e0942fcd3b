package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// The table of the README is the form: sections, parameters in their order, defaults, and the limits of numbers.
func TestReadmeHasTheParameters(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text2, found := strings.Cut(string(text), "\n| parameter | default | limits | meaning |\n|---|---|---|---|\n")
	table, _, closed := strings.Cut(text2, "\n\n")
	if !found || !closed {
		t.Fatal("README.md has no table of parameters")
	}
	var want []string
	var limits []string
	for _, section := range form {
		want, limits = append(want, "**"+section.section+"**"), append(limits, "")
		for _, name := range section.parameters {
			parameter := cfn.At(synthesized.Section("Parameters"), name).(map[string]any)
			value, given := parameter["Default"]
			text := fmt.Sprint(value)
			switch {
			case !given:
				text = ""
			case text == "":
				text = "empty"
			case parameter["Type"] != "Number":
				text = "`" + text + "`"
			}
			limit := ""
			if parameter["Type"] == "Number" {
				if limit = fmt.Sprintf("%v or more", parameter["MinValue"]); parameter["MaxValue"] != nil {
					limit = fmt.Sprintf("%v to %v", parameter["MinValue"], parameter["MaxValue"])
				}
			}
			want, limits = append(want, "`"+name+"` "+text), append(limits, limit)
		}
	}
	lines := strings.Split(table, "\n")
	if len(lines) != len(want) {
		t.Errorf("%d rows, want %d", len(lines), len(want))
	}
	for i := range min(len(lines), len(want)) {
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(lines[i], "|"), "|"), "|")
		if len(cells) != 4 {
			t.Errorf("%d cells: %s", len(cells), lines[i])
			continue
		}
		got := strings.TrimSpace(strings.TrimSpace(cells[0]) + " " + strings.TrimSpace(cells[1]))
		if got != strings.TrimSpace(want[i]) {
			t.Errorf("row %d is %q, want %q", i+1, got, want[i])
		}
		if !strings.HasPrefix(strings.TrimSpace(cells[2]), limits[i]) {
			t.Errorf("%s: limits are %q, want %q", got, strings.TrimSpace(cells[2]), limits[i])
		}
	}
}
