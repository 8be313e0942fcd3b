package bootstrap

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/syntax"
)

// Whatever a value holds, a shell reads it back as it was and runs nothing of it.
func TestHeaderQuotesEveryValue(t *testing.T) {
	hostile := []string{"plain", "it's", `"quoted"`, "$HOME", "$(touch /tmp/never)", "`id`", `back\slash`, "a b\tc", "", "two\nlines", "*", "~", "!x"}
	header := Header(append([]Var{List("ALL", hostile...)}, Value("ONE", hostile[1]))...)
	command := exec.Command("bash", "-eu")
	command.Stdin = strings.NewReader(header + `printf '%s\0' "$ONE" "${ALL[@]}"`)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	got := strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
	if want := append([]string{hostile[1]}, hostile...); !slices.Equal(got, want) {
		t.Errorf("a shell reads\n%q\nwant\n%q", got, want)
	}
}

// set -u would end a node at the first use of a name that nobody assigns.
func TestScriptsUseNoNameThatNobodyAssigns(t *testing.T) {
	common := []Var{Value("REGION", ""), Value("URL_SUFFIX", ""), Value("STACK", ""), Value("CLUSTER", ""), Value("SECRET_ARN", ""), Value("LOG_GROUP", ""),
		Value("WAIT_URL", ""), Value("BEFORE_START", ""), List("MASTER_IPS", ""), Value("INSTALLER_URL", ""), Value("INSTALL_FLAGS", "")}
	for name, text := range map[string]string{
		"master": Header(append(common, Value("SLOT", ""), Value("ENI_ID", ""), Value("VOLUME_ID", ""), Value("FIXED_IP", ""), Value("GROUP", ""), Value("DISK_SIZE", ""), Value("REVISION", ""))...) + Common + Master,
		"media":  Header(append(common, Value("DRAIN_HOOK", ""), Value("READY_HOOK", ""))...) + Common + Media,
	} {
		file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), name)
		if err != nil {
			t.Fatal(err)
		}
		// GROUP is a master's alone, and asked for with a default; the rest comes from bash and os-release.
		assigned := map[string]bool{"GROUP": true, "PATH": true, "BASH_SOURCE": true, "BASH_SUBSHELL": true, "LINENO": true, "BASH_COMMAND": true,
			"ID": true, "VERSION_ID": true}
		functions, used := map[string]bool{}, map[string]bool{}
		syntax.Walk(file, func(node syntax.Node) bool {
			switch n := node.(type) {
			case *syntax.Assign:
				if n.Name != nil {
					assigned[n.Name.Value] = true
				}
			case *syntax.WordIter:
				assigned[n.Name.Value] = true
			case *syntax.CallExpr:
				// read assigns what it names.
				if len(n.Args) > 0 && n.Args[0].Lit() == "read" {
					for _, word := range n.Args[1:] {
						assigned[word.Lit()] = true
					}
				}
			case *syntax.FuncDecl:
				functions[n.Name.Value] = true
			case *syntax.ParamExp:
				used[n.Param.Value] = true
			}
			return true
		})
		for name := range used {
			if !assigned[name] && !strings.ContainsAny(name, "@*#?!$-0123456789") {
				t.Errorf("$%s is used, and nobody assigns it", name)
			}
		}
		for _, name := range []string{"boot", "install_units", "on_failure", "role_units", "apply_settings"} {
			if !functions[name] {
				t.Errorf("there is no function %s", name)
			}
		}
	}
}

// A template that holds a token of the CDK inside a script would be another one in every stack.
func TestScriptsAreStatic(t *testing.T) {
	for _, text := range []string{Common, Master, Media} {
		if strings.Contains(text, "Token[") {
			t.Error("a script holds a token")
		}
		if strings.Contains(text, "set -x") {
			t.Error("a script traces itself, and so its secrets")
		}
		if strings.Contains(text, "http://") && strings.Contains(strings.NewReplacer("http://169.254.169.254", "", "http://127.0.0.1", "").Replace(text), "http://") {
			t.Error("a script goes outside without TLS")
		}
	}
}

// What metadata and AWS answer is used only when it is as expected from its first to its last character, and never evaluated.
func TestUnexpectedAnswersAreRefused(t *testing.T) {
	_, library, _ := strings.Cut(Common, "set -Eeuo pipefail")
	library, _, ok := strings.Cut(library, "\nmain()")
	if !ok {
		t.Fatal("common.sh has no function main")
	}
	for answer, fits := range map[string]bool{
		"i-0123456789abcdef0": true, "": false, "i-": false, "x[$(touch /tmp/never)]": false, "i-0123456789abcdef0\n": false,
		"i-0123456789abcdef0 ": false, "i-0123456789abcdef0\ni-0123456789abcdef0": false, "$(id)": false, "--help": false,
	} {
		command := exec.Command("bash", "-u")
		command.Env = []string{"REGION=r", "PATH=/usr/bin:/bin", "ANSWER=" + answer}
		command.Stdin = strings.NewReader(library + "\nexpected \"$AN_INSTANCE\" \"$ANSWER\"")
		if err := command.Run(); (err == nil) != fits {
			t.Errorf("%q: %v", answer, err)
		}
	}
}
