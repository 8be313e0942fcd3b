package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/syntax"

	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

// unpacked is a script as a node runs it.
func unpacked(t *testing.T, text string) string {
	t.Helper()
	clear, err := packed.Unpack(text)
	if err != nil {
		t.Fatal(err)
	}
	return clear
}

// library is the one of a role as a node loads it.
func library(t *testing.T, s Script) string {
	t.Helper()
	clear, err := packed.Decode(strings.Join(s.Library, ""))
	if err != nil {
		t.Fatal(err)
	}
	return clear
}

func parsed(t *testing.T, name, text string) *syntax.File {
	t.Helper()
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), name)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// What a node runs means what the source means, and has its line numbers.
func TestStripTakesAwayNothingButCommentsAndIndentation(t *testing.T) {
	minified := func(name, text string) string {
		var out bytes.Buffer
		if err := syntax.NewPrinter(syntax.Minify(true)).Print(&out, parsed(t, name, text)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for name, script := range map[string][2]string{"master.sh": {commonSource + masterSource, unpacked(t, Master.UserData)}, "media.sh": {commonSource + mediaSource, unpacked(t, Media.UserData)},
		"library/master.sh": {commonLibrary + masterLibrary, library(t, Master)}, "library/media.sh": {commonLibrary + mediaLibrary, library(t, Media)}} {
		clear := script[1]
		if want := minified(name, script[0]); minified(name, clear) != want {
			t.Errorf("%s means something else when it is stripped", name)
		}
		if was, is := strings.Count(script[0], "\n"), strings.Count(clear, "\n"); was != is {
			t.Errorf("%s has %d lines, %d when it is stripped", name, was, is)
		}
		encoded, err := packed.Encode(clear)
		t.Logf("%s: %d bytes, stripped %d, packed %d %v", name, len(script[0]), len(clear), len(encoded), err)
	}
	const source = "f() {\n  # no\n  cat <<-'END' <<<x\n\t  # yes\n\tEND\n  cat <<EOF\n  # yes\n  EOF\nEOF\n  g $((1 << 2)) # no\n  h \"# $#\" '# # it' x#y # no\n  i '\n' # kept's\n}\n"
	if got, want := strip(source), "f() {\n\ncat <<-'END' <<<x\n\t  # yes\n\tEND\ncat <<EOF\n  # yes\n  EOF\nEOF\ng $((1 << 2))\nh \"# $#\" '# # it' x#y\ni '\n' # kept's\n}\n"; got != want {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}

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
		Value("WAIT_URL", ""), Value("BEFORE_START", ""), List("MASTER_IPS", ""), Value("INSTALLER_URL", ""), Value("INSTALL_FLAGS", ""),
		Value("REQUIRE_SAME_INSTALLER", ""), Value("BLOCK_CONTAINER_METADATA", ""), Value("LIBRARY", ""), Value("LIBRARY_SHA256", ""), Value("LIBRARY_PARTS", "")}
	for name, text := range map[string]string{
		"master": Header(append(common, Value("SLOT", ""), Value("ENI_ID", ""), Value("VOLUME_ID", ""), Value("FIXED_IP", ""), Value("GROUP", ""), Value("DISK_SIZE", ""), Value("REVISION", ""), Value("MEDIA_SECRET_ARN", ""))...) + unpacked(t, Master.UserData) + library(t, Master),
		"media":  Header(append(common, Value("DRAIN_HOOK", ""), Value("READY_HOOK", ""))...) + unpacked(t, Media.UserData) + library(t, Media),
	} {
		file := parsed(t, name, text)
		// GROUP is a master's alone, and asked for with a default; the rest comes from bash and os-release.
		assigned := map[string]bool{"GROUP": true, "PATH": true, "FUNCNAME": true, "BASH_SOURCE": true, "BASH_SUBSHELL": true, "LINENO": true, "BASH_COMMAND": true,
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
		for _, name := range []string{"boot", "install_units", "on_failure", "role_units", "install_services", "apply_settings"} {
			if !functions[name] {
				t.Errorf("there is no function %s", name)
			}
		}
	}
}

// A template that holds a token of the CDK inside a script would be another one in every stack.
func TestScriptsAreStatic(t *testing.T) {
	for _, text := range []string{unpacked(t, Master.UserData), unpacked(t, Media.UserData), library(t, Master), library(t, Media)} {
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
	for answer, fits := range map[string]bool{
		"i-0123456789abcdef0": true, "": false, "i-": false, "x[$(touch /tmp/never)]": false, "i-0123456789abcdef0\n": false,
		"i-0123456789abcdef0 ": false, "i-0123456789abcdef0\ni-0123456789abcdef0": false, "$(id)": false, "--help": false,
	} {
		command := exec.Command("bash", "-u")
		command.Env = []string{"REGION=r", "PATH=/usr/bin:/bin", "ANSWER=" + answer}
		command.Stdin = strings.NewReader(commonSource + "\nexpected \"$AN_INSTANCE\" \"$ANSWER\"")
		if err := command.Run(); (err == nil) != fits {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

// A node that fails names the function and the line that they have in the sources.
func TestFailureNamesFunctionAndLine(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "openvidu-node"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ source, text, function, command string }{
		"common.sh":         {commonSource, "  mkdir -p \"$STATE\"\n", "install_units", ""},
		"media.sh":          {mediaSource, "unit openvidu-drain drain $'Restart=always\\nRestartSec=5'", "role_units", ""},
		"library/common.sh": {commonLibrary, "  RELEASE=$(secret OPENVIDU_VERSION)\n", "download_installer", "download_installer"},
		"library/media.sh":  {mediaLibrary, "  ip=$(retry 10 5 imds local-ipv4 \"$AN_ADDRESS\")\n", "install_media", "install_media"},
	} {
		before, _, ok := strings.Cut(c.source, c.text)
		if !ok {
			t.Fatalf("%s has no %q", name, c.text)
		}
		failing := strings.NewReplacer("/var/log/", dir+"/", "/var/lib/", dir+"/", "/run/", dir+"/", strings.TrimSpace(c.text), "false")
		text, err := packed.Pack(failing.Replace(unpacked(t, Media.UserData)))
		if err != nil {
			t.Fatal(err)
		}
		loaded := failing.Replace(library(t, Media))
		write(t, filepath.Join(dir, "openvidu-node/library.sh"), loaded)
		header := Header(Value("REGION", "r"), Value("WAIT_URL", "http://127.0.0.1:9/"), Value("LOG_GROUP", ""), Value("STACK", ""), Value("READY_HOOK", ""), List("MASTER_IPS"),
			Value("LIBRARY_SHA256", fmt.Sprintf("%x", sha256.Sum256([]byte(loaded)))))
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte(header+"curl() { :; }; aws() { echo group; }; timeout() { shift; \"$@\"; }; sleep() { :; }; install() { :; }\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		command := exec.Command("bash", file, c.command)
		output, _ := command.CombinedOutput()
		want := fmt.Sprintf("failed at line %d of %s (false", strings.Count(before, "\n")+1, c.function)
		log, _ := os.ReadFile(dir + "/openvidu-node.log")
		if !strings.Contains(string(log), want) {
			t.Errorf("%s: no %q in:\n%s%s", name, want, log, output)
		}
	}
}
