package bootstrap

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

// header of a node that the functions under test run on, below the directory $ROOT.
const testHeader = `REGION=eu-west-1 URL_SUFFIX=amazonaws.com STACK=s SECRET_ARN=arn:main MEDIA_SECRET_ARN=arn:media LOG_GROUP=g WAIT_URL= CLUSTER=c
BEFORE_START= INSTALLER_URL=https://installer.test INSTALL_FLAGS= REQUIRE_SAME_INSTALLER=false BLOCK_CONTAINER_METADATA=false SLOT=1 GROUP=G
ENI_ID=eni-1 VOLUME_ID=vol-1 FIXED_IP=10.0.0.1 DISK_SIZE=20 REVISION=r DRAIN_HOOK=drain READY_HOOK=ready LIBRARY=/library LIBRARY_SHA256= LIBRARY_PARTS=1
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
	script := map[string][2]string{"master": {masterSource, masterLibrary}, "media": {mediaSource, mediaLibrary}}[role]
	text := testHeader + commonSource + strings.TrimSuffix(script[0], "main \"$@\"\n") + commonLibrary + script[1] + `
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
	expect(t, "with one credential in another", run(t, "", trusted+`SECRET='{"A_PASSWORD":"plain-","B_PASSWORD":"plain-one","C_PASSWORD":"in-one"}'`),
		`== one|***|it is $quoted|it's "two"|from-the-secret| line ***`)
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
	_, _ = call(t, root, "master", "timeout() { shift 3; \"$@\"; }; try_installer")
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

// A secret without an API key of OpenVidu Meet is whole: none is made unasked.
func TestInstallerGetsNoEmptyKeyOfMeet(t *testing.T) {
	for name, c := range map[string]struct{ key, want string }{
		"given":  {`,"MEET_INITIAL_API_KEY":"a-key"`, "--meet-initial-api-key=a-key\n"},
		"empty":  {`,"MEET_INITIAL_API_KEY":""`, ""},
		"null":   {`,"MEET_INITIAL_API_KEY":null`, ""},
		"absent": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := testNode(t, nil)
			output, err := call(t, root, "master", `SECRET='{"MEET_INITIAL_ADMIN_PASSWORD":"p","REDIS_PASSWORD":"r"`+c.key+`}'
CLUSTER_KEYS=()
noted() { :; }
install_openvidu() { printf '%s\n' "$@"; }
install_master`)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "flags", output, "master\n--external-load-balancer\n--meet-initial-admin-password=p\n"+c.want+"--redis-password=r\n")
		})
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

// secrets stands in for the AWS CLI's calls of Secrets Manager. A version becomes the current one only in the place of the one that
// is named (AWS Secrets Manager API Reference, UpdateSecretVersionStage).
const secrets = `cd "${0%/*}/../secrets" && exec 9>lock && flock 9 || exit 255
action=$2
shift 2
while (($# > 0)); do
  declare "${1//-/_}=$2"
  shift 2
done
cd "${__secret_id#arn:}" || exit 254
case $action in
  get-secret-value)
    if [[ ${__output:-} == json ]]; then jq -n '{VersionId:$v,SecretString:$s}' --arg v "$(<current)" --rawfile s "$(<current)"; else cat "$(<current)"; fi ;;
  put-secret-value)
    [[ ${__version_stages:-AWSCURRENT} != AWSCURRENT ]] || exit 3
    new=v$RANDOM$RANDOM
    cat >$new
    echo $new ;;
  update-secret-version-stage)
    [[ $__version_stage == AWSCURRENT && $(<current) == "$__remove_from_version_id" ]] || { echo "InvalidParameterException" >&2; exit 254; }
    echo "$__move_to_version_id" >current ;;
esac`

func secretNode(t *testing.T, main, media string) string {
	t.Helper()
	root := testNode(t, map[string]string{"aws": secrets, "systemctl": `echo "$@" >>"${0%/*}/../systemctl"`})
	for name, content := range map[string]string{"main": main, "media": media} {
		dir := filepath.Join(root, "secrets", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "v0"), content)
		write(t, filepath.Join(dir, "current"), "v0\n")
	}
	return root
}

