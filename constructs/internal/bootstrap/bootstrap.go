// Package bootstrap holds the boot scripts of the nodes and renders them for user data. It knows nothing of the CDK.
//
// A node's user data is an env header (the only place where values of a stack stand), then common.sh, then the script
// of its role. The three scripts are the same bytes in every stack.
package bootstrap

import (
	"bytes"
	_ "embed"
	"fmt"
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

//go:embed common.sh
var commonSource string

//go:embed master.sh
var masterSource string

//go:embed media.sh
var mediaSource string

// The scripts as they stand on a node: without comments and indentation, to fit into user data (16,384 bytes).
var (
	Common = minify("common.sh", commonSource)
	Master = minify("master.sh", masterSource)
	Media  = minify("media.sh", mediaSource)
)

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

// minify panics on a script that does not parse: the scripts are part of the program.
func minify(name, source string) string {
	file, err := syntax.NewParser().Parse(strings.NewReader(source), name)
	if err != nil {
		panic(err)
	}
	var out bytes.Buffer
	if err := syntax.NewPrinter(syntax.Minify(true)).Print(&out, file); err != nil {
		panic(err)
	}
	return out.String()
}
