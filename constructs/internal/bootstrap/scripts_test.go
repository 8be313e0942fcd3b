package bootstrap

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// header of a node that the functions under test run on, below the directory $ROOT.
const testHeader = `REGION=eu-west-1 URL_SUFFIX=amazonaws.com STACK=s SECRET_ARN=arn:main MEDIA_SECRET_ARN=arn:media LOG_GROUP=g WAIT_URL= CLUSTER=c
BEFORE_START= INSTALLER_URL=https://installer.test INSTALL_FLAGS= REQUIRE_SAME_INSTALLER=false BLOCK_CONTAINER_METADATA=false SLOT=1 GROUP=G
ENI_ID=eni-1 VOLUME_ID=vol-1 FIXED_IP=10.0.0.1 DISK_SIZE=20 REVISION=r DRAIN_HOOK=drain READY_HOOK=ready
MASTER_IPS=(10.0.0.1 10.0.16.1 10.0.32.1 10.0.0.2)
`

// node gives a directory in which functions of a role's script run, with programs of their own: name -> lines of bash.
func testNode(t *testing.T, programs map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "state", "openvidu/config/cluster/master_node", "openvidu/config/node", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, lines := range programs {
		write(t, filepath.Join(root, "bin", name), "#!/bin/bash\n"+lines+"\n")
	}
	return root
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// call runs lines of bash with the functions of a role's script, and gives what they print on standard output.
func call(t *testing.T, root, role, lines string) (string, error) {
	t.Helper()
	script := map[string]string{"master": masterSource, "media": mediaSource}[role]
	text := testHeader + commonSource + strings.TrimSuffix(script, "main \"$@\"\n") + `
ROOT=$0 STATE=$0/state LOG=$0/log RAW=$0/raw OPENVIDU=$0/openvidu SELF=$0/self PATH=$0/bin:$PATH
sleep() { :; }
` + lines
	command := exec.Command("bash", "-c", text, root)
	command.Env = append(os.Environ(), "TMPDIR="+filepath.Join(root, "tmp"))
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if testing.Verbose() {
		t.Log(stderr.String())
	}
	return string(output), err
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, want %q", what, got, want)
	}
}

