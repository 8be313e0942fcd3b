package functions

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

// The code is tested as Lambda gets it, minified; the *.test.js files say what it must do.
func TestFunctionsOnNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("these tests need Node.js 20 or later: %v", err)
	}
	code := t.TempDir()
	for name, text := range map[string]string{"credentials.js": Credentials, "preflight.js": Preflight} {
		if err := os.WriteFile(filepath.Join(code, name), []byte(Frame+text), 0o600); err != nil {
			t.Fatal(err)
		}
		// go test takes a passed test from its cache unless a file changed that the test itself has opened.
		if _, err := os.ReadFile("harness.js"); err != nil {
			t.Fatal(err)
		}
		file := name[:len(name)-len(".js")] + ".test.js"
		if _, err := os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		t.Run(file, func(t *testing.T) {
			command := exec.Command(node, "--test", "--test-reporter=spec", "--test-timeout=30000", file)
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
func TestCodeIsSmall(t *testing.T) {
	t.Logf("frame %d, preflight %d, credentials %d bytes", len(Frame), len(Preflight), len(Credentials))
	if len(Preflight) > 11100 {
		t.Errorf("preflight has %d bytes, more than 11,100", len(Preflight))
	}
}

func TestCodeThatDoesNotParsePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("bundle took code that does not parse")
		}
	}()
	bundle("const = 1", api.FormatDefault)
}
