package packed

import (
	"os/exec"
	"strings"
	"testing"
)

const script = "say() { echo \"$1 $LINENO\"; }\n\ncat <<'END'\n  it's $HOME\nEND\nsay \"$1\"\n"

func pack(t *testing.T, text string) string {
	t.Helper()
	line, err := Pack(text)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// The shell has the script's arguments, functions and line numbers as if the script stood there alone.
func TestPackedScriptRuns(t *testing.T) {
	command := exec.Command("bash", "-s", "here")
	command.Stdin = strings.NewReader("A=b\n" + pack(t, script) + "say \"$A\"\n")
	output, err := command.CombinedOutput()
	if want := "  it's $HOME\nhere 1\nb 1\n"; err != nil || string(output) != want {
		t.Errorf("%v\n%swant\n%s", err, output, want)
	}
}

func TestUnpackGivesWhatWasPacked(t *testing.T) {
	text := "A='b'\n" + pack(t, script) + pack(t, "true\n")
	clear, err := Unpack(text)
	if want := "A='b'\n" + script + "true\n"; err != nil || clear != want {
		t.Errorf("%v\n%q\nwant\n%q", err, clear, want)
	}
	if first, second := pack(t, script), pack(t, script); first != second {
		t.Error("the same script is packed in two ways")
	}
	if _, err := Unpack("source <(base64 -d <<<'AAAA' | gunzip)\n"); err == nil {
		t.Error("what is no packed script has no error")
	}
}
