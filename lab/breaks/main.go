// Command breaks spoils the synthesized template on purpose, one thing at a time, and runs the scenario of the lab that must
// then fail, for the reason it must fail for. It exits with 1 when a break survives. Run it in the lab's folder: make lab-breaks.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

// spoil is a break: either a text of the boot scripts, without comments and indentation, becomes another, or the template's resources change.
type spoil struct {
	name     string
	old, new string
	change   func(resources map[string]any) int // how many places were changed
	scenario string                             // as go test's -run takes it
	says     string                             // a regular expression for what the failure says
}

func statements(resources map[string]any, role, action string) int {
	changed := 0
	for _, policy := range cfn.List(cfn.At(resources[role], "Properties", "Policies")) {
		for _, statement := range cfn.List(cfn.At(policy, "PolicyDocument", "Statement")) {
			if cfn.At(statement, "Action") == action {
				statement.(map[string]any)["Action"] = "ec2:DescribeVolumes"
				changed++
			}
		}
	}
	return changed
}

var spoils = []spoil{
	{name: "source routing removed", old: `[[ -n $(ip rule show table 1777) ]] || ip rule add from "$FIXED_IP" table 1777 priority 1000 || [[ -n $(ip rule show table 1777) ]]`, new: ":",
		scenario: "TestMastersSpeakFromTheirFixedIps", says: `slot \d is ".*others ?[0-9. ]*", want`},
	{name: "marker written before the copy", old: `cp -a "$OPENVIDU/." "$STAGE/"`, new: `: >"$complete"; sync -f "$STAGE"; cp -a "$OPENVIDU/." "$STAGE/"`,
		scenario: "TestPowerCutsLoseNothing/first_life,_half-way", says: `files that were copied|slot 1 is|failed at line`},
	{name: "formatting without looking", old: `found=$(blkid -p -o export "$DEVICE") || code=$?`, new: `mkfs.xfs -q -f -L openvidu "$DEVICE";return`,
		scenario: "TestVolumesThatAreNotBlankAreLeftAsTheyAre/ext4|TestKilledMastersComeBack", says: `recording of slot \d is`},
	{name: "a drain without heartbeats", old: `hook record-lifecycle-action-heartbeat "$DRAIN_HOOK" || say 'heartbeat failed'`, new: ":",
		scenario: "TestMediaNodes/drain_waits", says: `CUT CALLS`},
	{name: "SIGQUIT not sent", old: `kill -QUIT "$pid"`, new: ":",
		scenario: "TestMediaNodes/drain_waits", says: `signals is`},
	{name: "errexit left on in the drain", old: "set +eu\n", new: "",
		scenario: "TestMediaNodes/drain_goes_on_while_systemctl", says: `CUT CALLS`},
	{name: "a boot that goes on beside the drain", old: "timeout 120 systemctl stop openvidu-node", new: ":",
		scenario: "TestMediaNodes/drain_during_the_boot", says: `the boot went on`},
	{name: "a node of the warm pool starts OpenVidu", old: `if [[ $PURPOSE == Warmed:* ]]; then`, new: "if false; then",
		scenario: "TestMediaNodes/warm_pool:_installed", says: `it was not only warmed`},
	{name: "a stopped node keeps its release", old: `outdated() { [[ -e $STATE/warm && `, new: `outdated() { [[ -z yes && `,
		scenario: "TestMediaNodes/warm_pool:_installed_anew", says: `downloads is "0"`},
	{name: "a node with calls gives its launch up", old: "! carrying || result=CONTINUE", new: ":",
		scenario: "TestMediaNodes/health_fails_after", says: `CUT CALLS`},
	{name: "a process left behind holds the boot", old: `bounded 900 bash -euo pipefail -c "$BEFORE_START"`, new: `bounded 900 bash -euo pipefail -c "$BEFORE_START" 2>&1 | redact`,
		scenario: "TestLinesBeforeStart/run", says: `it never came: slots ready`},
	{name: "what one's own lines print goes as it is", old: `redact >>"$LOG"`, new: `cat >>"$LOG"`,
		scenario: "TestLinesBeforeStart/run", says: `tells credentials`},
	{name: "passwords in errors are sent", old: `"://[^/ ]*:[^/ ]*@|access_token="`, new: `"nothing like that"`,
		scenario: "TestLogsOutliveTheirNodes/amzn", says: `tells a password`},
	{name: "lines of one's own are left out", old: "before_start() {\n[[ -z $BEFORE_START ]] || {", new: "before_start() {\n: || {",
		scenario: "TestLinesBeforeStart/run", says: `lines of \S+ is`},
	{name: "no agent", old: `sweep && start_agent; }`, new: `sweep; }`,
		scenario: "TestLogsOutliveTheirNodes/amzn", says: `it never came: the whole log of the boot`},
	{name: "settings of S3 are left out", old: `"${CLUSTER_KEYS[@]}" "${S3_KEYS[@]}"`, new: `"${CLUSTER_KEYS[@]}"`,
		scenario: "TestRecordingsInS3/in_new", says: `settings is ""`},
	{name: "old credentials are not read", scenario: "TestRestoreFromSnapshots", says: `of the restored cluster is another one`,
		change: func(resources map[string]any) int {
			variables, _ := cfn.At(resources["MasterInfoCredentials"], "Properties", "Environment", "Variables").(map[string]any)
			if variables["RESTORED_SECRET_ARN"] == nil {
				return 0
			}
			delete(variables, "RESTORED_SECRET_ARN")
			return 1
		}},
	{name: "Docker does not wait for the volume", old: `,x-systemd.required-by=docker.service`, new: "",
		scenario: "TestVolumeThatIsAbsentAtAReboot", says: `written to the root disk`},
	{name: "an installation counts by its exit code", old: "((code == 0)) || return \"$code\"\ncomplete\n", new: "return \"$code\"\n",
		scenario: "TestInstallationThatIsNotComplete/installer", says: `the reason lacks`},
	{name: "a signal is sent once", old: `retry 60 10 answered ' 40[34]'`, new: `retry 1 10 answered ' 40[34]'`,
		scenario: "TestSignalsAreRepeated/a_creation", says: `it never came: slots ready`},
	{name: "the shell traces", old: "set -Eeuo pipefail", new: "set -xEeuo pipefail",
		scenario: "TestTurnDomainReachesTheInstaller", says: `tells credentials`},
	{name: "the reason of a failure is not redacted", old: `redact | printable 300`, new: `printable 300`,
		scenario: "TestFaultsThatStayAreNamed/installer", says: `tells credentials|a credential left`},
	{name: "ready is said before health is known", old: "step healthy http://127.0.0.1:7880/health/caddy\nstep signal SUCCESS ready", new: "step signal SUCCESS ready\nstep healthy http://127.0.0.1:7880/health/caddy",
		scenario: "TestFaultsThatStayAreNamed/health$", says: `said that it is ready`},
	{name: "no waiting for the interface", old: "retry 90 10 attach_interface", new: "attach_interface",
		scenario: "TestKilledMastersComeBack", says: `attach_fixed_ip failed`},
	{name: "masters update without waiting for each other", scenario: "TestUpdateReplacesOneMasterAtATime", says: `slots \[\d \d.*were down at the same time`,
		change: func(resources map[string]any) int {
			changed := 0
			for id, resource := range resources {
				if !strings.HasPrefix(id, "OpenViduMasterNodeASG") {
					continue
				}
				var others []any
				for _, other := range cfn.List(cfn.At(resource, "DependsOn")) {
					if strings.HasPrefix(fmt.Sprint(other), "OpenViduMasterNodeASG") {
						changed++
					} else {
						others = append(others, other)
					}
				}
				resource.(map[string]any)["DependsOn"] = others
			}
			return changed - 2 // three links make the chain of four
		}},
	{name: "a deregistration delay of an hour", scenario: "TestDeregistrationHoldsTheNode", says: `waits 1h0m0s for its deregistration`,
		change: func(resources map[string]any) int {
			changed := 0
			for _, attribute := range cfn.List(cfn.At(resources["MainRtmp"], "Properties", "TargetGroupAttributes")) {
				if cfn.At(attribute, "Key") == "deregistration_delay.timeout_seconds" {
					attribute.(map[string]any)["Value"] = "3600"
					changed++
				}
			}
			return changed
		}},
	{name: "a port is missing", scenario: "TestPortsAreOpenAsDocumentedAndNoOthers", says: `from MasterSG to MediaSG arrive`,
		change: func(resources map[string]any) int {
			properties, ok := cfn.At(resources["MediaMediaFromMaster7880"], "Properties").(map[string]any)
			if !ok {
				return 0
			}
			properties["FromPort"], properties["ToPort"] = 7879, 7879
			return 1
		}},
	{name: "a rule too many", scenario: "TestPortsAreOpenAsDocumentedAndNoOthers", says: `from internet to MasterSG arrive`,
		change: func(resources map[string]any) int {
			resources["Open"] = map[string]any{"Type": "AWS::EC2::SecurityGroupIngress", "Properties": map[string]any{
				"GroupId": map[string]any{"Ref": "MasterSG"}, "IpProtocol": "tcp", "FromPort": 9100, "ToPort": 9100, "CidrIp": "0.0.0.0/0"}}
			return 1
		}},
	{name: "a setting that Compose cannot read", old: `then "\u0027\(.)\u0027"`, new: "then .",
		scenario: "TestRebootAppliesTheSecret", says: `password is`},
	{name: "a Docker older than the installer wants", old: `version=${wanted:+-$wanted}`, new: `version=-29.2.1`,
		scenario: "TestDockerIsWhatTheInstallerWants", says: `older than required version`},
	{name: "peers see a master's other address", old: `ip route replace "$ip" $hop dev "$DEV" src "$FIXED_IP"`, new: ":",
		scenario: "TestMastersSpeakFromTheirFixedIps", says: `peers of slot \d is|it never came: the other masters|Redis' replicas is`},
	{name: "a warm node does not wait for its metadata", old: `ask_purpose() { PURPOSE=$(retry 60 5 wanted); }`, new: `ask_purpose() { PURPOSE=$(wanted) || PURPOSE=InService; }`,
		scenario: "TestWarmPoolMetadata/no_metadata", says: `as if it were in service`},
	{name: "masters may not attach volumes", scenario: "TestTurnDomainReachesTheInstaller", says: `no role allows: .*AttachVolume on .*volume/`,
		change: func(resources map[string]any) int { return statements(resources, "MasterRole", "ec2:AttachVolume") }},
}