func secretOf(t *testing.T, root, name string) map[string]string {
	t.Helper()
	dir := filepath.Join(root, "secrets", name)
	var secret map[string]string
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, strings.TrimSpace(read(t, filepath.Join(dir, "current")))))), &secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestMastersThatSaveAtOnceLoseNothing(t *testing.T) {
	root := secretNode(t, `{"DOMAIN_NAME":"a.example.com","REDIS_PASSWORD":"r","OPENVIDU_VERSION":"3.8.0"}`, `{}`)
	var all sync.WaitGroup
	for slot := range 3 {
		all.Go(func() {
			for i := range 2 {
				key := fmt.Sprintf("KEY_%d_%d", slot, i)
				if output, err := call(t, root, "master", fmt.Sprintf("NODE=master-%d; sleep() { command sleep 0.$RANDOM; }; main tool store_secret save %s 'it is %[2]s'", slot+1, key)); err != nil || output != "it is "+key+"\n" {
					t.Errorf("%s: %q, %v", key, output, err)
				}
			}
		})
	}
	all.Wait()
	secret := secretOf(t, root, "main")
	for slot := range 3 {
		for i := range 2 {
			key := fmt.Sprintf("KEY_%d_%d", slot, i)
			expect(t, key, secret[key], "it is "+key)
		}
	}
	expect(t, "the domain", secret["DOMAIN_NAME"], "a.example.com")
}

func TestProceduresOfOpenViduFindTheirScripts(t *testing.T) {
	root := secretNode(t, `{"DOMAIN_NAME":"a.example.com","REDIS_PASSWORD":"r","OPENVIDU_VERSION":"3.8.0","LIVEKIT_API_KEY":"k","MINIO_ACCESS_KEY":"kept"}`, `{"HAND":"edit"}`)
	tool := func(words string) string {
		t.Helper()
		output, err := call(t, root, "master", "main tool "+words)
		if err != nil {
			t.Fatalf("%s: %v", words, err)
		}
		return strings.TrimSuffix(output, "\n")
	}
	env := filepath.Join(root, "openvidu/config/cluster/openvidu.env")
	// As OpenVidu's update script has it.
	expect(t, "what it saved", tool("store_secret save OPENVIDU_VERSION 3.9.0"), "3.9.0")
	expect(t, "version", secretOf(t, root, "main")["OPENVIDU_VERSION"], "3.9.0")
	media := secretOf(t, root, "media")
	expect(t, "what Media Nodes read", fmt.Sprint(media), "map[HAND:edit OPENVIDU_VERSION:3.9.0 REDIS_PASSWORD:r]")
	generated := tool("store_secret generate LIVEKIT_API_KEY API 12")
	if len(generated) != 15 || !strings.HasPrefix(generated, "API") {
		t.Errorf("generated: %q", generated)
	}
	expect(t, "what was generated", tool("get_value_from_secret LIVEKIT_API_KEY"), generated)
	if value := tool("store_secret generate MONGO_ADMIN_PASSWORD"); len(value) != 44 {
		t.Errorf("generated: %q", value)
	}
	if _, err := call(t, root, "master", "main tool store_secret save MINIO_SECRET_KEY \"it's a \\`\""); err == nil {
		t.Error("what cannot be written into the configuration was stored")
	}

	write(t, env, "DOMAIN_NAME=old.example.com\nLIVEKIT_API_KEY=\nENABLED_MODULES=a,b # c\nGRAFANA_ADMIN_PASSWORD=\"it's \\\"5\\$\\\"\"\nMINIO_ACCESS_KEY=\n")
	expect(t, "a value of the configuration", tool("get_value_from_config GRAFANA_ADMIN_PASSWORD "+env), `it's "5$"`)
	expect(t, "an empty value", tool("get_value_from_config MINIO_ACCESS_KEY "+env), "none")
	tool("update_secret_from_config")
	secret := secretOf(t, root, "main")
	for key, want := range map[string]string{"DOMAIN_NAME": "old.example.com", "ENABLED_MODULES": "a,b", "GRAFANA_ADMIN_PASSWORD": `it's "5$"`, "LIVEKIT_API_KEY": generated, "MINIO_ACCESS_KEY": "kept", "REDIS_PASSWORD": "r"} {
		expect(t, key, secret[key], want)
	}
	tool("store_secret save DOMAIN_NAME new.example.com")
	tool("restart")
	if !strings.HasPrefix(read(t, env), "DOMAIN_NAME=new.example.com\nLIVEKIT_API_KEY="+generated+"\n") {
		t.Errorf("the configuration is\n%s", read(t, env))
	}
	expect(t, "the dashboard's address", secretOf(t, root, "main")["DASHBOARD_URL"], "https://new.example.com/dashboard/")
	expect(t, "what systemd was told", read(t, filepath.Join(root, "systemctl")), "restart openvidu\n")

	// A secret that cannot be read stops nothing.
	if _, err := call(t, root, "master", "fetch_secret() { return 1; }; main tool restart"); err == nil {
		t.Error("it restarted without the secret, and did not say so")
	}
	expect(t, "what systemd was told without a secret", read(t, filepath.Join(root, "systemctl")), "restart openvidu\n")
}

