// Package readme_test runs the commands that the documentation tells people to run, as they stand there: the real AWS CLI, CDK
// CLI and make, against a moto server with a stand-in for CloudFormation.
package readme_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/lab/internal/moto"
)

const repository = "../.."

var (
	server    string // moto's address
	endpoint  string // of all services: CloudFormation's stand-in, moto behind it
	formation = &cloudFormation{stacks: map[string]*stack{
		// A bootstrapped account: of its stack, the CDK CLI reads where to upload.
		"CDKToolkit": {status: "CREATE_COMPLETE", outputs: map[string]string{
			"BucketName": toolkitBucket, "BucketDomainName": toolkitBucket + ".s3.eu-west-1.amazonaws.com", "BootstrapVersion": "99"}},
	}}
)

const toolkitBucket = "cdk-toolkit"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	address, stop, err := moto.Start()
	must(err)
	defer stop()
	server = address
	front := httptest.NewServer(formation)
	defer front.Close()
	// By its name: with an address of digits, clients do not put a bucket's name before it.
	endpoint = strings.Replace(front.URL, "127.0.0.1", "localhost", 1)
	for key, value := range map[string]string{
		"AWS_ENDPOINT_URL":     endpoint,
		"CDK_REQUIRE_APPROVAL": "never", // there is no terminal to ask
	} {
		must(os.Setenv(key, value))
	}
	return m.Run()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// pass a request on to moto.
func pass(w http.ResponseWriter, r *http.Request, body []byte) {
	request, err := http.NewRequest(r.Method, server+r.URL.RequestURI(), bytes.NewReader(body))
	must(err)
	request.Header, request.Host = r.Header.Clone(), r.Host
	response, err := http.DefaultTransport.RoundTrip(request)
	must(err)
	defer response.Body.Close()
	for key, values := range response.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}

// block of commands that stands in the documentation behind <!-- ci: NAME -->.
func block(t *testing.T, name string) string {
	t.Helper()
	command := exec.Command("go", "run", "./internal/blocks", name)
	command.Dir = repository
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return string(output)
}

// shell runs commands in a folder, with an environment and what a person types; it gives what they printed.
func shell(t *testing.T, folder, typed, commands string, environment ...string) string {
	t.Helper()
	command := exec.Command("bash", "-euo", "pipefail", "-c", commands)
	command.Dir, command.Stdin, command.Env = folder, strings.NewReader(typed), append(os.Environ(), environment...)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", commands, err, output)
	}
	return string(output)
}

// aws calls the AWS CLI as the account's owner would, for what must be there before.
func aws(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := exec.Command("aws", arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("aws %v: %v\n%s", arguments, err, output)
	}
	return strings.TrimSpace(string(output))
}

const license = "licence of four words"

// deployed checks what reached CloudFormation: the program's template, by a bucket, and the values of the README.
func deployed(t *testing.T, name string) {
	t.Helper()
	s := formation.stacks[name]
	if s == nil || s.status != "CREATE_COMPLETE" {
		t.Fatalf("stack %s: %+v", name, s)
	}
	if s.inline || !s.keepsWhatFailed {
		t.Errorf("%s: template inline %v, what failed is kept %v", name, s.inline, s.keepsWhatFailed)
	}
	for parameter, want := range map[string]string{
		"DomainName": "openvidu.example.com", "OpenViduLicense": strings.ReplaceAll(license, " ", "-"), "KeyName": "my-key",
		"OpenViduMasterNodeSubnets": "subnet-0aaaaaaaaaaaaaaaa,subnet-0bbbbbbbbbbbbbbbb,subnet-0cccccccccccccccc",
	} {
		if got := s.parameters[parameter]; got != want {
			t.Errorf("%s: %s is %q, want %q", name, parameter, got, want)
		}
	}
}

func TestDeployWithTheAwsCli(t *testing.T) {
	aws(t, "s3", "mb", "s3://mine")
	shell(t, repository, strings.ReplaceAll(license, " ", "-")+"\n", block(t, "license")+"\n"+block(t, "values")+block(t, "deploy-aws"), "BUCKET=mine")
	deployed(t, "openvidu")
	outputs := shell(t, repository, "", block(t, "outputs"))
	for _, name := range []string{"LoadBalancerDNS", "ServicesAndCredentials", "MasterNodeZones"} {
		if !strings.Contains(outputs, "value of "+name) {
			t.Errorf("the outputs do not tell %s:\n%s", name, outputs)
		}
	}
}

func TestDeployWithTheCdkCli(t *testing.T) {
	aws(t, "s3", "mb", "s3://"+toolkitBucket)
	shell(t, repository, strings.ReplaceAll(license, " ", "-")+"\n", block(t, "license")+"\n"+block(t, "values")+block(t, "deploy-cdk"))
	deployed(t, "OpenViduHA")
	if !formation.stacks["OpenViduHA"].protected {
		t.Error("the stack may be deleted by mistake")
	}

	// make deploy is the same command; the licence key reaches the CDK CLI by the environment.
	delete(formation.stacks, "OpenViduHA")
	printed := shell(t, repository, "", "make deploy PARAMETERS=docs/parameters.example.json FLAGS=--no-rollback",
		"OPENVIDU_LICENSE="+strings.ReplaceAll(license, " ", "-"))
	deployed(t, "OpenViduHA")
	if !formation.stacks["OpenViduHA"].protected || strings.Contains(printed, strings.ReplaceAll(license, " ", "-")) {
		t.Errorf("make deploy: protected %v\n%s", formation.stacks["OpenViduHA"].protected, printed)
	}
}

