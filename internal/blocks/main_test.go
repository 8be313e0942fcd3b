package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestGateRunsEveryBlockOfShellCommands(t *testing.T) {
	root := filepath.Join("..", "..")
	blocks, err := read(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) < 10 {
		t.Fatalf("only %d blocks found", len(blocks))
	}
	gate, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	lab, err := os.ReadFile(filepath.Join(root, "lab", "readme", "readme_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	// The lab's tests of the documentation are run by the gate too.
	if !regexp.MustCompile(`(?m)^\(cd lab && go test .*\./readme`).Match(gate) {
		t.Error(".ci/run does not run lab/readme")
	}
	for _, problem := range wrong(blocks, func(name string) bool {
		quoted := regexp.QuoteMeta(name)
		return regexp.MustCompile(`(?m)^run `+quoted+`$`).Match(gate) || regexp.MustCompile(`block\(t, "`+quoted+`"\)`).Match(lab)
	}) {
		t.Error(problem)
	}
}

func TestBlocksAreFoundWithTheirMarkers(t *testing.T) {
	document := strings.ReplaceAll(`Text.

<!-- ci: good -->
'''sh
one
  two
'''

1. A list:

   <!-- ci: indented -->
   '''sh
   three \
     four
   '''

'''go
not(shell)
'''

'''bash
unmarked
'''
<!-- ci: none it asks -->
'''sh
five
'''
<!-- ci: none -->
'''sh
six
'''
<!-- ci: dangling -->

'''sh
seven
'''
<!-- ci: good -->
'''sh
eight
'''
<!-- ci: unknown -->
'''sh
nine
'''
<!-- ci: good because -->
'''sh
ten
'''
<!-- ci: go -->
'''go
eleven
'''
<!-- ci: empty -->
'''sh
'''`, "'''", "```")
	blocks := parse("a.md", document)
	texts := map[string]string{}
	for _, b := range blocks {
		if b.shell && texts[b.name] == "" {
			texts[b.name] = b.text
		}
	}
	for name, want := range map[string]string{"good": "one\n  two\n", "indented": "three \\\n  four\n", "none": "five\n", "": "unmarked\n"} {
		if texts[name] != want {
			t.Errorf("%s is %q, want %q", name, texts[name], want)
		}
	}
	got := wrong(blocks, func(name string) bool { return name != "unknown" })
	want := []string{
		"a.md:21: shell commands without <!-- ci: NAME --> or <!-- ci: none REASON --> on the line before them",
		"a.md:28: <!-- ci: none --> does not say why the gate does not run it",
		"a.md:32: no block of shell commands (```sh) on the line after <!-- ci: dangling -->",
		"a.md:34: shell commands without <!-- ci: NAME --> or <!-- ci: none REASON --> on the line before them",
		"a.md:37: the name good is taken at a.md:3",
		"a.md:41: the gate does not run unknown: neither .ci/run nor lab/readme has it",
		`a.md:45: "because" after the name good: only <!-- ci: none --> takes a reason`,
		"a.md:49: no block of shell commands (```sh) on the line after <!-- ci: go -->",
		"a.md:53: the block empty is empty",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestBlockIsFoundInWhateverDocumentItStands(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"README.md": "", "CONTRIBUTING.md": "", "docs/page.md": "<!-- ci: there -->\n```sh\necho\n```\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := find(root, "there"); err != nil || text != "echo\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := find(root, "elsewhere"); err == nil {
		t.Error("a block is found that is not there")
	}
}