// Neither does a damaged secret damage the other, nor does the version before it, the way back, lose its place.
func TestMastersHandNoLossOn(t *testing.T) {
	root := secretNode(t, `{"REDIS_PASSWORD":"","OPENVIDU_VERSION":null,"INSTALLER_MEDIA_3.9.0":"sum"}`, `{"REDIS_PASSWORD":"good","OPENVIDU_VERSION":"3.9.0"}`)
	if _, err := call(t, root, "master", "fetch_secret && share"); err != nil {
		t.Error(err)
	}
	expect(t, "what Media Nodes read", fmt.Sprint(secretOf(t, root, "media")), "map[INSTALLER_MEDIA_3.9.0:sum OPENVIDU_VERSION:3.9.0 REDIS_PASSWORD:good]")
	if _, err := call(t, root, "master", "main tool store_secret save KEY value"); err == nil {
		t.Error("a value was stored in a damaged secret")
	}
	expect(t, "the version of the damaged secret", strings.TrimSpace(read(t, filepath.Join(root, "secrets/main/current"))), "v0")
}

// A service that needs the library, without it, is no failure of the node; and a program of the same name is not its service.
func TestServicesWaitForTheirLibrary(t *testing.T) {
	root := testNode(t, map[string]string{"watch": `touch "$ROOT/ran"`, "curl": `touch "$ROOT/told"`, "aws": `touch "$ROOT/told"`})
	output, err := call(t, root, "media", "export ROOT; unset -f watch; known_library() { return 1; }; main watch")
	if err == nil || strings.Contains(output, "ready") {
		t.Errorf("%q, %v", output, err)
	}
	for _, name := range []string{"ran", "told"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("the program of that name %s", name)
		}
	}
}

