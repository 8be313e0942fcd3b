// Command publish uploads the synthesized template to an S3 bucket, for others to deploy from: once under its version, and
// as latest when no stable release in the bucket is newer. It runs cfn-lint and the AWS CLI, with the CLI's own credentials.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/openvidu-ha/openvidu-ha/internal/partition"
)

const file = "openvidu-ha.template.json"

func main() {
	var p publisher
	flag.StringVar(&p.bucket, "bucket", "", "bucket to upload to")
	flag.StringVar(&p.prefix, "prefix", "", "folder in the bucket")
	flag.StringVar(&p.endpoint, "endpoint", "", "address of an S3-compatible service other than Amazon's")
	flag.StringVar(&p.parameters, "parameters", "", "JSON file of values that the quick-create link fills in")
	flag.StringVar(&p.changelog, "changelog", "", "the changelog, by which a version that is not released yet is refused")
	flag.StringVar(&p.template, "template", "cdk.out/OpenViduHA.template.json", "the synthesized template")
	flag.Parse()
	p.out = os.Stdout
	if err := p.publish(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type publisher struct {
	bucket, prefix, endpoint, parameters, template, changelog string

	out io.Writer
}

func (p publisher) publish() error {
	if p.bucket == "" {
		return errors.New("no bucket is given: make publish BUCKET=name [PREFIX=path] [ENDPOINT=url] [PARAMETERS=file]")
	}
	p.prefix = strings.Trim(p.prefix, "/")
	content, err := os.ReadFile(p.template)
	if err != nil {
		return fmt.Errorf("%w: synthesize it first, with go run", err)
	}
	var t template
	if err := json.Unmarshal(content, &t); err != nil {
		return fmt.Errorf("%s: %w", p.template, err)
	}
	version := t.Metadata.OpenViduHA.Version
	if semver.Canonical("v"+version) != "v"+version {
		return fmt.Errorf("%s: its version is %q: give one like 1.2.3 or 1.2.3-rc.1 in version.go", p.template, version)
	}
	if err := released(p.changelog, version); err != nil {
		return err
	}
	values, own, err := t.values(p.parameters)
	if err != nil {
		return err
	}
	if len(own) > 0 {
		p.say("not in the link, since they are this account's own: %s", strings.Join(own, ", "))
	}
	if output, err := exec.Command("cfn-lint", p.template).CombinedOutput(); err != nil {
		return fmt.Errorf("cfn-lint %s: %w; nothing was uploaded\n%s", p.template, err, output)
	}

	present, err := p.list()
	if err != nil {
		return err
	}
	key := path.Join(p.prefix, version, file)
	if slices.Contains(present, key) {
		published, err := p.download(key)
		if err != nil {
			return err
		}
		if !bytes.Equal(published, content) {
			return taken(p.bucket, key)
		}
		p.say("s3://%s/%s is there already, with the same content", p.bucket, key)
	} else if err := p.upload(key, content, true); err != nil {
		return err
	}

	newest := newestStable(append(present, key), p.prefix)
	if newest == version {
		if err := p.upload(path.Join(p.prefix, "latest", file), content, false); err != nil {
			return err
		}
	} else {
		p.say("latest stays at %s", cmp.Or(newest, "nothing: no stable release is here"))
	}
	return p.link(key, values)
}

func (p publisher) say(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format+"\n", args...) }

func taken(bucket, key string) error {
	return fmt.Errorf("s3://%s/%s is there already, with other content. A published version never changes: raise it in version.go, "+
		"say in CHANGELOG.md what is new, and publish that", bucket, key)
}

// released is an error for a stable version whose section of the changelog has no date. Once published, it could not change any more,
// and would be what everybody gets as latest.
func released(changelog, version string) error {
	if changelog == "" || semver.Prerelease("v"+version) != "" {
		return nil
	}
	content, err := os.ReadFile(changelog)
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(content), "\n") {
		if rest, ok := strings.CutPrefix(line, "## ["+version+"] - "); ok {
			if rest == "Unreleased" {
				return fmt.Errorf("%s: %s is not released yet: set its date, or publish %s-rc.1 (version.go)", changelog, version, version)
			}
			return nil
		}
	}
	return fmt.Errorf("%s: it has no section of %s", changelog, version)
}

// newestStable of the versions that are published under the prefix; "" if there is none.
func newestStable(keys []string, prefix string) string {
	newest := ""
	for _, key := range keys {
		version := "v" + path.Base(path.Dir(key))
		if path.Join(prefix, version[1:], file) == key && semver.Prerelease(version) == "" && semver.Compare(version, newest) > 0 {
			newest = version
		}
	}
	return strings.TrimPrefix(newest, "v")
}

// link says where the template is, and how to begin a stack of it in the console.
func (p publisher) link(key string, values map[string]string) error {
	if p.endpoint != "" {
		p.say("%s/%s/%s", strings.TrimSuffix(p.endpoint, "/"), p.bucket, key)
		p.say("CloudFormation reads templates from Amazon S3 alone, so there is no quick-create link for this endpoint.")
		return nil
	}
	output, err := p.s3("get-bucket-location", "--query", "LocationConstraint", "--output", "text")
	if err != nil {
		return err
	}
	region := strings.TrimSpace(string(output))
	switch region { // as S3 has it since before regions had their names
	case "None", "null", "":
		region = "us-east-1"
	case "EU":
		region = "eu-west-1"
	}
	p.say("Whoever may read the bucket creates a stack here:")
	p.say("%s", quickCreate(region, p.bucket, key, values))
	return nil
}

