// Package settings holds what the nodes write into OpenVidu's configuration to how Docker Compose and bash read it.
package settings

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/dotenv"
)

// nasty are characters that mean something to one of the readers.
var nasty = []string{`'`, `"`, "`", `\`, `\\`, `$`, `$$`, `${X}`, `$(id)`, ` #`, `#`, ` `, `  `, "\t", `=`, `:`, `!`, `~`, `*`, `{a,b}`, `\n`, `\0140`, `\x60`, `a`, `Z9`, `é`, `%`, `;`, `&`, `export `}

// impossible is what no line of an env file can hold so that both read it alike.
func impossible(value string) bool {
	odd := (len(value)-len(strings.TrimRight(value, `\`)))%2 == 1
	return strings.Contains(value, "`") && (strings.Contains(value, "'") || odd)
}

func TestComposeAndBashReadSettingsAlike(t *testing.T) {
	source, err := os.ReadFile("../../constructs/internal/bootstrap/library/common.sh")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	file := filepath.Join(root, "config/cluster/openvidu.env")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(keys []string, values map[string]string) (string, error) {
		var before strings.Builder
		for _, key := range keys {
			fmt.Fprintf(&before, "%s=old\n", key)
		}
		secret, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{file: before.String(), root + "/secret": string(secret)} {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		command := exec.Command("bash", "-c", "REGION=\n"+string(source)+"\nOPENVIDU=$0 SECRET=$(<$0/secret)\nput_settings cluster/openvidu.env \"$@\"", root)
		command.Args = append(command.Args, keys...)
		output, err := command.CombinedOutput()
		return string(output), err
	}

	seed := rand.Int63()
	t.Log("seed", seed)
	random := rand.New(rand.NewSource(seed))
	var keys, refused []string
	values, never := map[string]string{}, map[string]string{}
	for i := range 6000 {
		var value strings.Builder
		for range 1 + random.Intn(6) {
			value.WriteString(nasty[random.Intn(len(nasty))])
		}
		key := fmt.Sprint("KEY_", i)
		if impossible(value.String()) {
			refused, never[key] = append(refused, key), value.String()
		} else {
			keys, values[key] = append(keys, key), value.String()
		}
	}
	if output, err := put(keys, values); err != nil {
		t.Fatalf("%s: %s", err, output)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	compose, err := dotenv.UnmarshalWithLookup(string(content), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal("Compose: ", err)
	}
	bash := exec.Command("bash", "-c", `set -e; . "$0"; for key; do printf '%s\0' "${!key}"; done`, file)
	bash.Args = append(bash.Args, keys...)
	output, err := bash.Output()
	if err != nil {
		t.Fatal("bash: ", err)
	}
	read := strings.Split(string(output), "\x00")
	for i, key := range keys {
		if compose[key] != values[key] || read[i] != values[key] {
			t.Errorf("%q: Compose reads %q, bash %q", values[key], compose[key], read[i])
		}
	}
	for _, key := range refused[:20] {
		if output, err := put([]string{key}, never); err == nil || !strings.Contains(output, key+" holds") {
			t.Errorf("%q is not refused: %s", never[key], output)
		}
	}
}