// Rounds of the watchdog are 20 seconds; each word of the story is so many of one kind: 50:0 are 50 healthy ones, 15:7 are 15 with curl's code 7.
func TestWatchdogReplacesANodeWhoseMediaServerIsDead(t *testing.T) {
	for name, c := range map[string]struct {
		story   string
		version string
		lines   string
		asked   int
	}{
		"refuses connections for 5 minutes":       {"46:0 15:7", "3.9.0", "", 1},
		"or not so long":                          {"46:0 14:7 1:0 14:7", "3.9.0", "", 0},
		"answers with errors for 10 minutes":      {"46:0 20:22 10:28", "3.9.0", "", 1},
		"or not so long, with errors":             {"46:0 29:22 1:0 29:28", "3.9.0", "", 0},
		"now this, now that":                      {"46:0 10:22 10:7 10:22", "3.9.0", "", 1},
		"while the CPU has no time to spare":      {"46:0 60:28", "3.9.0", "busy() { :; }", 0},
		"refused connections count even then":     {"46:0 15:7", "3.9.0", "busy() { :; }", 1},
		"in the first 15 minutes":                 {"45:7", "3.9.0", "", 0},
		"and after them":                          {"60:7", "3.9.0", "", 1},
		"after a restart of OpenVidu":             {"46:0 40:7", "3.9.0", "systemctl() { [[ $1 != show ]] || echo $((n < 50)); }", 0},
		"while no master answers":                 {"46:0 40:7", "3.9.0", "masters_answer() { return 1; }", 0},
		"while it drains":                         {"46:0 40:7", "3.9.0", "terminating() { :; }", 0},
		"while OpenVidu is stopped":               {"46:0 40:7", "3.9.0", "systemctl() { [[ $1 == show ]] && echo 1; }", 0},
		"in a release that has a watchdog itself": {"46:0 40:7", "3.10.0", "", 0},
		"in a later one":                          {"46:0 40:7", "4.0.1", "", 0},
		"without a known release":                 {"46:0 15:7", "", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := testNode(t, map[string]string{"aws": `[[ $* != *set-instance-health*Unhealthy* ]] || echo "$*" >>"${0%/*}/../asked"`})
			if c.version != "" {
				write(t, filepath.Join(root, "openvidu/deployment-info.yaml"), "version: \""+c.version+"\"\n")
			}
			write(t, filepath.Join(root, "asked"), "")
			_, err := call(t, root, "media", `n=0 codes=()
for word in `+c.story+`; do for ((i = 0; i < ${word%:*}; i++)); do codes+=("${word#*:}"); done; done
sleep() { ((n++ < ${#codes[@]})); }
imds() { echo i-1; }
curl() { return "${codes[n-1]}"; }
systemctl() { [[ $1 != show ]] || echo 1; }
masters_answer() { :; }
terminating() { return 1; }
ship_log() { :; }
busy() { return 1; }
`+c.lines+"\nwatch")
			if err != nil {
				t.Log(err)
			}
			if asked := strings.Count(read(t, filepath.Join(root, "asked")), "\n"); asked != c.asked {
				t.Errorf("it asked %d times, want %d: %s", asked, c.asked, read(t, filepath.Join(root, "raw")))
			}
		})
	}
	// Sums that have more than 31 bits, with whatever awk the node has.
	root := testNode(t, nil)
	write(t, filepath.Join(root, "stat"), "cpu 9000000000 0 0 4000000000 0 0 0 0 0 0\n")
	output, err := call(t, root, "media", `eval "$(declare -f busy | sed "s#/proc/stat#$ROOT/stat#")"; BUSY=(3999999990 12999999900); if busy; then echo busy; else echo "idle ${BUSY[*]}"; fi`)
	if err != nil || output != "idle 4000000000 13000000000\n" {
		t.Errorf("%q, %v", output, err)
	}
	output, err = call(t, root, "media", "busy || :; BUSY=(0 0); if busy; then echo busy; else echo idle; fi; all=${BUSY[1]}; BUSY=(${BUSY[0]} 0); if busy; then echo busy; fi")
	if err != nil || !strings.HasSuffix(output, "busy\n") {
		t.Errorf("%q, %v", output, err)
	}
}

