// Package bootstrap holds the boot scripts of the nodes and renders them for user data. It knows nothing of the CDK.
//
// A node's user data is an env header (the only place where values of a stack stand), then common.sh and the script of its
// role, packed together. They are the same bytes in every stack. They load the node's library, library/common.sh and the one of
// its role, for which user data has no room.
package bootstrap

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

//go:embed common.sh
var commonSource string

//go:embed master.sh
var masterSource string

//go:embed media.sh
var mediaSource string

//go:embed library/common.sh
var commonLibrary string

//go:embed library/master.sh
var masterLibrary string

//go:embed library/media.sh
var mediaLibrary string

// The scripts of the two kinds of nodes.
var (
	Master = newScript("Master", masterSource, masterLibrary)
	Media  = newScript("Media", mediaSource, mediaLibrary)
)

// MaxPart is how many characters a part of a library has at most: what a standard parameter of Systems Manager holds (AWS Systems Manager
// User Guide, Managing parameter tiers).
const MaxPart = 4096

// Script is what the nodes of a role run, without comments and indentation, and compressed.
type Script struct {
	Role     string   // Master or Media
	UserData string   // what stands in user data, of which EC2 takes 16,384 bytes with the header
	Library  []string // what parameters of Systems Manager hold, in this order
	Sum      string   // SHA-256 of the library in clear, in hexadecimal digits
}

func newScript(role, source, library string) Script {
	library = strip(commonLibrary + library)
	encoded, err := packed.Encode(library)
	if err != nil {
		panic(err) // only a writer to memory that fails
	}
	s := Script{Role: role, UserData: pack(commonSource + source), Sum: fmt.Sprintf("%x", sha256.Sum256([]byte(library)))}
	for ; len(encoded) > MaxPart; encoded = encoded[MaxPart:] {
		s.Library = append(s.Library, encoded[:MaxPart])
	}
	s.Library = append(s.Library, encoded)
	return s
}

// Var is one assignment of the env header: a bash array when it is made by List.
type Var struct {
	name  string
	words []string
	list  bool
}

// Value assigns one string.
func Value(name, value string) Var { return Var{name: name, words: []string{value}} }

// List assigns a bash array, one element a value.
func List(name string, values ...string) Var { return Var{name: name, words: values, list: true} }

// Header renders the first lines of a user data: a shebang and one assignment a value. Values stand in single quotes,
// so a shell expands nothing in them; a CDK token inside must resolve to text without a single quote.
func Header(vars ...Var) string {
	var b strings.Builder
	b.WriteString("#!/bin/bash\n")
	for _, v := range vars {
		words := make([]string, len(v.words))
		for i, word := range v.words {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		if text := strings.Join(words, " "); v.list {
			fmt.Fprintf(&b, "%s=(%s)\n", v.name, text)
		} else {
			fmt.Fprintf(&b, "%s=%s\n", v.name, text)
		}
	}
	return b.String()
}

// Longest gives the bytes of the header when each unknown in it, which the pattern finds, is as long as longest says of its
// variable.
func Longest(unknown *regexp.Regexp, longest func(name string) int, vars ...Var) int {
	var known []Var
	for _, v := range vars {
		words := make([]string, len(v.words))
		for i, word := range v.words {
			words[i] = unknown.ReplaceAllLiteralString(word, strings.Repeat("x", longest(v.name)))
		}
		known = append(known, Var{name: v.name, words: words, list: v.list})
	}
	return len(Header(known...))
}

func pack(source string) string {
	text, err := packed.Pack(strip(source))
	if err != nil {
		panic(err) // only a writer to memory that fails
	}
	return text
}

// heredoc is the beginning of a here-document, with the word that ends it.
var heredoc = regexp.MustCompile(`(?:^|[^<])<<(-?)\s*['"]?([A-Za-z_]\w*)['"]?`)

// trailing is a comment behind a command, in a line without a quote that is still open.
var trailing = regexp.MustCompile(`^((?:[^'"#]|'[^']*'|"[^"]*"|\S#)*\S)\s+# [^'"` + "`" + `]*\n$`)

// strip takes away comments and indentation, here-documents excepted. Their number stays, so that a node that
// fails names a line of the source. A line within quotes must begin with neither blanks nor #; a test sees to that.
func strip(source string) string {
	var out strings.Builder
	end, tabs := "", false
	for line := range strings.Lines(source) {
		if end != "" {
			out.WriteString(line)
			word := strings.TrimSuffix(line, "\n")
			if tabs {
				word = strings.TrimLeft(word, "\t")
			}
			if word == end {
				end = ""
			}
			continue
		}
		line = strings.TrimLeft(line, " \t")
		if strings.HasPrefix(line, "#") {
			line = "\n"
		} else if found := trailing.FindStringSubmatch(line); found != nil {
			line = found[1] + "\n"
		}
		if found := heredoc.FindStringSubmatch(line); found != nil {
			tabs, end = found[1] == "-", found[2]
		}
		out.WriteString(line)
	}
	if end != "" {
		panic("no end of the here-document " + end)
	}
	return out.String()
}