func TestPublish(t *testing.T) {
	values := filepath.Join(repository, "my.json")
	if _, err := os.Stat(values); err == nil {
		t.Fatalf("%s is there; the command needs one of its own", values)
	}
	example, err := os.ReadFile(filepath.Join(repository, "docs", "parameters.example.json"))
	must(err)
	must(os.WriteFile(values, example, 0o600))
	t.Cleanup(func() { must(os.Remove(values)) })
	aws(t, "s3", "mb", "s3://my-templates")
	// As on the day of the release: what has no date yet is refused.
	content, err := os.ReadFile(filepath.Join(repository, "CHANGELOG.md"))
	must(err)
	changelog := filepath.Join(t.TempDir(), "CHANGELOG.md")
	must(os.WriteFile(changelog, bytes.ReplaceAll(content, []byte("- Unreleased"), []byte("- 2026-11-24")), 0o600))
	printed := shell(t, repository, "", block(t, "publish"), "CHANGELOG="+changelog)
	template, err := os.ReadFile(filepath.Join(repository, "cdk.out", "OpenViduHA.template.json"))
	must(err)
	var synthesized struct {
		Description string
		Metadata    struct{ OpenViduHA struct{ Version string } }
	}
	must(json.Unmarshal(template, &synthesized))
	version := synthesized.Metadata.OpenViduHA.Version
	if !strings.Contains(synthesized.Description, " "+version) {
		t.Errorf("version %q is not in the description %q", version, synthesized.Description)
	}
	for _, folder := range []string{version, "latest"} {
		if aws(t, "s3", "cp", "--quiet", "s3://my-templates/openvidu/"+folder+"/openvidu-ha.template.json", "-") != strings.TrimSpace(string(template)) {
			t.Errorf("what is published as %s is not what was synthesized", folder)
		}
	}
	for _, want := range []string{
		"https://eu-west-1.console.aws.amazon.com/cloudformation/home?region=eu-west-1#/stacks/quickcreate?",
		"param_MediaNodeInstanceType=c6a.2xlarge",
		"not in the link, since they are this account's own: DomainName, KeyName, OpenViduCertificateARN, OpenViduMasterNodeSubnets, OpenViduMediaNodeSubnets, OpenViduVPC",
		"templateURL=" + url.QueryEscape("https://my-templates.s3.eu-west-1.amazonaws.com/openvidu/"+version+"/openvidu-ha.template.json"),
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("no %s in\n%s", want, printed)
		}
	}
	if strings.Contains(printed, "param_OpenViduVPC") || strings.Contains(printed, "vpc-") {
		t.Errorf("the link holds what is the publisher's own:\n%s", printed)
	}
}

func TestSecretIsCopied(t *testing.T) {
	t.Parallel()
	const content = `{"DOMAIN_NAME": "openvidu.example.com", "PASSWORD": "it's \"one\""}`
	arn := aws(t, "secretsmanager", "create-secret", "--name", "of-the-stack", "--secret-string", content, "--query", "ARN", "--output", "text")
	folder := t.TempDir()
	shell(t, folder, "", block(t, "copy-secret"), "SECRET="+arn)
	if got := aws(t, "secretsmanager", "get-secret-value", "--secret-id", "openvidu-old", "--query", "SecretString", "--output", "text"); got != content {
		t.Errorf("the copy is %s", got)
	}
	if left, _ := os.ReadDir(folder); len(left) > 0 {
		t.Errorf("%s is left behind, with credentials", left[0].Name())
	}
}

func TestSnapshotsAreFoundWithTheirAddresses(t *testing.T) {
	t.Parallel()
	volume := aws(t, "ec2", "create-volume", "--availability-zone", "eu-west-1a", "--size", "1", "--query", "VolumeId", "--output", "text")
	snapshot := func(tags ...string) string {
		return aws(t, append([]string{"ec2", "create-snapshot", "--volume-id", volume, "--query", "SnapshotId", "--output", "text"}, tags...)...)
	}
	first := snapshot("--tag-specifications", "ResourceType=snapshot,Tags=[{Key=Name,Value=n},{Key=OpenViduPrivateIp,Value=10.0.0.11}]")
	other := snapshot()
	second := snapshot("--tag-specifications", "ResourceType=snapshot,Tags=[{Key=OpenViduPrivateIp,Value=10.0.1.12}]")
	table := shell(t, t.TempDir(), "", block(t, "find-snapshots"))
	for id, ip := range map[string]string{first: "10.0.0.11", second: "10.0.1.12"} {
		row := ""
		for _, line := range strings.Split(table, "\n") {
			if strings.Contains(line, id) {
				row = line
			}
		}
		if !strings.Contains(row, ip) || !strings.Contains(row, "completed") {
			t.Errorf("%s, of %s, has the row %q", id, ip, row)
		}
	}
	if strings.Contains(table, other) {
		t.Error("a snapshot without the tag is listed")
	}
}

func TestMediaNodeIsEndedByItsGroup(t *testing.T) {
	t.Parallel()
	aws(t, "autoscaling", "create-launch-configuration", "--launch-configuration-name", "lc", "--image-id", "ami-12c6146b", "--instance-type", "c6a.xlarge")
	aws(t, "autoscaling", "create-auto-scaling-group", "--auto-scaling-group-name", "media", "--launch-configuration-name", "lc",
		"--min-size", "2", "--max-size", "5", "--availability-zones", "eu-west-1a")
	instances := func() []string {
		return strings.Fields(aws(t, "autoscaling", "describe-auto-scaling-groups", "--query", "AutoScalingGroups[0].Instances[].InstanceId", "--output", "text"))
	}
	before := instances()
	shell(t, t.TempDir(), "", block(t, "end-media-node"), "INSTANCE="+before[0])
	after := instances()
	if len(after) != 2 || strings.Contains(strings.Join(after, " "), before[0]) {
		t.Errorf("Media Nodes %v, then %v: one must be replaced", before, after)
	}
}
