package functions

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// whole is the code as Lambda gets it; the *.test.js files say what it must do.
var whole = map[string]string{
	"credentials": Frame + Respond + Credentials,
	"preflight":   Frame + Respond + Preflight,
	"launches":    Frame + Launches,
}

func TestFunctionsOnNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("these tests need Node.js 20 or later: %v", err)
	}
	code := t.TempDir()
	for name, text := range whole {
		if err := os.WriteFile(filepath.Join(code, name+".js"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file := name + ".test.js"
		// go test takes a passed test from its cache unless a file changed that the test itself has opened.
		for _, read := range []string{"harness.js", "cases.js", file} {
			if _, err := os.ReadFile(read); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(file, func(t *testing.T) {
			command := exec.Command(node, "--test", "--test-reporter=spec", "--test-timeout=300000", file)
			command.Env = append(os.Environ(), "FUNCTIONS_CODE="+code)
			output, err := command.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, output)
			}
			t.Logf("%s", output)
		})
	}
}

// The template has a budget; most of what the functions take of it are sentences.
func TestCodeFitsTheTemplate(t *testing.T) {
	sum := len(Frame) + len(Respond)
	for _, code := range []string{Credentials, Preflight, Launches} {
		sum += len(code)
	}
	t.Logf("frame %d, respond %d, credentials %d, preflight %d, launches %d, together %d bytes",
		len(Frame), len(Respond), len(Credentials), len(Preflight), len(Launches), sum)
	if sum > 64*1024 {
		t.Errorf("the functions have %d bytes, more than 64 KiB", sum)
	}
}

// Nothing in the code of a function turns a text into code.
func TestNoFunctionEvaluatesText(t *testing.T) {
	for name, text := range whole {
		for _, word := range []string{"eval(", "new Function", "child_process", "require('vm')"} {
			if strings.Contains(text, word) {
				t.Errorf("%s has %s", name, word)
			}
		}
	}
}