func TestInstallersOfAReleaseStayTheSame(t *testing.T) {
	setUp := func(t *testing.T) string {
		root := secretNode(t, `{"OPENVIDU_VERSION":"3.9.0","REDIS_PASSWORD":"r"}`, `{"OPENVIDU_VERSION":"3.9.0","REDIS_PASSWORD":"r"}`)
		aws := read(t, filepath.Join(root, "bin/aws"))
		write(t, filepath.Join(root, "bin/aws"), strings.Replace(aws, "\n", "\n[[ $1 != cloudwatch ]] || { echo \"$*\" >>\"${0%/*}/../metrics\"; exit; }\n", 1))
		write(t, filepath.Join(root, "metrics"), "")
		return root
	}
	install := func(t *testing.T, root, role, arn, published, lines string) (string, error) {
		return call(t, root, role, "SECRET_ARN="+arn+" RELEASE=3.9.0\ndownload() { echo \"# $1 "+published+"\" >\"$2\"; }\n"+lines+`
fetch_secret
note_installers
fetch_installer `+role+`
same_installer `+role+` 2>&1`)
	}
	metrics := func(t *testing.T, root string) int {
		return strings.Count(read(t, filepath.Join(root, "metrics")), "InstallerChanged")
	}
	t.Run("the first master notes both, Media Nodes see theirs", func(t *testing.T) {
		root := setUp(t)
		for range 2 {
			if said, err := install(t, root, "master", "arn:main", "first", ""); err != nil || said != "" {
				t.Fatalf("%v: %s", err, said)
			}
		}
		media := secretOf(t, root, "media")
		if len(media["INSTALLER_MEDIA_3.9.0"]) != 64 || media["INSTALLER_MASTER_3.9.0"] == media["INSTALLER_MEDIA_3.9.0"] {
			t.Errorf("Media Nodes read %v", media)
		}
		if said, err := install(t, root, "media", "arn:media", "first", ""); err != nil || said != "" {
			t.Errorf("%v: %s", err, said)
		}
		expect(t, "metrics", fmt.Sprint(metrics(t, root)), "0")
	})
	t.Run("another one is told, and refused where that is asked for", func(t *testing.T) {
		root := setUp(t)
		if _, err := install(t, root, "master", "arn:main", "first", ""); err != nil {
			t.Fatal(err)
		}
		noted := secretOf(t, root, "main")["INSTALLER_MEDIA_3.9.0"]
		said, err := install(t, root, "media", "arn:media", "second", "")
		if err != nil || !strings.Contains(said, "noted is "+noted) || metrics(t, root) != 1 {
			t.Errorf("%v, %d metrics: %s", err, metrics(t, root), said)
		}
		said, err = install(t, root, "media", "arn:media", "second", "REQUIRE_SAME_INSTALLER=true")
		if err == nil || !strings.Contains(said, "take INSTALLER_MEDIA_3.9.0 out of the secret") || metrics(t, root) != 2 {
			t.Errorf("%v, %d metrics: %s", err, metrics(t, root), said)
		}
		expect(t, "what is noted", secretOf(t, root, "main")["INSTALLER_MEDIA_3.9.0"], noted)
	})
	t.Run("a Media Node that boots first waits for the note", func(t *testing.T) {
		root := setUp(t)
		if said, err := install(t, root, "media", "arn:media", "first", "REQUIRE_SAME_INSTALLER=true"); err == nil {
			t.Errorf("it went on: %s", said)
		}
		if said, err := install(t, root, "media", "arn:media", "first", ""); err != nil || said != "" {
			t.Errorf("%v: %s", err, said)
		}
	})
}

