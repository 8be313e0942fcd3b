// Command blocks prints a block of shell commands from the documentation, so that the gate runs what readers are told to run:
// the one behind the comment <!-- ci: NAME -->. A block that cannot be run there says why: <!-- ci: none REASON -->.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "blocks NAME: print the block of shell commands behind <!-- ci: NAME -->")
		os.Exit(2)
	}
	text, err := find(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(text)
}

// block of shell commands in a document.
type block struct {
	place  string // file and line
	marked bool   // a marker stands before it
	name   string // of the marker
	reason string // of the marker, if its name is none
	shell  bool   // or something else that a marker stands before
	text   string
}

const none = "none"

var (
	marker = regexp.MustCompile(`^\s*<!-- ci: (\S+) ?(.*?) ?-->\s*$`)
	fence  = regexp.MustCompile("^(\\s*)(```+|~~~+)\\s*(\\w*)")
	shells = []string{"sh", "bash", "shell", "zsh", "console"}
)

// documents are the files that tell people what to run.
func documents(root string) ([]string, error) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	return append([]string{filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")}, pages...), err
}

// read gives all blocks of shell commands, and all else that has a marker.
func read(root string) ([]block, error) {
	files, err := documents(root)
	if err != nil {
		return nil, err
	}
	var out []block
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return nil, err
		}
		out = append(out, parse(name, string(content))...)
	}
	return out, nil
}

func parse(name, content string) []block {
	var out []block
	lines := strings.Split(content, "\n")
	for i := 0; i < len(lines); i++ {
		b := block{place: fmt.Sprintf("%s:%d", name, i+1)}
		if found := marker.FindStringSubmatch(lines[i]); found != nil {
			b.marked, b.name, b.reason = true, found[1], found[2]
			i++ // the block stands on the next line
		}
		var open []string
		if i < len(lines) {
			open = fence.FindStringSubmatch(lines[i])
		}
		if open != nil {
			b.shell = slices.Contains(shells, open[3])
			for i++; i < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[i]), open[2]); i++ {
				b.text += strings.TrimPrefix(lines[i], open[1]) + "\n"
			}
		}
		if b.shell || b.marked {
			out = append(out, b)
		}
	}
	return out
}

// find gives the block of a name.
func find(root, name string) (string, error) {
	blocks, err := read(root)
	if err != nil {
		return "", err
	}
	for _, b := range blocks {
		if b.name == name && b.shell && name != none {
			return b.text, nil
		}
	}
	return "", fmt.Errorf("no document has a block of shell commands behind <!-- ci: %s -->", name)
}

// wrong lists what is wrong with the markers. run tells whether the gate runs the block of a name.
func wrong(blocks []block, run func(name string) bool) []string {
	var out []string
	seen := map[string]string{}
	for _, b := range blocks {
		say := func(format string, args ...any) { out = append(out, b.place+": "+fmt.Sprintf(format, args...)) }
		switch {
		case !b.marked:
			say("shell commands without <!-- ci: NAME --> or <!-- ci: none REASON --> on the line before them")
		case !b.shell:
			say("no block of shell commands (```sh) on the line after <!-- ci: %s -->", b.name)
		case b.name == none:
			if b.reason == "" {
				say("<!-- ci: none --> does not say why the gate does not run it")
			}
		case b.reason != "":
			say("%q after the name %s: only <!-- ci: none --> takes a reason", b.reason, b.name)
		case seen[b.name] != "":
			say("the name %s is taken at %s", b.name, seen[b.name])
		case strings.TrimSpace(b.text) == "":
			say("the block %s is empty", b.name)
		case !run(b.name):
			say("the gate does not run %s: neither .ci/run nor lab/readme has it", b.name)
		}
		if seen[b.name] == "" {
			seen[b.name] = b.place
		}
	}
	return out
}