// quickCreate is the address of the console's page that creates a stack of the template, with its form filled in.
func quickCreate(region, bucket, key string, values map[string]string) string {
	in := partition.Of(region)
	object := fmt.Sprintf("https://%s.s3.%s.%s/%s", bucket, region, in.Suffix, key)
	if strings.Contains(bucket, ".") { // no certificate of S3 covers such a host
		object = fmt.Sprintf("https://s3.%s.%s/%s/%s", region, in.Suffix, bucket, key)
	}
	query := url.Values{"templateURL": {object}, "stackName": {"openvidu"}}
	for name, value := range values {
		query.Set("param_"+name, value)
	}
	// The console reads %20, but leaves + as it is.
	return fmt.Sprintf("https://%s.%s/cloudformation/home?region=%s#/stacks/quickcreate?%s",
		region, in.Console, region, strings.ReplaceAll(query.Encode(), "+", "%20"))
}

// template is what publishing needs to know of one.
type template struct {
	Metadata   struct{ OpenViduHA struct{ Version string } }
	Parameters map[string]parameter
}

type parameter struct {
	NoEcho bool
	Type   string
}

// ownParameters are those of whoever deploys: names of what exists in one account. Who follows a link has others.
var ownParameters = []string{
	"DomainName", "OpenViduCertificateARN", "HostedZoneId", "SshAccessCidr", "LoadBalancerSubnets", "TurnDomainName", "TurnCertificateARN",
	"S3AppDataBucketName", "S3ClusterDataBucketName", "VolumeSnapshotIds", "RestoredSharedInfoArn", "AlarmTopicArn", "KmsKeyArn",
}

func (p parameter) own(name, value string) bool {
	if name == "AmiId" { // by default an image of everybody's
		return !strings.HasPrefix(value, "/aws/service/")
	}
	return strings.Contains(p.Type, "AWS::EC2::") || slices.Contains(ownParameters, name)
}

// values of parameters for the link, from a file as the AWS CLI takes it too, and the names of those that are left out; without a
// file there are none.
func (t template) values(name string) (values map[string]string, own []string, err error) {
	if name == "" {
		return nil, nil, nil
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	var given struct{ Parameters map[string]string }
	if err := json.Unmarshal(content, &given); err != nil {
		return nil, nil, fmt.Errorf(`%s: %w: give {"Parameters": {"Name": "value"}}, every value in quotes`, name, err)
	}
	var wrong []error
	values = map[string]string{}
	for parameter, value := range given.Parameters {
		if known, ok := t.Parameters[parameter]; !ok {
			wrong = append(wrong, fmt.Errorf("%s: the template has no parameter %s", name, parameter))
		} else if known.NoEcho {
			wrong = append(wrong, fmt.Errorf("%s: %s is secret, and the link would show it: take it out", name, parameter))
		} else if known.own(parameter, value) {
			own = append(own, parameter)
		} else {
			values[parameter] = value
		}
	}
	slices.Sort(own)
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return values, own, errors.Join(wrong...)
}

// list gives the keys of what is published under the prefix.
func (p publisher) list() ([]string, error) {
	under := p.prefix
	if under != "" {
		under += "/"
	}
	output, err := p.s3("list-objects-v2", "--prefix", under, "--query", "Contents[].Key", "--output", "json")
	if err != nil || len(bytes.TrimSpace(output)) == 0 {
		return nil, err
	}
	var keys []string
	return keys, json.Unmarshal(output, &keys)
}

// upload and compare what is there then. A version is only written where nothing is: whoever came first keeps it.
func (p publisher) upload(key string, content []byte, once bool) error {
	put := []string{"--key", key, "--body", p.template, "--content-type", "application/json"}
	var err error
	if once {
		_, err = p.s3("put-object", append(put, "--if-none-match", "*")...)
		if errors.Is(err, errTaken) {
			return taken(p.bucket, key)
		}
	}
	if !once || errors.Is(err, errNotImplemented) { // then the look before has to do
		_, err = p.s3("put-object", put...)
	}
	if err != nil {
		return err
	}
	stored, err := p.download(key)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, content) {
		return fmt.Errorf("s3://%s/%s: read back, it has other content than %s: delete it and publish again", p.bucket, key, p.template)
	}
	p.say("s3://%s/%s uploaded, read back, the same", p.bucket, key)
	return nil
}

func (p publisher) download(key string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "openvidu-publish")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, file)
	if _, err := p.s3("get-object", "--key", key, name); err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

var (
	errTaken          = errors.New("something is there already")
	errNotImplemented = errors.New("the service knows no conditional writes")
)

// s3 runs the AWS CLI on the bucket.
func (p publisher) s3(command string, args ...string) ([]byte, error) {
	args = append([]string{"s3api", command, "--bucket", p.bucket}, args...)
	if p.endpoint != "" {
		args = append(args, "--endpoint-url", p.endpoint)
	}
	run := exec.Command("aws", args...)
	run.Env = append(os.Environ(), "AWS_PAGER=")
	var problem bytes.Buffer
	run.Stderr = &problem
	output, err := run.Output()
	if err == nil {
		return output, nil
	}
	text := strings.TrimSpace(problem.String())
	switch {
	case strings.Contains(text, "(PreconditionFailed)"):
		err = errTaken
	case strings.Contains(text, "(NotImplemented)"):
		err = errNotImplemented
	}
	return nil, fmt.Errorf("aws %s: %w\n%s", strings.Join(args, " "), err, text)
}