func TestKeysAreThoseThatAreKnown(t *testing.T) {
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		t.Fatal("gpg is missing: apt-get install gpg")
	}
	root := testNode(t, nil)
	run := func(home string, arguments ...string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, home), 0o700); err != nil {
			t.Fatal(err)
		}
		output, err := exec.Command(gpg, append([]string{"--homedir", filepath.Join(root, home), "--batch", "--passphrase", "", "-q"}, arguments...)...).Output()
		if err != nil {
			t.Fatal(arguments, err)
		}
		return string(output)
	}
	served := filepath.Join(root, "served")
	fingerprints := map[string]string{}
	for _, name := range []string{"own", "other"} {
		run(name, "--quick-gen-key", name, "ed25519", "sign", "never")
		write(t, served+name, run(name, "--armor", "--export"))
		for _, line := range strings.Split(run(name, "--with-colons", "--list-keys"), "\n") {
			if fields := strings.Split(line, ":"); fields[0] == "fpr" && fingerprints[name] == "" {
				fingerprints[name] = fields[9]
			}
		}
		t.Cleanup(func() {
			_ = exec.Command("gpgconf", "--homedir", filepath.Join(root, name), "--kill", "gpg-agent").Run()
		})
	}
	write(t, served+"both", read(t, served+"own")+read(t, served+"other"))
	write(t, served+"deb", "package")
	write(t, served+"forged", "another")
	for _, name := range []string{"own", "other"} {
		run(name, "--detach-sign", "-o", served+name+".sig", served+"deb")
	}
	for name, good := range map[string]bool{"own": true, "other": false, "both": false, "deb": false} {
		_, err := call(t, root, "media", "mkdir -p -m 700 $STATE/gpg; download() { cp \"$1\" \"$2\"; }; trusted_key "+served+name+" $ROOT/key "+fingerprints["own"])
		if (err == nil) != good {
			t.Errorf("a file with the key %s: %v", name, err)
		}
	}
	for _, c := range []struct {
		key, deb, signature string
		good                bool
	}{{"own", "deb", "own", true}, {"own", "forged", "own", false}, {"own", "deb", "other", false}, {"other", "deb", "other", false}} {
		_, err := call(t, root, "media", `rm -rf $STATE/gpg; dpkg() { echo amd64; }; package=$ROOT/package AGENT_KEY=`+fingerprints["own"]+`
download() {
  case $1 in
    *.gpg) cp `+served+c.key+` "$2" ;;
    *.deb) cp `+served+c.deb+` "$2" ;;
    *.sig) cp `+served+c.signature+`.sig "$2" ;;
  esac
}
signed_agent https://bucket.test || exit 1`)
		_ = exec.Command("gpgconf", "--homedir", filepath.Join(root, "state/gpg"), "--kill", "all").Run()
		if (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Root runs the library: what the parameters hold counts only when it is what the user data expects.
func TestLibraryIsTheOneThatTheUserDataExpects(t *testing.T) {
	whole := strings.Join(Media.Library, "")
	for name, c := range map[string]struct {
		parts []string
		want  string
	}{
		"as it was made": {Media.Library, "yes yes"},
		"another":        {[]string{mustEncode(t, "touch $ROOT/evil\n")}, "no no"},
		"cut off":        {[]string{whole[:len(whole)/2]}, "no no"},
		"too much":       {append(slices.Clone(Media.Library), mustEncode(t, "touch $ROOT/evil\n")), "no no"},
		"absent":         {[]string{Media.Library[0], "NotFound"}, "no no"},
	} {
		t.Run(name, func(t *testing.T) {
			root := testNode(t, map[string]string{"aws": `[[ $1-$2 == ssm-get-parameter ]] && [[ ! $(<"$ROOT${4}") == NotFound ]] && cat "$ROOT$4"`})
			if err := os.Mkdir(filepath.Join(root, "library"), 0o755); err != nil {
				t.Fatal(err)
			}
			for i, part := range c.parts {
				write(t, filepath.Join(root, "library", fmt.Sprint(i+1)), part+"\n")
			}
			got, _ := call(t, root, "media", fmt.Sprintf(`export ROOT
LIBRARY_SHA256=%s LIBRARY_PARTS=%d LOADED=$STATE/library.sh
unset -f watch
unit() { :; }
loaded=no known=no
load_library && declare -F watch >/dev/null && loaded=yes
known_library && known=yes
[[ ! -e $ROOT/evil ]] || loaded=evil
echo "$loaded $known"`, Media.Sum, len(c.parts)))
			expect(t, "loaded and known", strings.TrimSpace(got), c.want)
		})
	}
}

func mustEncode(t *testing.T, script string) string {
	t.Helper()
	text, err := packed.Encode(script)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