func TestLogTellsNoCredential(t *testing.T) {
	const env = "A=1\nMONGO_ADMIN_PASSWORD=plain-one\nMINIO_SECRET_KEY='it is $quoted'\nGRAFANA_ADMIN_PASSWORD=\"it's \\\"two\\\"\"\n"
	const lines = "say '== one'; say plain-one; say 'it is $quoted'; say 'it'\"'\"'s \"two\"'; say from-the-secret; publish; printf half >&2; publish; say ' line plain-one'; publish"
	run := func(t *testing.T, env, before string) string {
		t.Helper()
		root := testNode(t, nil)
		if env != "" {
			write(t, filepath.Join(root, "openvidu/config/cluster/openvidu.env"), env)
		}
		if _, err := call(t, root, "master", "exec 2>>$RAW\n"+before+"\n"+lines); err != nil {
			t.Fatal(err)
		}
		var kept []string
		for _, line := range strings.Split(read(t, filepath.Join(root, "log")), "\n") {
			if _, line, ok := strings.Cut(line, "Z "); ok {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "|")
	}
	const trusted = ": >$STATE/trusted\n"
	expect(t, "a first boot", run(t, "", ""), `== one|plain-one|it is $quoted|it's "two"|from-the-secret| line plain-one`)
	expect(t, "with the secret", run(t, "", trusted+`SECRET='{"REDIS_PASSWORD":"from-the-secret","DOMAIN_NAME":"plain-one","LIVEKIT_API_KEY":"line"}'`),
		`== one|plain-one|it is $quoted|it's "two"|***| line plain-one`)
	expect(t, "with the configuration", run(t, env, trusted), `== one|***|***|***|from-the-secret| line ***`)
	expect(t, "with neither", run(t, "", trusted), `== one`)
}

// The installer's container is one that was not there before, also when the power is cut while it runs.
func TestInstallerIsSweptAway(t *testing.T) {
	root := testNode(t, map[string]string{
		"docker": `case $1 in
  ps) cat "${0%/*}/../containers" ;;
  rm) shift 2 && for id; do sed -i "/^$id$/d" "${0%/*}/../containers"; done ;;
esac`,
		"mountpoint": "exit 1", "systemctl": "",
	})
	containers := filepath.Join(root, "containers")
	write(t, containers, "custom\n")
	const installer = `[[ -d $TMPDIR ]] && mktemp -d >/dev/null && echo "installer$RANDOM" >>` + "${0%/*}/../containers\n"
	write(t, filepath.Join(root, "state/installer.sh"), installer+"exit 3\n")
	code, err := call(t, root, "master", "mountpoint() { return 1; }; try_installer || echo $?")
	if err != nil || code != "3\n" {
		t.Errorf("%q, %v", code, err)
	}
	expect(t, "containers", read(t, containers), "custom\n")
	write(t, filepath.Join(root, "state/installer.sh"), installer+"kill -9 $PPID $$\n")
	_, _ = call(t, root, "master", "timeout() { shift; \"$@\"; }; try_installer")
	if !strings.Contains(read(t, containers), "installer") {
		t.Error("nothing was left for the next boot")
	}
	if _, err := call(t, root, "master", "sweep"); err != nil {
		t.Error(err)
	}
	expect(t, "containers after the next boot", read(t, containers), "custom\n")
	if left, _ := filepath.Glob(filepath.Join(root, "state", "[tc]*")); left != nil {
		t.Errorf("left: %s", left)
	}
}

func TestSettingsChangeWhatIsThere(t *testing.T) {
	const secret = `SECRET='{"DOMAIN_NAME":"new.example.com","LIVEKIT_TURN_DOMAIN_NAME":"","EXTERNAL_S3_REGION":"","OPENVIDU_RTC_ENGINE":null,"MINIO_ACCESS_KEY":"a b","GRAFANA_ADMIN_PASSWORD":"g"}'` + "\n"
	const put = secret + "put_settings cluster/openvidu.env DOMAIN_NAME LIVEKIT_TURN_DOMAIN_NAME EXTERNAL_S3_REGION OPENVIDU_RTC_ENGINE MINIO_ACCESS_KEY GRAFANA_ADMIN_PASSWORD 2>&1"
	for name, c := range map[string]struct{ before, after string }{
		"empty settings stay as they are": {"DOMAIN_NAME=old\nEXTERNAL_S3_REGION=eu\nOPENVIDU_RTC_ENGINE=pion\nMINIO_ACCESS_KEY=\nCUSTOM=1", "DOMAIN_NAME=new.example.com\nEXTERNAL_S3_REGION=eu\nOPENVIDU_RTC_ENGINE=pion\nMINIO_ACCESS_KEY='a b'\nCUSTOM=1"},
		"a TURN domain goes":              {"LIVEKIT_TURN_DOMAIN_NAME=turn.example.com\nMINIO_ACCESS_KEY=x\nDOMAIN_NAME=y\n", "LIVEKIT_TURN_DOMAIN_NAME=\nMINIO_ACCESS_KEY='a b'\nDOMAIN_NAME=new.example.com\n"},
		"comments stay":                   {"# DOMAIN_NAME=z\nDOMAIN_NAME=y\nMINIO_ACCESS_KEY='a b'\n", "# DOMAIN_NAME=z\nDOMAIN_NAME=new.example.com\nMINIO_ACCESS_KEY='a b'\n"},
	} {
		t.Run(name, func(t *testing.T) {
			root := testNode(t, nil)
			file := filepath.Join(root, "openvidu/config/cluster/openvidu.env")
			write(t, file, c.before)
			said, err := call(t, root, "master", put)
			if err != nil || strings.Count(said, "\n") != 1 || !strings.Contains(said, "openvidu.env of this release has no GRAFANA_ADMIN_PASSWORD") {
				t.Errorf("%v: %s", err, said)
			}
			expect(t, "the file", strings.TrimSuffix(read(t, file), "\n"), strings.TrimSuffix(c.after, "\n"))
		})
	}
	t.Run("what cannot be written is named, and nothing is written", func(t *testing.T) {
		for value, want := range map[string]string{"it's a `": "backtick", "a`\\": "backtick", "two\nlines": "line break", "a\x00b": "line break"} {
			root := testNode(t, nil)
			file := filepath.Join(root, "openvidu/config/cluster/openvidu.env")
			write(t, file, "DOMAIN_NAME=old\nMINIO_SECRET_KEY=old\n")
			secret, err := json.Marshal(map[string]string{"DOMAIN_NAME": "new", "MINIO_SECRET_KEY": value})
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(root, "secret"), string(secret))
			said, err := call(t, root, "master", "SECRET=$(<$ROOT/secret); put_settings cluster/openvidu.env DOMAIN_NAME MINIO_SECRET_KEY 2>&1")
			if err == nil || !strings.Contains(said, "MINIO_SECRET_KEY holds a "+want) {
				t.Errorf("%q: %v %s", value, err, said)
			}
			expect(t, "the file", read(t, file), "DOMAIN_NAME=old\nMINIO_SECRET_KEY=old\n")
		}
	})
}