// spoilt gives the template with the break in it. A break that does not fit exactly once is an error: it would prove nothing.
func (b spoil) spoilt(content []byte) ([]byte, error) {
	var template cfn.Template
	if err := json.Unmarshal(content, &template); err != nil {
		return nil, err
	}
	places := 0
	if b.change != nil {
		places = b.change(template.Section("Resources"))
	} else {
		spoilt, err := packed.Rewrite(template, func(clear string) string {
			// What both kinds of nodes share is in the scripts, or libraries, of both.
			places = max(places, strings.Count(clear, b.old))
			return strings.ReplaceAll(clear, b.old, b.new)
		})
		if err != nil {
			return nil, err
		}
		template = spoilt
	}
	if places != 1 {
		return nil, fmt.Errorf("the break %q fits %d times, it must fit once", b.name, places)
	}
	return json.Marshal(template)
}

func main() {
	templateFile := flag.String("template", "../cdk.out/OpenViduHA.template.json", "the template to spoil")
	only := flag.String("run", "", "a regular expression for the names of breaks")
	flag.Parse()
	content, err := os.ReadFile(*templateFile)
	check(err)
	dir, err := os.MkdirTemp("", "openvidu-breaks")
	check(err)
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "lab.test")
	for _, command := range []*exec.Cmd{exec.Command("go", "test", "-c", "-o", binary, "."), exec.Command(binary, "-prepare")} {
		output, err := command.CombinedOutput()
		if err != nil {
			check(fmt.Errorf("%w: %s", err, output))
		}
	}
	fmt.Printf("%-46s %-66s %7s  %s\n", "break", "scenario that must fail", "seconds", "failed")
	var survivors int
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan bool, 3)
	for i, b := range spoils {
		if !regexp.MustCompile(*only).MatchString(b.name) {
			continue
		}
		text, err := b.spoilt(content)
		check(err)
		file := filepath.Join(dir, fmt.Sprint(i, ".json"))
		check(os.WriteFile(file, text, 0o600))
		all.Go(func() {
			slots <- true
			defer func() { <-slots }()
			start := time.Now()
			var output bytes.Buffer
			command := exec.Command(binary, "-test.run", b.scenario, "-test.timeout", "8m", "-patience", "100s", "-template", file)
			command.Stdout, command.Stderr = &output, &output
			failed := command.Run() != nil
			verdict := "yes"
			switch {
			case !failed:
				verdict = "NO"
			case !regexp.MustCompile("(?s)--- FAIL: .*").Match(output.Bytes()) || !regexp.MustCompile("(?s)"+b.says).Match(output.Bytes()):
				verdict = "NO, it failed for another reason:\n" + output.String()
			}
			mu.Lock()
			defer mu.Unlock()
			if verdict != "yes" {
				survivors++
			}
			fmt.Printf("%-46s %-66s %7.0f  %s\n", b.name, b.scenario, time.Since(start).Seconds(), verdict)
		})
	}
	all.Wait()
	if survivors > 0 {
		fmt.Println(survivors, "breaks survived")
		os.RemoveAll(dir)
		os.Exit(1)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
