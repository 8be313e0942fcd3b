package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/jsii-runtime-go"
	"mvdan.cc/sh/v3/syntax"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

// budget of the template, in bytes. .ci/run reads it here. CloudFormation takes 51,200 inline and 1 MB from a bucket; in between
// size means nothing to a user.
const budget = 262144

var (
	update      = flag.Bool("update", false, "write the golden template anew (and fail, so that nobody forgets to look)")
	userDataDir = flag.String("user-data", "", "write each node's resolved user data into this folder")

	synthesized cfn.Template
	written     []byte // the file
)

// TestMain synthesizes once: every synthesis of the whole app costs a second.
func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "openvidu-ha")
	if err == nil {
		app := newApp(dir)
		newStack(app, "OpenViduHA")
		app.Synth(nil)
		if written, err = os.ReadFile(filepath.Join(dir, "OpenViduHA.template.json")); err == nil {
			err = json.Unmarshal(written, &synthesized)
		}
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	jsii.Close()
	os.Exit(code)
}

// form is the contract with whoever fills the form.
var form = []struct {
	section    string
	parameters []string
}{
	{"Domain and Load Balancer configuration", []string{"DomainName", "OpenViduCertificateARN", "HostedZoneId"}},
	{"OpenVidu HA configuration", []string{"OpenViduLicense", "RTCEngine", "OpenViduVersion", "InitialMeetAdminPassword", "InitialMeetApiKey", "AdditionalInstallFlags"}},
	{"EC2 Instance configuration", []string{"MasterNodeInstanceType", "MediaNodeInstanceType", "KeyName", "SshAccessCidr", "AmiId", "MasterNodeRootVolumeSize", "MediaNodeRootVolumeSize"}},
	{"Media Nodes Autoscaling Group configuration", []string{"InitialNumberOfMediaNodes", "MinNumberOfMediaNodes", "MaxNumberOfMediaNodes", "ScaleTargetCPU", "WarmPoolSize"}},
	{"VPC configuration", []string{"OpenViduVPC", "OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets", "LoadBalancerSubnets"}},
	{"(Optional) TURN server configuration with TLS", []string{"TurnDomainName", "TurnCertificateARN"}},
	{"Volumes configuration", []string{"RetainVolumes", "DiskSize", "SnapshotRetentionDays"}},
	{"(Optional) Recordings in S3", []string{"RecordingsStorage", "S3AppDataBucketName", "S3ClusterDataBucketName"}},
	{"(Optional) Restore from snapshots", []string{"VolumeSnapshotIds", "RestoredSharedInfoArn"}},
	{"(Optional) Monitoring configuration", []string{"AlarmTopicArn"}},
	{"(Optional) Security configuration", []string{"KmsKeyArn", "RequireSameInstaller"}},
}

func TestFormHasTheSectionsAndLabels(t *testing.T) {
	var want []any
	labels := cfn.At(synthesized, "Metadata", "AWS::CloudFormation::Interface", "ParameterLabels")
	count := 0
	for _, section := range form {
		var names []any
		for _, name := range section.parameters {
			names = append(names, name)
			count++
			if label, _ := cfn.At(labels, name, "default").(string); label == "" {
				t.Errorf("%s has no label", name)
			}
		}
		want = append(want, map[string]any{"Label": map[string]any{"default": section.section}, "Parameters": names})
	}
	got := cfn.At(synthesized, "Metadata", "AWS::CloudFormation::Interface", "ParameterGroups")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sections are\n%v\nwant\n%v", got, want)
	}
	if got := len(synthesized.Section("Parameters")); got != count {
		t.Errorf("%d parameters, %d of them in sections", got, count)
	}
}

func TestParametersHaveTypesAndDefaults(t *testing.T) {
	const required = "(required)"
	types := map[string][2]any{
		"DomainName":                {"String", required},
		"OpenViduCertificateARN":    {"String", required},
		"OpenViduLicense":           {"String", required},
		"RTCEngine":                 {"String", "pion"},
		"OpenViduVersion":           {"String", "3.9.0"},
		"MasterNodeInstanceType":    {"String", "c6a.xlarge"},
		"MediaNodeInstanceType":     {"String", "c6a.xlarge"},
		"KeyName":                   {"AWS::EC2::KeyPair::KeyName", required},
		"SshAccessCidr":             {"String", ""},
		"AmiId":                     {"AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>", "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"},
		"InitialNumberOfMediaNodes": {"Number", 2.0},
		"MinNumberOfMediaNodes":     {"Number", 2.0},
		"MaxNumberOfMediaNodes":     {"Number", 5.0},
		"ScaleTargetCPU":            {"Number", 50.0},
		"OpenViduVPC":               {"AWS::EC2::VPC::Id", required},
		"OpenViduMasterNodeSubnets": {"List<AWS::EC2::Subnet::Id>", required},
		"OpenViduMediaNodeSubnets":  {"List<AWS::EC2::Subnet::Id>", required},
		"TurnDomainName":            {"String", ""},
		"TurnCertificateARN":        {"String", ""},
		"RetainVolumes":             {"String", "true"},
		"DiskSize":                  {"Number", 100.0},
		"AlarmTopicArn":             {"String", ""},
		"HostedZoneId":              {"String", ""},
		"InitialMeetAdminPassword":  {"String", ""},
		"InitialMeetApiKey":         {"String", ""},
		"AdditionalInstallFlags":    {"String", ""},
		"MasterNodeRootVolumeSize":  {"Number", 50.0},
		"MediaNodeRootVolumeSize":   {"Number", 50.0},
		"WarmPoolSize":              {"Number", 0.0},
		"LoadBalancerSubnets":       {"CommaDelimitedList", ""},
		"SnapshotRetentionDays":     {"Number", 7.0},
		"RecordingsStorage":         {"String", "Volumes"},
		"S3AppDataBucketName":       {"String", ""},
		"S3ClusterDataBucketName":   {"String", ""},
		"VolumeSnapshotIds":         {"CommaDelimitedList", ""},
		"RestoredSharedInfoArn":     {"String", ""},
		"KmsKeyArn":                 {"String", ""},
		"RequireSameInstaller":      {"String", "false"},
	}
	if len(types) != len(synthesized.Section("Parameters")) {
		t.Errorf("%d parameters, want %d", len(synthesized.Section("Parameters")), len(types))
	}
	for name, want := range types {
		parameter, _ := synthesized.Section("Parameters")[name].(map[string]any)
		value, ok := parameter["Default"]
		if !ok {
			value = required
		}
		if got := [2]any{parameter["Type"], value}; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
		for _, text := range []string{"Description", "ConstraintDescription"} {
			if written, _ := parameter[text].(string); !strings.HasSuffix(written, ".") {
				t.Errorf("%s: %s is %q, not a sentence", name, text, written)
			}
		}
		if (parameter["NoEcho"] == true) != slices.Contains(secretParameters, name) {
			t.Errorf("%s: NoEcho is %v", name, parameter["NoEcho"])
		}
	}
}

// secretParameters are not shown, and reach nothing but the function that fills the secret.
var secretParameters = []string{"OpenViduLicense", "InitialMeetAdminPassword", "InitialMeetApiKey"}

// triedValues are what patterns and ranges of parameters take and refuse; docs/refused-input.md tells the bad ones.
func triedValues() []tried {
	arn := "arn:aws:acm:eu-west-1:123456789012:certificate/0f1e2d3c-1111-2222-3333-444455556666"
	topic := "arn:aws:sns:eu-west-1:123456789012:On-call_2"
	secret := "arn:aws:secretsmanager:eu-west-1:123456789012:secret:old/OpenVidu-AbCdEf"
	key := "arn:aws:kms:eu-west-1:123456789012:key/0f1e2d3c-1111-2222-3333-444455556666"
	return []tried{
		{"DomainName", []string{"openvidu.example.com", "a.io", "x-1.y-2.example.co.uk"}, []string{"", "localhost", "https://a.io", "a..io", "-a.io", "a.io/", "a b.io", "*.a.io", "10.0.0.1", longDomain}},
		{"TurnDomainName", []string{"", "turn.example.com"}, []string{"localhost", "turn.example.com,", longDomain}},
		{"OpenViduCertificateARN", []string{arn, strings.Replace(arn, "aws", "aws-cn", 1), strings.Replace(arn, "aws", "aws-us-gov", 1)}, []string{"", "arn:aws:iam::123456789012:server-certificate/x", arn + " "}},
		{"TurnCertificateARN", []string{"", arn}, []string{"x", arn + "," + arn}},
		{"OpenViduLicense", []string{"abc-DEF-123"}, []string{"", " ", "a b"}},
		{"RTCEngine", []string{"pion", "mediasoup"}, []string{"", "Pion", "kurento"}},
		{"OpenViduVersion", []string{"3.9.0", "3.10.12", "3.8.0", "4.0.0", "10.2.0"}, []string{"", "latest", "3.9", "v3.9.0", "3.9.0-beta1", "3.7.9", "2.30.0", "0.9.0"}},
		{"MasterNodeInstanceType", []string{"c6a.xlarge", "m7gd.metal-48xl", "u-6tb1.112xlarge", "g4dn.xlarge"}, []string{"", "c6a", "C6A.xlarge", "c6a.xlarge; rm"}},
		{"MediaNodeInstanceType", []string{"c7gn.16xlarge"}, []string{"large"}},
		{"SshAccessCidr", []string{"", "203.0.113.7/32", "0.0.0.0/0"}, []string{"203.0.113.7", "300.0.0.1/8", "10.0.0.0/33", "any"}},
		{"RetainVolumes", []string{"true", "false"}, []string{"", "yes", "True"}},
		{"InitialNumberOfMediaNodes", []string{"1", "2", "40"}, []string{"0", "-1"}},
		{"MinNumberOfMediaNodes", []string{"0", "2"}, []string{"-1"}},
		{"MaxNumberOfMediaNodes", []string{"1", "100"}, []string{"0"}},
		{"ScaleTargetCPU", []string{"1", "50", "100"}, []string{"0", "101"}},
		{"DiskSize", []string{"50", "100", "16384"}, []string{"49", "0", "65537"}},
		{"HostedZoneId", []string{"", "Z0123456789ABCDEFGHIJ", "Z1"}, []string{"z0123456789", "Z", "/hostedzone/Z0123456789", "example.com", "Z" + strings.Repeat("A", 32)}},
		{"InitialMeetAdminPassword", []string{"", "Ab3_.,:@%+=-", strings.Repeat("a", 128)}, []string{"short77", "with space", "it's-quoted", "dollar$sign", strings.Repeat("a", 129)}},
		{"InitialMeetApiKey", []string{"", "meet-api-key-1"}, []string{"1234567", "back\\slash", `"quoted-key"`}},
		{"AdditionalInstallFlags", []string{"", "--force-utc-timezone", "--a=1,--b-c=x/y:z"}, []string{"a", "--a b", "--a,", ",--a", "--a='1'", "--a=$(id)", "-a", "--" + strings.Repeat("a", 999)}},
		{"MasterNodeRootVolumeSize", []string{"20", "50", "16384"}, []string{"19", "16385"}},
		{"MediaNodeRootVolumeSize", []string{"20", "16384"}, []string{"0", "16385"}},
		{"WarmPoolSize", []string{"0", "2", "50"}, []string{"-1"}},
		{"SnapshotRetentionDays", []string{"0", "7", "1000"}, []string{"-1", "1001"}},
		{"RecordingsStorage", []string{"Volumes", "S3"}, []string{"", "s3", "MinIO"}},
		{"S3AppDataBucketName", []string{"", "my-recordings", "abc", strings.Repeat("a", 63)}, []string{"ab", "My-Recordings", "my.recordings", "-mine", "mine-", "s3://mine", strings.Repeat("a", 64)}},
		{"S3ClusterDataBucketName", []string{"", "my-cluster-data"}, []string{"my_data", "arn:aws:s3:::mine"}},
		{"RestoredSharedInfoArn", []string{"", secret, strings.Replace(secret, "aws", "aws-us-gov", 1)}, []string{"OpenViduSharedInfo-AbCdEf", arn, secret + " ",
			strings.TrimSuffix(secret, "-AbCdEf"), strings.Replace(secret, "AbCdEf", "*", 1), strings.Replace(secret, "old/OpenVidu-AbCdEf", "*", 1), strings.Replace(secret, "AbCdEf", "??????", 1)}},
		{"KmsKeyArn", []string{"", key, strings.Replace(key, "aws", "aws-cn", 1), "arn:aws:kms:eu-west-1:123456789012:key/mrk-0f1e2d3c111122223333444455556666"},
			[]string{"0f1e2d3c-1111-2222-3333-444455556666", "alias/aws/ebs", "arn:aws:kms:eu-west-1:123456789012:alias/mine", "arn:aws:kms:eu-west-1:123456789012:key/*", key + " "}},
		{"RequireSameInstaller", []string{"true", "false"}, []string{"", "yes"}},
		{"AlarmTopicArn", []string{"", topic, strings.Replace(topic, "aws", "aws-cn", 1), strings.Replace(topic, "aws", "aws-us-gov", 1)},
			[]string{" ", "ops", topic + ".fifo", topic + ":0f1e2d3c-1111-2222-3333-444455556666", "arn:aws:sqs:eu-west-1:123456789012:ops", topic + "," + topic}},
	}
}

type tried struct {
	name      string
	good, bad []string
}

func TestParametersTakeGoodAndRefuseBadValues(t *testing.T) {
	for _, c := range triedValues() {
		parameter := synthesized.Section("Parameters")[c.name].(map[string]any)
		accepts := func(value string) bool {
			if allowed, ok := parameter["AllowedValues"].([]any); ok && !slices.Contains(allowed, any(value)) {
				return false
			}
			if pattern, ok := parameter["AllowedPattern"].(string); ok && !regexp.MustCompile("^(?:"+pattern+")$").MatchString(value) {
				return false
			}
			if longest, ok := parameter["MaxLength"].(float64); ok && float64(len(value)) > longest {
				return false
			}
			number, _ := strconv.ParseFloat(value, 64) // of a text: 0, which has no limits
			if low, ok := parameter["MinValue"].(float64); ok && number < low {
				return false
			}
			high, ok := parameter["MaxValue"].(float64)
			return !ok || number <= high
		}
		for _, value := range c.good {
			if !accepts(value) {
				t.Errorf("%s refuses %q", c.name, value)
			}
		}
		for _, value := range c.bad {
			if accepts(value) {
				t.Errorf("%s takes %q", c.name, value)
			}
		}
	}
}

// longDomain has a character more than DNS allows.
var longDomain = strings.Repeat("a.", 125) + "test"

func TestRulesRefuseWhatPatternsCannot(t *testing.T) {
	rule := func(name string, i int) any {
		return synthesized.Section("Rules")[name].(map[string]any)["Assertions"].([]any)[i].(map[string]any)["Assert"]
	}
	for i, subnets := range []string{"OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets"} {
		want := map[string]any{"Fn::EachMemberEquals": []any{
			map[string]any{"Fn::ValueOf": []any{subnets, "VpcId"}}, map[string]any{"Ref": "OpenViduVPC"}}}
		if got := rule("SubnetsInVpc", i); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", subnets, got)
		}
	}
	for _, c := range triedTurn {
		d := deploy(t, with(map[string]any{"TurnDomainName": c.domain, "TurnCertificateARN": c.certificate}), nil)
		got := [2]bool{d.Resolve(rule("TurnComplete", 0)).(bool), d.Resolve(rule("TurnComplete", 1)).(bool)}
		if got != c.want {
			t.Errorf("domain %q, certificate %q: %v, want %v", c.domain, c.certificate, got, c.want)
		}
	}
}

// triedTurn are what the rule on TURN takes and refuses, by its two assertions; docs/refused-input.md tells the bad ones.
var triedTurn = []struct {
	domain, certificate string
	want                [2]bool
}{
	{"", "", [2]bool{true, true}},
	{"turn.example.com", "arn", [2]bool{true, true}},
	{"turn.example.com", "", [2]bool{false, true}},
	{"", "arn", [2]bool{false, true}},
	{"openvidu.example.com", "arn", [2]bool{true, false}},
}

func deploy(t *testing.T, parameters map[string]any, attribute func(id, attribute string) any) *cfn.Deployment {
	t.Helper()
	return cfn.Deploy(synthesized, parameters, attribute, t.Errorf)
}

// with gives realistic parameters, some of them others.
func with(others map[string]any) map[string]any {
	parameters := map[string]any{
		"DomainName": "openvidu.example.com", "OpenViduCertificateARN": "arn:main", "OpenViduLicense": "the-licence",
		"KeyName": "key", "AmiId": "ami-1", "OpenViduVPC": "vpc-1",
		"OpenViduMasterNodeSubnets": []any{"subnet-a", "subnet-b"}, "OpenViduMediaNodeSubnets": []any{"subnet-a", "subnet-c"},
	}
	maps.Copy(parameters, others)
	return parameters
}

var withTurn = map[string]any{"TurnDomainName": "turn.example.com", "TurnCertificateARN": "arn:turn"}

// portTable is OpenVidu's, as its documentation has it. Peers: any4 and any6 are everybody, over IPv4 and IPv6.
const portTable = `
MainSG    any4      tcp 443
MainSG    any4      tcp 1935
MainSG    any4      tcp 1945
TurnSG    any4      tcp 443
MasterSG  MainSG    tcp 7880
MasterSG  MasterSG  tcp 7000-7001
MasterSG  MasterSG  tcp 9100-9101
MasterSG  MasterSG  tcp 20000
MasterSG  MasterSG  tcp 9095-9096
MasterSG  MasterSG  tcp 7946-7947
MasterSG  MasterSG  tcp 5000
MasterSG  MasterSG  tcp 3000
MasterSG  MasterSG  tcp 4443
MasterSG  MasterSG  tcp 9080
MasterSG  MasterSG  tcp 6080
MasterSG  MediaSG   tcp 7880
MasterSG  MediaSG   tcp 7000-7001
MasterSG  MediaSG   tcp 9100
MasterSG  MediaSG   tcp 20000
MasterSG  MediaSG   tcp 9009
MasterSG  MediaSG   tcp 3100
MasterSG  MediaSG   tcp 4443
MasterSG  MediaSG   tcp 9080
MasterSG  MediaSG   tcp 6080
MediaSG   any4      tcp 7881
MediaSG   any6      tcp 7881
MediaSG   any4      tcp 50000-60000
MediaSG   any6      tcp 50000-60000
MediaSG   any4      udp 443
MediaSG   any6      udp 443
MediaSG   any4      udp 7885
MediaSG   any6      udp 7885
MediaSG   any4      udp 50000-60000
MediaSG   any6      udp 50000-60000
MediaSG   MasterSG  tcp 7880
MediaSG   MasterSG  tcp 8080
MediaSG   MasterSG  tcp 5349
MediaSG   MainSG    tcp 1945
MediaSG   MainSG    tcp 9092
MediaSG   TurnSG    tcp 5349
MediaSG   TurnSG    tcp 7880
`

// turnOnMainPorts are open where TURN has no domain of its own.
const turnOnMainPorts = `MainSG    any4      tcp 80
MasterSG  MainSG    tcp 443
MasterSG  MainSG    tcp 80
`

// rules gives who may connect to whom (inbound) or who may reach whom (outbound), one line each, as portTable has them.
func rules(d *cfn.Deployment, inbound bool) []string {
	inline, resource, peers := "SecurityGroupIngress", "AWS::EC2::SecurityGroupIngress", []string{"SourceSecurityGroupId"}
	if !inbound {
		inline, resource, peers = "SecurityGroupEgress", "AWS::EC2::SecurityGroupEgress", []string{"DestinationSecurityGroupId"}
	}
	var lines []string
	add := func(group string, rule map[string]any) {
		peer := fmt.Sprint(rule[peers[0]])
		if cidr, ok := rule["CidrIp"]; ok {
			peer = fmt.Sprint(cidr)
		} else if cidr, ok := rule["CidrIpv6"]; ok {
			peer = fmt.Sprint(cidr)
		}
		peer = strings.TrimSuffix(strings.NewReplacer("0.0.0.0/0", "any4", "::/0", "any6").Replace(peer), ".")
		ports := fmt.Sprint(rule["FromPort"])
		if rule["FromPort"] != rule["ToPort"] {
			ports += "-" + fmt.Sprint(rule["ToPort"])
		}
		lines = append(lines, strings.Join([]string{group, peer, fmt.Sprint(rule["IpProtocol"]), ports}, " "))
	}
	for id, group := range d.OfType("AWS::EC2::SecurityGroup") {
		for _, rule := range cfn.List(group[inline]) {
			add(id, rule.(map[string]any))
		}
	}
	for _, rule := range d.OfType(resource) {
		add(strings.TrimSuffix(strings.TrimSuffix(fmt.Sprint(rule["GroupId"]), ".GroupId"), "."), rule)
	}
	slices.Sort(lines)
	return lines
}

func table(text string, leaveOut string) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if line = strings.Join(strings.Fields(line), " "); line != "" && (leaveOut == "" || !strings.Contains(line, leaveOut)) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func equalLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: %q is open, and should not be", what, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: %q is not open, and should be", what, line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d rules, want %d", what, len(got), len(want))
	}
}

func TestSecurityGroupsAreThePortTable(t *testing.T) {
	equalLines(t, "with TURN", rules(deploy(t, with(withTurn), nil), true), table(portTable, ""))
	equalLines(t, "without TURN", rules(deploy(t, with(nil), nil), true), table(portTable+turnOnMainPorts, "TurnSG"))
	ssh := "MasterSG 203.0.113.7/32 tcp 22\nMediaSG 203.0.113.7/32 tcp 22\n"
	equalLines(t, "with SSH", rules(deploy(t, with(map[string]any{"SshAccessCidr": "203.0.113.7/32"}), nil), true),
		table(portTable+turnOnMainPorts+ssh, "TurnSG"))
}

func TestLoadBalancersReachOnlyTheirTargets(t *testing.T) {
	out := `
MainSG MasterSG tcp 7880
MainSG MediaSG  tcp 1945
MainSG MediaSG  tcp 9092
TurnSG MediaSG  tcp 5349
TurnSG MediaSG  tcp 7880
MasterSG any4 -1 <nil>
MasterSG any6 -1 <nil>
MediaSG  any4 -1 <nil>
MediaSG  any6 -1 <nil>
`
	equalLines(t, "outbound with TURN", rules(deploy(t, with(withTurn), nil), false), table(out, ""))
	onMain := "MainSG MasterSG tcp 443\nMainSG MasterSG tcp 80\n"
	equalLines(t, "outbound without TURN", rules(deploy(t, with(nil), nil), false), table(out+onMain, "TurnSG"))
}

func TestLoadBalancersListenAndCheckHealth(t *testing.T) {
	policy := ", ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
	rtmps := "MainLoadBalancer. TLS 1935 -> MainRtmp TCP 1945, health HTTP 9092/, arn:main" + policy
	// OpenVidu 3.10 names this port in the addresses that it gives to who streams.
	rtmps1945 := strings.Replace(rtmps, "TLS 1935", "TLS 1945", 1)
	for name, c := range map[string]struct {
		parameters map[string]any
		want       []string
	}{
		"with TURN": {withTurn, []string{rtmps, rtmps1945,
			"MainLoadBalancer. TLS 443 -> MainMasters TCP 7880, health HTTP 7880/health/caddy, arn:main" + policy,
			"TurnLoadBalancer. TLS 443 -> TurnTurn TCP 5349, health HTTP 7880/, arn:turn" + policy,
		}},
		"without TURN": {nil, []string{
			"MainLoadBalancer. TCP 80 -> MainMastersHttp TCP 80, health HTTP 7880/health/caddy, <nil>, <nil>",
			rtmps,
			rtmps1945,
			"MainLoadBalancer. TLS 443 -> MainMastersTls TCP 443, health HTTP 7880/health/caddy, arn:main" + policy,
		}},
	} {
		d := deploy(t, with(c.parameters), nil)
		var got []string
		groups := d.OfType("AWS::ElasticLoadBalancingV2::TargetGroup")
		for _, listener := range d.OfType("AWS::ElasticLoadBalancingV2::Listener") {
			id := strings.TrimSuffix(listener["DefaultActions"].([]any)[0].(map[string]any)["TargetGroupArn"].(string), ".")
			group := groups[id]
			var certificate any
			if certificates := cfn.List(listener["Certificates"]); len(certificates) == 1 {
				certificate = cfn.At(certificates[0], "CertificateArn")
			}
			got = append(got, fmt.Sprint(listener["LoadBalancerArn"], " ", listener["Protocol"], " ", listener["Port"], " -> ", id, " ", group["Protocol"], " ", group["Port"],
				", health ", group["HealthCheckProtocol"], " ", group["HealthCheckPort"], group["HealthCheckPath"], ", ", certificate, ", ", listener["SslPolicy"]))
		}
		slices.Sort(got)
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s, listeners are\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		// A listener that turns from one group to another finds the masters there already.
		for i := 1; i <= 4; i++ {
			members := cfn.List(d.OfType("AWS::AutoScaling::AutoScalingGroup")[fmt.Sprint("OpenViduMasterNodeASG", i)]["TargetGroupARNs"])
			if !reflect.DeepEqual(members, []any{"MainMasters.", "MainMastersTls.", "MainMastersHttp."}) {
				t.Errorf("%s, Master Node %d is in %v", name, i, members)
			}
		}
	}
	d := deploy(t, with(withTurn), nil)
	for id, balancer := range d.OfType("AWS::ElasticLoadBalancingV2::LoadBalancer") {
		if !strings.Contains(fmt.Sprint(balancer["LoadBalancerAttributes"]), "cross_zone.enabled Value:true") || balancer["Scheme"] != "internet-facing" {
			t.Errorf("%s: %v", id, balancer)
		}
	}
	china := deploy(t, with(map[string]any{"AWS::Partition": "aws-cn"}), nil)
	for id, listener := range china.OfType("AWS::ElasticLoadBalancingV2::Listener") {
		if listener["Protocol"] == "TLS" && listener["SslPolicy"] != "ELBSecurityPolicy-TLS13-1-2-2021-06" {
			t.Errorf("%s in China: %v", id, listener["SslPolicy"])
		}
	}
}

// restored is a cluster from four snapshots of another.
var restored = map[string]any{"VolumeSnapshotIds": []any{"snap-1", "snap-2", "snap-3", "snap-4"}, "RestoredSharedInfoArn": "arn:old-secret"}

// Every reference must resolve in every combination: deploy reports those that do not. Each choice stands beside each of the
// others that it has to do with: so all of them are tried.
func TestEveryCombinationOfConditionsHoldsTogether(t *testing.T) {
	type choice struct {
		name       string
		parameters map[string]any
	}
	choices := [][]choice{
		{{"no TURN", nil}, {"TURN", withTurn}},
		{{"retained", nil}, {"deleted", map[string]any{"RetainVolumes": "false"}}},
		{{"no SSH", nil}, {"SSH", map[string]any{"SshAccessCidr": "10.0.0.0/8"}}},
		{{"no topic", nil}, {"topic", map[string]any{"AlarmTopicArn": "arn:topic"}}},
		{{"no zone", nil}, {"zone", map[string]any{"HostedZoneId": "Z1"}}},
		{{"snapshots", nil}, {"no snapshots", map[string]any{"SnapshotRetentionDays": 0.0}}},
		{{"cold", nil}, {"warm", map[string]any{"WarmPoolSize": 2.0}}},
		{{"blank", nil}, {"restored", restored}},
		{{"no key", nil}, {"key", map[string]any{"KmsKeyArn": "arn:key"}}},
		{{"volumes", nil}, {"new buckets", map[string]any{"RecordingsStorage": "S3"}},
			{"one bucket given", map[string]any{"RecordingsStorage": "S3", "S3ClusterDataBucketName": "mine-too"}},
			{"buckets given", map[string]any{"RecordingsStorage": "S3", "S3AppDataBucketName": "mine", "S3ClusterDataBucketName": "mine-too"}}},
	}
	var try func(name string, parameters map[string]any, chosen map[string]bool, left [][]choice)
	try = func(name string, parameters map[string]any, chosen map[string]bool, left [][]choice) {
		if len(left) == 0 {
			t.Run(name, func(t *testing.T) { holdsTogether(t, with(parameters), chosen) })
			return
		}
		for _, c := range left[0] {
			more, also := maps.Clone(parameters), maps.Clone(chosen)
			maps.Copy(more, c.parameters)
			also[c.name] = true
			try(name+"/"+c.name, more, also, left[1:])
		}
	}
	try("", map[string]any{}, map[string]bool{}, choices)
}

// holdsTogether tells what of the template exists in a deployment with these choices.
func holdsTogether(t *testing.T, parameters map[string]any, chosen map[string]bool) {
	d := deploy(t, parameters, nil)
	got := map[string]int{}
	for _, resource := range d.Resources {
		got[cfn.At(resource, "Type").(string)]++
		d.Resolve(cfn.At(resource, "Properties"))
	}
	number := func(name string, count int) int {
		if chosen[name] {
			return count
		}
		return 0
	}
	balancers := 1 + number("TURN", 1)
	for kind, want := range map[string]int{
		"AWS::ElasticLoadBalancingV2::LoadBalancer": balancers,
		"AWS::ElasticLoadBalancingV2::Listener":     4,                            // 443, 1935 and 1945, then port 80 or TURN
		"AWS::CloudWatch::Alarm":                    number("topic", 6+balancers), // a certificate for each load balancer
		"AWS::Route53::RecordSet":                   number("zone", balancers),
		"AWS::DLM::LifecyclePolicy":                 number("snapshots", 1),
		"AWS::IAM::Role":                            5 + number("snapshots", 1),
		"AWS::AutoScaling::WarmPool":                number("warm", 1),
		"AWS::S3::Bucket":                           number("new buckets", 2) + number("one bucket given", 1),
		"AWS::S3::BucketPolicy":                     number("new buckets", 2) + number("one bucket given", 1),
		"AWS::IAM::ManagedPolicy":                   1 - number("volumes", 1),
		"AWS::EC2::Volume":                          4,
	} {
		if got[kind] != want {
			t.Errorf("%d resources %s, want %d", got[kind], kind, want)
		}
	}
	groups := cfn.List(d.OfType("AWS::AutoScaling::AutoScalingGroup")["OpenViduMediaNodeASG"]["TargetGroupARNs"])
	if len(groups) != balancers {
		t.Errorf("the fleet is in target groups %v", groups)
	}
	policy := "RetainExceptOnCreate"
	if chosen["deleted"] {
		policy = "Delete"
	}
	for id, resource := range d.Resources {
		if cfn.At(resource, "Type") == "AWS::EC2::Volume" && (cfn.At(resource, "DeletionPolicy") != policy || cfn.At(resource, "UpdateReplacePolicy") != "Retain") {
			t.Errorf("%s: %v", id, resource)
		}
	}
	for name, output := range synthesized.Section("Outputs") {
		exists := d.Holds(cfn.At(output, "Condition"))
		if exists {
			d.Resolve(cfn.At(output, "Value"))
		}
		if exists != (name != "TurnLoadBalancerDNS" || chosen["TURN"]) {
			t.Errorf("output %s: %v", name, exists)
		}
	}
}

func TestHostedZoneGetsARecordForEachDomain(t *testing.T) {
	parameters := with(map[string]any{"HostedZoneId": "Z1"})
	maps.Copy(parameters, withTurn)
	records := deploy(t, parameters, nil).OfType("AWS::Route53::RecordSet")
	for id, want := range map[string][2]string{"MainRecord": {"openvidu.example.com.", "MainLoadBalancer"}, "TurnRecord": {"turn.example.com.", "TurnLoadBalancer"}} {
		record := records[id]
		if record["HostedZoneId"] != "Z1" || record["Name"] != want[0] || record["Type"] != "A" {
			t.Errorf("%s: %v", id, record)
		}
		if got := fmt.Sprint(cfn.At(record, "AliasTarget", "DNSName"), cfn.At(record, "AliasTarget", "HostedZoneId")); !strings.Contains(got, want[1]+".DNSName") || !strings.Contains(got, want[1]+".CanonicalHostedZoneID") {
			t.Errorf("%s leads to %v", id, record["AliasTarget"])
		}
	}
	if len(records) != 2 {
		t.Errorf("records: %v", records)
	}
}

// s3Settings are what the secret's function is told of S3.
func s3Settings(d *cfn.Deployment) any {
	return cfn.At(d.OfType("Custom::OpenViduCredentials")["MasterInfoFill"], "Settings", "S3")
}

func TestRecordingsGoToTheBucketsThatParametersChoose(t *testing.T) {
	if got := s3Settings(deploy(t, with(nil), nil)); got != nil {
		t.Errorf("without S3 the secret gets %v", got)
	}
	for _, c := range []struct{ app, cluster, wantApp, wantCluster string }{
		{"", "", "S3AppData.", "S3ClusterData."},
		{"mine", "", "mine", "S3ClusterData."},
		{"mine", "mine-too", "mine", "mine-too"},
	} {
		d := deploy(t, with(map[string]any{"RecordingsStorage": "S3", "S3AppDataBucketName": c.app, "S3ClusterDataBucketName": c.cluster,
			"AWS::Region": "cn-north-1", "AWS::URLSuffix": "amazonaws.com.cn", "AWS::Partition": "aws-cn"}), nil)
		want := map[string]any{
			"EXTERNAL_S3_ENDPOINT": "https://s3.cn-north-1.amazonaws.com.cn", "EXTERNAL_S3_REGION": "cn-north-1", "EXTERNAL_S3_PATH_STYLE_ACCESS": "false",
			"EXTERNAL_S3_BUCKET_APP_DATA": c.wantApp, "EXTERNAL_S3_BUCKET_CLUSTER_DATA": c.wantCluster,
		}
		if got := s3Settings(d); !reflect.DeepEqual(got, want) {
			t.Errorf("the secret gets %v, want %v", got, want)
		}
		var allowed []string
		for _, s := range cfn.List(cfn.At(d.OfType("AWS::IAM::ManagedPolicy")["S3Access"], "PolicyDocument", "Statement")) {
			allowed = append(allowed, fmt.Sprint(cfn.At(s, "Action"), " ", cfn.At(s, "Resource"), " if ", cfn.At(s, "Condition")))
		}
		const ours = " if map[StringEquals:map[s3:ResourceAccount:123456789012]]"
		buckets := []string{
			fmt.Sprintf("[s3:GetBucketLocation s3:ListBucket s3:ListBucketMultipartUploads] [arn:aws-cn:s3:::%s arn:aws-cn:s3:::%s]"+ours, c.wantApp, c.wantCluster),
			fmt.Sprintf("[s3:AbortMultipartUpload s3:DeleteObject s3:GetObject s3:ListMultipartUploadParts s3:PutObject] [arn:aws-cn:s3:::%s/* arn:aws-cn:s3:::%s/*]"+ours, c.wantApp, c.wantCluster),
		}
		if !slices.Equal(allowed, buckets) {
			t.Errorf("nodes may\n%s\nwant\n%s", strings.Join(allowed, "\n"), strings.Join(buckets, "\n"))
		}
	}
	for id, resource := range synthesized.Section("Resources") {
		// Also when a creation is rolled back, since CloudFormation deletes no bucket that holds something; with what keeps it closed.
		if strings.HasPrefix(cfn.At(resource, "Type").(string), "AWS::S3::Bucket") && (cfn.At(resource, "DeletionPolicy") != "Retain" || cfn.At(resource, "UpdateReplacePolicy") != "Retain") {
			t.Errorf("%s goes with the stack: %v", id, resource)
		}
	}
}

func TestSlotsAreRestoredWithTheirSnapshotsAndAddresses(t *testing.T) {
	blank, from := deploy(t, with(nil), nil), deploy(t, with(restored), nil)
	for i := 1; i <= 4; i++ {
		volume, eni := fmt.Sprint("VolumesRetained", i), fmt.Sprint("MasterENI", i)
		if got := blank.OfType("AWS::EC2::Volume")[volume]["SnapshotId"]; got != nil {
			t.Errorf("%s is made from %v", volume, got)
		}
		if got := blank.OfType("AWS::EC2::NetworkInterface")[eni]["PrivateIpAddress"]; got != nil {
			t.Errorf("%s has address %v", eni, got)
		}
		if got := from.OfType("AWS::EC2::Volume")[volume]["SnapshotId"]; got != fmt.Sprint("PreflightSlots.Snapshot", i) {
			t.Errorf("%s is made from %v", volume, got)
		}
		if got := from.OfType("AWS::EC2::NetworkInterface")[eni]["PrivateIpAddress"]; got != fmt.Sprint("PreflightSlots.PrivateIp", i) {
			t.Errorf("%s has address %v", eni, got)
		}
	}
	if got := from.OfType("Custom::OpenViduSlots")["PreflightSlots"]["VolumeSnapshotIds"]; !reflect.DeepEqual(got, restored["VolumeSnapshotIds"]) {
		t.Errorf("the slots are told of snapshots %v", got)
	}
}

func TestSnapshotsAreTakenDailyOfTheVolumesOfThisStack(t *testing.T) {
	d := deploy(t, with(map[string]any{"SnapshotRetentionDays": 30.0}), nil)
	details := d.OfType("AWS::DLM::LifecyclePolicy")["VolumesSnapshots"]["PolicyDetails"]
	tag := map[string]any{"Key": "OpenViduVolumes", "Value": d.Values["AWS::StackId"].(string) + "/Volumes"}
	if got := cfn.At(details, "TargetTags"); !reflect.DeepEqual(got, []any{tag}) {
		t.Errorf("the policy looks for %v", got)
	}
	schedule := cfn.List(cfn.At(details, "Schedules"))[0]
	if cfn.At(schedule, "RetainRule", "Count") != 30.0 || cfn.At(schedule, "CopyTags") != true {
		t.Errorf("schedule: %v", schedule)
	}
	for id, volume := range d.OfType("AWS::EC2::Volume") {
		want := []any{map[string]any{"Key": "OpenViduPrivateIp", "Value": "MasterENI" + id[len(id)-1:] + ".PrimaryPrivateIpAddress"}, tag}
		if !reflect.DeepEqual(volume["Tags"], want) {
			t.Errorf("%s: tags %v, want %v", id, volume["Tags"], want)
		}
	}
}

func TestInstallerAndRootVolumesFollowTheParameters(t *testing.T) {
	d := deploy(t, with(map[string]any{"MasterNodeRootVolumeSize": 80.0, "MediaNodeRootVolumeSize": 90.0}), nil)
	for id, want := range map[string]float64{"MasterLaunchTemplate1": 80, "MasterLaunchTemplate4": 80, "OpenViduMediaNodeLaunchTemplate": 90} {
		mapping := cfn.List(cfn.At(d.OfType("AWS::EC2::LaunchTemplate")[id], "LaunchTemplateData", "BlockDeviceMappings"))[0]
		if got := cfn.At(mapping, "Ebs", "VolumeSize"); got != want {
			t.Errorf("%s: root volume of %v", id, got)
		}
	}
	d = deploy(t, with(map[string]any{"InitialMeetAdminPassword": "a-password", "InitialMeetApiKey": "a-key"}), nil)
	want := map[string]any{"MEET_INITIAL_ADMIN_PASSWORD": "a-password", "MEET_INITIAL_API_KEY": "a-key"}
	if got := d.OfType("Custom::OpenViduCredentials")["MasterInfoFill"]["Initial"]; !reflect.DeepEqual(got, want) {
		t.Errorf("initial values: %v", got)
	}
}

func TestLoadBalancersAreWhereThePreflightPutsThem(t *testing.T) {
	d := deploy(t, with(withTurn), func(id, attribute string) any {
		if id == "PreflightChecks" && strings.HasSuffix(attribute, "Subnets") {
			return attribute + "1," + attribute + "2"
		}
		return id + "." + attribute
	})
	for id, attribute := range map[string]string{"MainLoadBalancer": "LoadBalancerSubnets", "TurnLoadBalancer": "TurnSubnets"} {
		got := d.OfType("AWS::ElasticLoadBalancingV2::LoadBalancer")[id]["Subnets"]
		if !reflect.DeepEqual(got, []any{attribute + "1", attribute + "2"}) {
			t.Errorf("%s is in %v", id, got)
		}
	}
}

func TestAlarmsTellTheTopicAndTheDashboardFollowsTheParameters(t *testing.T) {
	parameters := with(map[string]any{"AlarmTopicArn": "arn:topic", "ScaleTargetCPU": 65.0})
	maps.Copy(parameters, withTurn)
	d := deploy(t, parameters, nil)
	watched := map[string]bool{}
	for id, alarm := range d.OfType("AWS::CloudWatch::Alarm") {
		if !reflect.DeepEqual(alarm["AlarmActions"], []any{"arn:topic"}) {
			t.Errorf("%s tells %v", id, alarm["AlarmActions"])
		}
		for _, dimension := range cfn.List(alarm["Dimensions"]) {
			watched[fmt.Sprint(cfn.At(dimension, "Name"), "=", cfn.At(dimension, "Value"))] = true
		}
	}
	want := []string{"AutoScalingGroupName=OpenViduMediaNodeASG.", "CertificateArn=arn:main", "CertificateArn=arn:turn", fmt.Sprint("Cluster=", d.Values["AWS::StackId"], "/Master"),
		"LoadBalancer=MainLoadBalancer.LoadBalancerFullName", "TargetGroup=MainMasters.TargetGroupFullName", "TargetGroup=MainRtmp.TargetGroupFullName"}
	if got := slices.Sorted(maps.Keys(watched)); !slices.Equal(got, want) {
		t.Errorf("alarms watch %v, want %v", got, want)
	}
	for topic, region := range map[string]string{"": "cn-north-1", "arn:topic": "us-gov-west-1"} {
		d := deploy(t, with(map[string]any{"AlarmTopicArn": topic, "ScaleTargetCPU": 65.0, "AWS::Region": region}), nil)
		body, _ := d.OfType("AWS::CloudWatch::Dashboard")["MonitoringDashboard"]["DashboardBody"].(string)
		var dashboard any
		if err := json.Unmarshal([]byte(body), &dashboard); err != nil {
			t.Errorf("%v: %s", err, body)
		}
		if strings.Count(body, `"region":"`+region+`"`) != 4 || !strings.Contains(body, `"value":65`) {
			t.Errorf("dashboard in %s: %s", region, body)
		}
	}
}

func TestOutputsLinkToTheConsoleOfThePartition(t *testing.T) {
	for partition, domain := range map[string]string{
		"aws": "console.aws.amazon.com", "aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com",
		"aws-eusc": "console.amazonaws-eusc.eu",
	} {
		d := deploy(t, with(map[string]any{"AWS::Partition": partition}), nil)
		got := d.Resolve(cfn.At(synthesized.Section("Outputs"), "ServicesAndCredentials", "Value"))
		if want := "https://" + domain + "/secretsmanager/secret?region=eu-west-1&name=OpenViduSharedInfo."; got != want {
			t.Errorf("%s: %v, want %s", partition, got, want)
		}
	}
	if got := slices.Sorted(maps.Keys(synthesized.Section("Outputs"))); !slices.Equal(got, []string{"LoadBalancerDNS", "MasterNodeZones", "ServicesAndCredentials", "TurnLoadBalancerDNS"}) {
		t.Errorf("outputs: %v", got)
	}
}

func TestVolumesAreEncryptedAndInTheirSlotsZone(t *testing.T) {
	d := deploy(t, with(map[string]any{"DiskSize": 200.0}), nil)
	for i := 1; i <= 4; i++ {
		got := d.OfType("AWS::EC2::Volume")[fmt.Sprint("VolumesRetained", i)]
		want := map[string]any{"AvailabilityZone": fmt.Sprint("PreflightSlots.Zone", i), "Encrypted": true, "Size": 200.0, "VolumeType": "gp3", "Tags": got["Tags"]}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("volume %d: %v", i, got)
		}
	}
	for id, launch := range d.OfType("AWS::EC2::LaunchTemplate") {
		mappings := cfn.At(launch, "LaunchTemplateData", "BlockDeviceMappings").([]any)
		want := map[string]any{"DeviceName": "PreflightChecks.RootDeviceName", "Ebs": map[string]any{
			"DeleteOnTermination": true, "Encrypted": true, "VolumeSize": 50.0, "VolumeType": "gp3"}}
		if len(mappings) != 1 || !reflect.DeepEqual(mappings[0], want) {
			t.Errorf("%s: %v", id, mappings)
		}
	}
}

func TestNodesTakeOnlyImdsV2AndHaveNoNetworkInterfacesOfTheirOwn(t *testing.T) {
	d := deploy(t, with(nil), nil)
	launches := d.OfType("AWS::EC2::LaunchTemplate")
	if len(launches) != 5 {
		t.Errorf("launch templates: %v", slices.Sorted(maps.Keys(launches)))
	}
	for id, launch := range launches {
		data := launch["LaunchTemplateData"].(map[string]any)
		want := map[string]any{"HttpTokens": "required", "HttpPutResponseHopLimit": 1.0, "InstanceMetadataTags": "disabled"}
		if !reflect.DeepEqual(data["MetadataOptions"], want) {
			t.Errorf("%s: %v", id, data["MetadataOptions"])
		}
		// With one of its own, the subnet's setting for public addresses would not count.
		if data["NetworkInterfaces"] != nil || data["KeyName"] != "key" || data["ImageId"] != "ami-1" {
			t.Errorf("%s: %v", id, data)
		}
	}
}

func TestSecretParametersReachNothingButTheFunctionThatFillsTheSecret(t *testing.T) {
	for _, secret := range secretParameters {
		for _, section := range slices.Sorted(maps.Keys(synthesized)) {
			if section == "Resources" || section == "Parameters" || section == "Metadata" {
				continue
			}
			found := map[string]bool{}
			cfn.References(synthesized[section], found)
			if found[secret] {
				t.Errorf("%s is in %s", secret, section)
			}
		}
		for id, resource := range synthesized.Section("Resources") {
			found := map[string]bool{}
			cfn.References(resource, found)
			if found[secret] != (id == "MasterInfoFill") {
				t.Errorf("%s refers to %s: %v", id, secret, found[secret])
			}
		}
	}
	for id, resource := range synthesized.Section("Resources") {
		if metadata, _ := cfn.At(resource, "Metadata").(map[string]any); len(metadata) > 0 && (id != "OpenViduMediaNodeASG" || len(metadata) != 1 || metadata["EndsBefore"] == nil) {
			t.Errorf("%s has metadata: %v", id, metadata)
		}
	}
	if secret := synthesized.Section("Resources")["OpenViduSharedInfo"]; cfn.At(secret, "Properties", "SecretString") != nil || cfn.At(secret, "Properties", "GenerateSecretString") != nil {
		t.Errorf("the secret has a value in the template, which a later change would write over it: %v", secret)
	}
}

func TestNothingHasAFixedNameOrPartition(t *testing.T) {
	named := regexp.MustCompile(`^(Name|[A-Z][A-Za-z]*Name)$`)
	// Names that are no physical names of resources: of devices, hooks inside a group, statements inside a role, metrics,
	// keys, images and domains; variables of Fn::Sub; and references to what has a name. A name that the stack's is part of is not fixed.
	allowed := []string{"DeviceName", "LifecycleHookName", "PolicyName", "KeyName", "AutoScalingGroupName", "FunctionName", "DomainName", "TurnDomainName", "MetricName", "DNSName"}
	paths := []string{"MainRecord/Name", "TurnRecord/Name", "VolumesSnapshots/PolicyDetails/Schedules/Name"}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for key, element := range v {
				if named.MatchString(key) && !slices.Contains(allowed, key) && path+key != strings.Split(path, "/")[0]+"/DimensionsName" &&
					!slices.Contains(paths, path+"/"+key) && !strings.HasSuffix(path, "/Fn::Sub") && !strings.Contains(fmt.Sprint(element), "map[Ref:AWS::StackName]") {
					t.Errorf("%s/%s is %v", path, key, element)
				}
				walk(path+"/"+key, element)
			}
		case []any:
			for _, element := range v {
				walk(path, element)
			}
		case string:
			if strings.Contains(v, "arn:aws") {
				t.Errorf("%s names a partition: %s", path, v)
			}
		}
	}
	for id, resource := range synthesized.Section("Resources") {
		walk(id, cfn.At(resource, "Properties"))
		for resourceType, property := range map[string]string{"AWS::AutoScaling::AutoScalingGroup": "AutoScalingGroupName", "AWS::Lambda::Function": "FunctionName"} {
			if name := cfn.At(resource, "Properties", property); name != nil && cfn.At(resource, "Type") == resourceType {
				t.Errorf("%s is named %v", id, name)
			}
		}
	}
	walk("Outputs", synthesized["Outputs"])
	walk("Mappings", synthesized["Mappings"])
}

func TestRolesAllowTheLeast(t *testing.T) {
	equalRoles(t, "by default", with(nil), "")
	// Each of these adds what it takes, to those that take it.
	equalRoles(t, "with S3", with(map[string]any{"RecordingsStorage": "S3"}), "", "MasterRole S3Access.", "MediaRole S3Access.")
	equalRoles(t, "restored", with(restored), "", "MasterInfoCredentialsRole secretsmanager:GetSecretValue arn:old-secret",
		"MasterInfoCredentialsRole kms:Decrypt arn:aws:kms:eu-west-1:123456789012:key/* if map[StringEquals:map[kms:EncryptionContext:SecretARN:arn:old-secret kms:ViaService:secretsmanager.eu-west-1.amazonaws.com]]")
	equalRoles(t, "without snapshots", with(map[string]any{"SnapshotRetentionDays": 0.0}), "VolumesSnapshotRole")
	ec2 := " arn:key if map[StringEquals:map[kms:ViaService:ec2.eu-west-1.amazonaws.com]]"
	grant := " kms:CreateGrant arn:key if map[Bool:map[kms:GrantIsForAWSResource:true] StringEquals:map[kms:ViaService:ec2.eu-west-1.amazonaws.com]]"
	secrets := " arn:key if map[StringEquals:map[kms:ViaService:secretsmanager.eu-west-1.amazonaws.com]]"
	equalRoles(t, "with a key", with(map[string]any{"KmsKeyArn": "arn:key"}), "",
		"MasterRole"+grant, "MasterRole kms:Decrypt"+secrets, "MasterRole kms:GenerateDataKey"+secrets, "MediaRole kms:Decrypt"+secrets,
		"MasterInfoCredentialsRole kms:Decrypt"+secrets, "MasterInfoCredentialsRole kms:GenerateDataKey"+secrets,
		"VolumesSnapshotRole"+grant, "VolumesSnapshotRole kms:Decrypt"+ec2, "VolumesSnapshotRole kms:DescribeKey"+ec2,
		"VolumesSnapshotRole kms:GenerateDataKeyWithoutPlaintext"+ec2, "VolumesSnapshotRole kms:ReEncryptFrom"+ec2, "VolumesSnapshotRole kms:ReEncryptTo"+ec2)
	equalRoles(t, "with volumes that go with the stack", with(map[string]any{"RetainVolumes": "false"}), "",
		"MasterInfoCredentialsRole secretsmanager:DeleteSecret OpenViduSharedInfo.", "MasterInfoCredentialsRole ec2:DescribeSnapshots *")
}

func equalRoles(t *testing.T, what string, parameters map[string]any, without string, more ...string) {
	t.Helper()
	d := deploy(t, parameters, nil)
	var got []string
	for id, role := range d.OfType("AWS::IAM::Role") {
		for _, policy := range cfn.List(role["Policies"]) {
			for _, s := range cfn.At(policy, "PolicyDocument", "Statement").([]any) {
				statement := s.(map[string]any)
				for _, action := range cfn.List(statement["Action"]) {
					for _, resource := range cfn.List(statement["Resource"]) {
						condition := ""
						if statement["Condition"] != nil {
							condition = fmt.Sprint(" if ", statement["Condition"])
						}
						got = append(got, fmt.Sprint(id, " ", action, " ", resource, condition))
					}
				}
			}
		}
		for _, policy := range cfn.List(role["ManagedPolicyArns"]) {
			got = append(got, fmt.Sprint(id, " ", policy))
		}
	}
	if policies := d.OfType("AWS::IAM::Policy"); len(policies) > 0 {
		t.Errorf("policies outside of roles, which a node may not have yet when it boots: %v", policies)
	}
	stack := d.Values["AWS::StackId"].(string)
	cluster := " if map[StringEquals:map[aws:ResourceTag/OpenViduCluster:" + stack + "/Master]]"
	fleet := " if map[Null:map[aws:ResourceTag/OpenViduMasterSlot:true] StringEquals:map[aws:ResourceTag/OpenViduCluster:" + stack + "/Master]]"
	volumes := " if map[StringEquals:map[aws:ResourceTag/OpenViduVolumes:" + stack + "/Volumes]]"
	ec2 := "arn:aws:ec2:*:*:"
	metrics := " cloudwatch:PutMetricData * if map[StringEquals:map[cloudwatch:namespace:OpenVidu]]"
	want := []string{
		"PreflightFunctionRole ec2:DescribeSnapshots *",
		"PreflightFunctionRole s3:GetBucketLocation arn:aws:s3:::* if map[StringEquals:map[s3:ResourceAccount:123456789012]]",
		"PreflightFunctionRole cloudwatch:GetMetricStatistics *",
		"PreflightFunctionRole ec2:DescribeAvailabilityZones *",
		"PreflightFunctionRole ec2:DescribeNetworkInterfaces *",
		"PreflightFunctionRole ec2:GetEbsDefaultKmsKeyId *",
		"PreflightFunctionRole servicequotas:GetServiceQuota arn:aws:servicequotas:eu-west-1:123456789012:ec2/*",
		"PreflightFunctionRole kms:DescribeKey arn:aws:kms:eu-west-1:123456789012:key/*",
		"PreflightFunctionRole kms:GetKeyPolicy arn:aws:kms:eu-west-1:123456789012:key/*",
		"PreflightFunctionRole kms:ListGrants arn:aws:kms:eu-west-1:123456789012:key/*",
		"MasterLaunchesFunctionRole autoscaling:DescribeAutoScalingGroups *",
		"MasterLaunchesFunctionRole autoscaling:DescribeScalingActivities *",
		"MasterLaunchesFunctionRole cloudformation:DescribeStacks " + stack,
		"MasterLaunchesFunctionRole cloudformation:SignalResource " + stack,
		"MasterLaunchesFunctionRole logs:CreateLogStream MasterLaunchesFunctionLogs.Arn",
		"MasterLaunchesFunctionRole logs:PutLogEvents MasterLaunchesFunctionLogs.Arn",
		"MasterInfoCredentialsRole secretsmanager:UpdateSecretVersionStage OpenViduSharedInfo.",
		"PreflightFunctionRole route53:GetHostedZone arn:aws:route53:::hostedzone/*",
		"VolumesSnapshotRole ec2:DescribeInstances *",
		"VolumesSnapshotRole ec2:DescribeSnapshots *",
		"VolumesSnapshotRole ec2:DescribeVolumes *",
		"VolumesSnapshotRole ec2:CreateSnapshot arn:aws:ec2:eu-west-1:123456789012:volume/*" + volumes,
		"VolumesSnapshotRole ec2:CreateSnapshot arn:aws:ec2:eu-west-1::snapshot/*",
		"VolumesSnapshotRole ec2:CreateTags arn:aws:ec2:eu-west-1::snapshot/*",
		"VolumesSnapshotRole ec2:DeleteSnapshot arn:aws:ec2:eu-west-1::snapshot/*" + volumes,
		"MasterRole logs:DescribeLogStreams MasterInfoLogs.Arn",
		"MasterRole" + metrics,
		"MediaRole logs:DescribeLogStreams MasterInfoLogs.Arn",
		"MediaRole" + metrics,
		"PreflightFunctionRole ec2:DescribeImages *",
		"PreflightFunctionRole ec2:DescribeInstanceTypeOfferings *",
		"PreflightFunctionRole ec2:DescribeInstanceTypes *",
		"PreflightFunctionRole ec2:DescribeRouteTables *",
		"PreflightFunctionRole ec2:DescribeSubnets *",
		"PreflightFunctionRole acm:DescribeCertificate arn:aws:acm:eu-west-1:123456789012:certificate/*",
		"PreflightFunctionRole cloudformation:DescribeStacks " + stack,
		"PreflightFunctionRole logs:CreateLogStream PreflightFunctionLogs.Arn",
		"PreflightFunctionRole logs:PutLogEvents PreflightFunctionLogs.Arn",
		"MasterInfoCredentialsRole secretsmanager:GetSecretValue OpenViduSharedInfo.",
		"MasterInfoCredentialsRole secretsmanager:PutSecretValue OpenViduSharedInfo.",
		"MasterInfoCredentialsRole cloudformation:DescribeStacks " + stack,
		"MasterInfoCredentialsRole logs:CreateLogStream MasterInfoCredentialsLogs.Arn",
		"MasterInfoCredentialsRole logs:PutLogEvents MasterInfoCredentialsLogs.Arn",
		"MasterInfoCredentialsRole secretsmanager:GetSecretValue MasterInfoMediaSecret.",
		"MasterInfoCredentialsRole secretsmanager:PutSecretValue MasterInfoMediaSecret.",
		"MasterInfoCredentialsRole secretsmanager:UpdateSecretVersionStage MasterInfoMediaSecret.",
		"MasterRole secretsmanager:GetSecretValue MasterInfoMediaSecret.",
		"MasterRole secretsmanager:PutSecretValue MasterInfoMediaSecret.",
		"MasterRole secretsmanager:UpdateSecretVersionStage MasterInfoMediaSecret.",
		"MasterRole secretsmanager:PutSecretValue OpenViduSharedInfo.",
		"MasterRole secretsmanager:UpdateSecretVersionStage OpenViduSharedInfo.",
		"MasterRole secretsmanager:GetSecretValue OpenViduSharedInfo.",
		"MasterRole ssm:GetParameter arn:aws:ssm:eu-west-1:123456789012:parameter/openvidu/openvidu/315a0b47829b/*",
		"MasterRole logs:CreateLogStream MasterInfoLogs.Arn",
		"MasterRole logs:PutLogEvents MasterInfoLogs.Arn",
		"MasterRole ec2:AttachNetworkInterface " + ec2 + "instance/*" + cluster,
		"MasterRole ec2:AttachVolume " + ec2 + "instance/*" + cluster,
		"MasterRole ec2:DescribeNetworkInterfaces *",
		"MasterRole cloudformation:SignalResource " + stack,
		"MediaRole secretsmanager:GetSecretValue MasterInfoMediaSecret.",
		"MediaRole ssm:GetParameter arn:aws:ssm:eu-west-1:123456789012:parameter/openvidu/openvidu/ddf5cc8ca921/*",
		"MediaRole autoscaling:DescribeAutoScalingInstances *",
		"MediaRole logs:CreateLogStream MasterInfoLogs.Arn",
		"MediaRole logs:PutLogEvents MasterInfoLogs.Arn",
		"MediaRole autoscaling:CompleteLifecycleAction *" + fleet,
		"MediaRole autoscaling:RecordLifecycleActionHeartbeat *" + fleet,
		"MediaRole autoscaling:SetInstanceHealth *" + fleet,
	}
	for _, node := range []string{"MasterRole", "MediaRole"} {
		for _, action := range []string{"ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
			"ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"} {
			want = append(want, node+" "+action+" *")
		}
	}
	kept := "Retained"
	if parameters["RetainVolumes"] == "false" {
		kept = "Deleted"
	}
	for i := 1; i <= 4; i++ {
		want = append(want,
			fmt.Sprintf("MasterRole ec2:AttachNetworkInterface %snetwork-interface/MasterENI%d.", ec2, i),
			fmt.Sprintf("MasterRole ec2:AttachVolume %svolume/Volumes%s%d.", ec2, kept, i))
	}
	if without != "" {
		want = slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, without+" ") })
	}
	// A statement that two reasons allow allows no more.
	slices.Sort(got)
	equalLines(t, "roles "+what, slices.Compact(got), append(want, more...))
}

func TestGroupsAreFourOfOneAndAFleet(t *testing.T) {
	d := deploy(t, with(map[string]any{"InitialNumberOfMediaNodes": 3.0}), nil)
	groups := d.OfType("AWS::AutoScaling::AutoScalingGroup")
	if len(groups) != 5 {
		t.Fatalf("groups: %v", slices.Sorted(maps.Keys(groups)))
	}
	cluster := map[string]any{"Key": "OpenViduCluster", "PropagateAtLaunch": true, "Value": d.Values["AWS::StackId"].(string) + "/Master"}
	for i := 1; i <= 4; i++ {
		id := fmt.Sprint("OpenViduMasterNodeASG", i)
		group := groups[id]
		sizes := []any{group["MinSize"], group["MaxSize"], group["DesiredCapacity"]}
		if !reflect.DeepEqual(sizes, []any{"1", "1", "1"}) {
			t.Errorf("%s: sizes %v", id, sizes)
		}
		if !reflect.DeepEqual(group["InstanceMaintenancePolicy"], map[string]any{"MinHealthyPercentage": 0.0, "MaxHealthyPercentage": 100.0}) {
			t.Errorf("%s does not terminate before it launches: %v", id, group["InstanceMaintenancePolicy"])
		}
		subnet := []any{fmt.Sprint("PreflightSlots.Subnet", i)}
		if !reflect.DeepEqual(group["VPCZoneIdentifier"], subnet) {
			t.Errorf("%s is in %v", id, group["VPCZoneIdentifier"])
		}
		if got := d.OfType("AWS::EC2::NetworkInterface")[fmt.Sprint("MasterENI", i)]; got["SubnetId"] != subnet[0] || !reflect.DeepEqual(got["GroupSet"], []any{"MasterSG.GroupId"}) {
			t.Errorf("interface %d: %v", i, got)
		}
		slot := map[string]any{"Key": "OpenViduMasterSlot", "PropagateAtLaunch": true, "Value": fmt.Sprint(i)}
		name := map[string]any{"Key": "Name", "PropagateAtLaunch": true, "Value": fmt.Sprint("openvidu Master Node ", i)}
		if !reflect.DeepEqual(group["Tags"], []any{name, cluster, slot}) {
			t.Errorf("%s: tags %v", id, group["Tags"])
		}
		if group["HealthCheckType"] != nil {
			t.Errorf("%s is replaced when OpenVidu is down, not only when the instance is: %v", id, group["HealthCheckType"])
		}
	}
	media := groups["OpenViduMediaNodeASG"]
	if sizes := []any{media["MinSize"], media["MaxSize"], media["DesiredCapacity"]}; !reflect.DeepEqual(sizes, []any{2.0, 5.0, 3.0}) {
		t.Errorf("fleet: sizes %v", sizes)
	}
	if !reflect.DeepEqual(media["VPCZoneIdentifier"], []any{"subnet-a", "subnet-c"}) {
		t.Errorf("fleet: subnets %v", media["VPCZoneIdentifier"])
	}
	hooks := []any{
		map[string]any{"LifecycleHookName": "drain", "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING", "HeartbeatTimeout": 3600.0, "DefaultResult": "CONTINUE"},
		map[string]any{"LifecycleHookName": "ready", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING", "HeartbeatTimeout": 3600.0, "DefaultResult": "CONTINUE"},
	}
	if !reflect.DeepEqual(media["LifecycleHookSpecificationList"], hooks) {
		t.Errorf("fleet: hooks %v", media["LifecycleHookSpecificationList"])
	}
	if pools := d.OfType("AWS::AutoScaling::WarmPool"); len(pools) > 0 {
		t.Errorf("a warm pool by default: %v", pools)
	}
	warm := deploy(t, with(map[string]any{"WarmPoolSize": 2.0}), nil)
	pool := map[string]any{"AutoScalingGroupName": "OpenViduMediaNodeASG.", "MinSize": 2.0, "MaxGroupPreparedCapacity": 2.0, "PoolState": "Stopped"}
	if got := warm.OfType("AWS::AutoScaling::WarmPool")["MediaWarmPool"]; !reflect.DeepEqual(got, pool) {
		t.Errorf("warm pool: %v", got)
	}
	for id, policy := range d.OfType("AWS::AutoScaling::ScalingPolicy") {
		want := map[string]any{"PredefinedMetricSpecification": map[string]any{"PredefinedMetricType": "ASGAverageCPUUtilization"}, "TargetValue": 50.0}
		if !reflect.DeepEqual(policy["TargetTrackingConfiguration"], want) {
			t.Errorf("%s: %v", id, policy)
		}
	}
}

func TestUpdatesReplaceOneMasterAfterAnotherAndNoMediaNode(t *testing.T) {
	rolling := map[string]any{"AutoScalingRollingUpdate": map[string]any{"MinInstancesInService": 0.0, "MaxBatchSize": 1.0,
		"WaitOnResourceSignals": true, "PauseTime": "PT1H", "SuspendProcesses": []any{"HealthCheck", "ReplaceUnhealthy"}}}
	resources := synthesized.Section("Resources")
	for i := 1; i <= 4; i++ {
		id := fmt.Sprint("OpenViduMasterNodeASG", i)
		group := resources[id]
		if !reflect.DeepEqual(cfn.At(group, "UpdatePolicy"), rolling) {
			t.Errorf("%s: %v", id, cfn.At(group, "UpdatePolicy"))
		}
		if cfn.At(group, "CreationPolicy") != nil {
			t.Errorf("%s has a creation policy: creation would wait for a master that waits for the others", id)
		}
		var want []any
		if i > 1 {
			want = []any{fmt.Sprint("OpenViduMasterNodeASG", i-1)}
		}
		groups := slices.DeleteFunc(slices.Clone(cfn.List(cfn.At(group, "DependsOn"))), func(id any) bool { return !strings.Contains(id.(string), "ASG") })
		if got := groups; !slices.Equal(got, want) {
			t.Errorf("%s depends on %v, want %v", id, got, want)
		}
	}
	media := resources["OpenViduMediaNodeASG"]
	if want := map[string]any{"AutoScalingScheduledAction": map[string]any{"IgnoreUnmodifiedGroupSizeProperties": true}}; !reflect.DeepEqual(cfn.At(media, "UpdatePolicy"), want) {
		t.Errorf("fleet: %v", cfn.At(media, "UpdatePolicy"))
	}
	for id, resource := range resources {
		if cfn.At(resource, "Type") == "AWS::AutoScaling::AutoScalingGroup" {
			launch := cfn.At(resource, "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref")
			want := map[string]any{"Fn::GetAtt": []any{launch, "LatestVersionNumber"}}
			if got := cfn.At(resource, "Properties", "LaunchTemplate", "Version"); !reflect.DeepEqual(got, want) {
				t.Errorf("%s would not use a new version: %v", id, got)
			}
		}
	}
}

func TestStackWaitsForAllMastersAndTheFirstMediaNode(t *testing.T) {
	resources := synthesized.Section("Resources")
	for id, want := range map[string]struct {
		count    float64
		handle   string
		template string
	}{
		"MasterAllReady": {4, "MasterReady", "MasterLaunchTemplate4"},
		"MediaAllReady":  {1, "MediaReady", "OpenViduMediaNodeLaunchTemplate"},
	} {
		// Literals only: a wait condition cannot be updated at all.
		properties := map[string]any{"Count": want.count, "Handle": map[string]any{"Ref": want.handle}, "Timeout": "3600"}
		if got := cfn.At(resources[id], "Properties"); !reflect.DeepEqual(got, properties) {
			t.Errorf("%s: %v", id, got)
		}
		// It begins when the groups can begin, and not behind them: a node that fails is heard also while its group is made.
		depends := cfn.List(cfn.At(resources[id], "DependsOn"))
		for _, before := range []any{want.template, "MasterInfoFill"} {
			if !slices.Contains(depends, before) {
				t.Errorf("%s begins before %s is there", id, before)
			}
		}
		for _, other := range depends {
			if cfn.At(resources[other.(string)], "Type") == "AWS::AutoScaling::AutoScalingGroup" {
				t.Errorf("%s begins when %s has ended", id, other)
			}
		}
	}
}

func TestNothingCostlyComesBeforeTheChecks(t *testing.T) {
	resources := synthesized.Section("Resources")
	var before func(id string, seen map[string]bool)
	before = func(id string, seen map[string]bool) {
		direct := map[string]bool{}
		cfn.References(resources[id], direct)
		for dependency := range direct {
			if _, ok := resources[dependency]; ok && !seen[dependency] {
				seen[dependency] = true
				before(dependency, seen)
			}
		}
	}
	for id, resource := range resources {
		seen := map[string]bool{}
		before(id, seen)
		if seen[id] {
			t.Errorf("%s depends on itself", id)
		}
		switch cfn.At(resource, "Type") {
		case "AWS::EC2::Volume", "AWS::EC2::NetworkInterface", "AWS::EC2::LaunchTemplate", "AWS::AutoScaling::AutoScalingGroup",
			"AWS::ElasticLoadBalancingV2::LoadBalancer", "Custom::OpenViduCredentials":
			if !seen["PreflightChecks"] {
				t.Errorf("%s does not wait for the checks", id)
			}
		}
		if strings.HasPrefix(id, "OpenVidu") && strings.Contains(id, "ASG") && !seen["MasterInfoFill"] && !strings.Contains(id, "Media") {
			t.Errorf("%s boots before the secret is filled", id)
		}
	}
}

func TestChecksGetEveryParameterTheyTellOf(t *testing.T) {
	parameters := map[string]any{}
	want := map[string]any{"ServiceToken": "PreflightFunction.Arn", "ServiceTimeout": "900"}
	for _, name := range []string{"OpenViduVPC", "OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets", "LoadBalancerSubnets", "AmiId",
		"MasterNodeRootVolumeSize", "MediaNodeRootVolumeSize", "MasterNodeInstanceType", "MediaNodeInstanceType", "InitialNumberOfMediaNodes",
		"MinNumberOfMediaNodes", "MaxNumberOfMediaNodes", "WarmPoolSize", "HostedZoneId", "DomainName", "OpenViduCertificateARN", "TurnDomainName", "TurnCertificateARN",
		"DiskSize", "RetainVolumes", "KmsKeyArn", "RecordingsStorage", "S3AppDataBucketName", "S3ClusterDataBucketName", "VolumeSnapshotIds", "RestoredSharedInfoArn"} {
		parameters[name] = "the " + name
		want[name] = "the " + name
		if cfn.At(synthesized.Section("Parameters")[name], "Type") == "CommaDelimitedList" {
			want[name] = []any{"the " + name}
		}
	}
	d := deploy(t, with(parameters), nil)
	if got := d.OfType("Custom::OpenViduPreflight")["PreflightChecks"]; !reflect.DeepEqual(got, want) {
		t.Errorf("the checks get\n%v\nwant\n%v", got, want)
	}
	if got := d.Resolve(cfn.At(synthesized.Section("Outputs"), "MasterNodeZones", "Value")); got != "PreflightChecks.MasterNodeZones" {
		t.Errorf("MasterNodeZones is %v", got)
	}
}

// A late invocation must not change what came after CloudFormation gave up on it.
func TestNoFunctionRunsAfterCloudFormationGaveUp(t *testing.T) {
	d := deploy(t, with(nil), nil)
	configured := map[string]bool{}
	for _, config := range d.OfType("AWS::Lambda::EventInvokeConfig") {
		configured[fmt.Sprint(config["FunctionName"])] = true
		for id, function := range d.OfType("AWS::Lambda::Function") {
			if end := config["MaximumEventAgeInSeconds"].(float64) + function["Timeout"].(float64); end > 900 {
				t.Errorf("%s may end after %v s", id, end)
			}
		}
	}
	for id := range d.OfType("AWS::Lambda::Function") {
		if !configured[id+"."] {
			t.Errorf("%s may be invoked for hours: %v", id, configured)
		}
	}
	for _, kind := range []string{"Custom::OpenViduPreflight", "Custom::OpenViduSlots", "Custom::OpenViduCredentials"} {
		for id, resource := range d.OfType(kind) {
			if resource["ServiceTimeout"] != "900" {
				t.Errorf("%s: ServiceTimeout is %v", id, resource["ServiceTimeout"])
			}
		}
	}
}

func TestMediaNodesBootAfterTheSecretIsFilled(t *testing.T) {
	resources := synthesized.Section("Resources")
	found := map[string]bool{}
	cfn.References(resources["OpenViduMediaNodeASG"], found)
	cfn.References(resources["OpenViduMediaNodeLaunchTemplate"], found)
	if !found["MasterInfoFill"] {
		t.Error("neither the fleet nor its launch template waits for the secret's content")
	}
}

// userData resolves both nodes' user data with realistic values, which are rather long.
func userData(t *testing.T) map[string]string {
	return userDataWith(t, "ap-southeast-1", "openvidu-production-frankfurt", "amazonaws.com", "aws", "--force-utc-timezone,--a=b")
}

func userDataWith(t *testing.T, region, name, suffix, partition, flags string) map[string]string {
	long := map[string]string{
		"MasterReady": "https://cloudformation-waitcondition-" + region + ".s3." + region + "." + suffix + "/arn%3A" + partition + "%3Acloudformation%3A" + region + "%3A123456789012%3Astack/" + name + "/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/MasterReady?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261124T000000Z&X-Amz-SignedHeaders=host&X-Amz-Expires=86399&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261124%2F" + region + "%2Fs3%2Faws4_request&X-Amz-Signature=" + strings.Repeat("a", 64),
	}
	long["MediaReady"] = strings.ReplaceAll(long["MasterReady"], "MasterReady", "MediaReady")
	d := deploy(t, with(map[string]any{
		"AWS::Region": region, "AWS::StackName": name, "AWS::StackId": "arn:" + partition + ":cloudformation:" + region + ":123456789012:stack/" + name + "/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "AWS::URLSuffix": suffix, "DiskSize": 16384.0, "AdditionalInstallFlags": flags,
	}), func(id, attribute string) any {
		switch slot := id[len(id)-1:]; {
		case strings.HasPrefix(id, "MasterENI") && attribute == "PrimaryPrivateIpAddress":
			return "10.100.1" + slot + "1.20" + slot
		case strings.HasPrefix(id, "MasterENI"):
			return "eni-0123456789abcdef" + slot
		case strings.HasPrefix(id, "Volumes"):
			return "vol-0123456789abcdef" + slot
		case id == "OpenViduSharedInfo" || id == "MasterInfoMediaSecret":
			return "arn:" + partition + ":secretsmanager:" + region + ":123456789012:secret:" + id + "-AbCdEfGhIjKl-MnOpQr"
		case id == "MasterInfoLogs":
			return name + "-MasterInfoLogs-AbCdEfGhIjKl"
		case attribute == "Revision":
			return "0123456789abcdef"
		case long[id] != "":
			return long[id]
		}
		return id + "." + attribute
	})
	out := map[string]string{}
	for id, launch := range d.OfType("AWS::EC2::LaunchTemplate") {
		out[id] = cfn.At(launch, "LaunchTemplateData", "UserData").(string)
		if strings.Count(out[id], "\nsource <(") != 1 {
			t.Errorf("%s has not one packed script", id)
		}
	}
	return out
}

// unpacked is a text with its scripts in clear.
func unpacked(t *testing.T, text string) string {
	t.Helper()
	clear, err := packed.Unpack(text)
	if err != nil {
		t.Fatal(err)
	}
	return clear
}

func TestUserDataIsWellFormed(t *testing.T) {
	for id, text := range userData(t) {
		t.Logf("%s: %d bytes", id, len(text))
		if !strings.HasPrefix(text, "#!/bin/bash\n") {
			t.Errorf("%s does not begin with a shebang: cloud-init would not run it", id)
		}
		text := unpacked(t, text)
		if _, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), id); err != nil {
			t.Error(err)
		}
		if strings.Contains(text, "the-licence") || strings.Contains(text, "${Token") {
			t.Errorf("%s holds the license, or an unresolved token", id)
		}
		if *userDataDir != "" {
			if err := os.WriteFile(filepath.Join(*userDataDir, id+".sh"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Whatever the parameters, the names and the place: EC2 takes the user data.
func TestUserDataFitsWithTheLongestValues(t *testing.T) {
	longest, ok := cfn.At(synthesized.Section("Parameters"), "AdditionalInstallFlags", "MaxLength").(float64)
	if !ok {
		t.Fatal("AdditionalInstallFlags has no MaxLength")
	}
	flags := strings.Repeat("f", int(longest))
	for id, text := range userDataWith(t, "us-isof-south-1", strings.Repeat("s", 128), "amazonaws.com.cn", "aws-us-gov", flags) {
		t.Logf("%s: %d bytes", id, len(text))
		if len(text) > 12288 {
			t.Errorf("%s can have %d bytes, more than 12,288: EC2 takes 16,384, of which BeforeStart has 4,096", id, len(text))
		}
		if !strings.Contains(text, flags) || strings.Count(text, strings.Repeat("s", 128)) != 5 {
			t.Errorf("%s: the longest values are not in it", id)
		}
	}
	// What the header takes from parameters other than these has the length of an id or a number.
	referred := map[string]bool{}
	for _, launch := range []string{"MasterLaunchTemplate1", "OpenViduMediaNodeLaunchTemplate"} {
		cfn.References(cfn.At(synthesized.Section("Resources"), launch, "Properties", "LaunchTemplateData", "UserData"), referred)
	}
	for name := range synthesized.Section("Parameters") {
		if referred[name] && name != "AdditionalInstallFlags" && name != "DiskSize" {
			t.Errorf("%s stands in the user data: how long can it be?", name)
		}
	}
}

// A real shell reads the header, and says what it understood.
func TestUserDataGivesTheNodeItsValues(t *testing.T) {
	ips := "10.100.111.201 10.100.121.202 10.100.131.203 10.100.141.204"
	common := map[string]string{
		"REGION": "ap-southeast-1", "URL_SUFFIX": "amazonaws.com", "STACK": "arn:aws:cloudformation:ap-southeast-1:123456789012:stack/openvidu-production-frankfurt/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "MASTER_IPS": ips, "BEFORE_START": "",
		"INSTALL_FLAGS": "--force-utc-timezone,--a=b", "REQUIRE_SAME_INSTALLER": "false", "BLOCK_CONTAINER_METADATA": "false",
		"CLUSTER":       "arn:aws:cloudformation:ap-southeast-1:123456789012:stack/openvidu-production-frankfurt/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/Master",
		"LOG_GROUP":     "openvidu-production-frankfurt-MasterInfoLogs-AbCdEfGhIjKl",
		"INSTALLER_URL": "https://s3.eu-west-1.amazonaws.com/get.openvidu.io/pro/ha",
	}
	own := map[string]map[string]string{
		"OpenViduMediaNodeLaunchTemplate": {
			"DRAIN_HOOK": "drain", "READY_HOOK": "ready", "REVISION": "", "GROUP": "", "SLOT": "", "MEDIA_SECRET_ARN": "",
			"SECRET_ARN": "arn:aws:secretsmanager:ap-southeast-1:123456789012:secret:MasterInfoMediaSecret-AbCdEfGhIjKl-MnOpQr",
		},
	}
	for i, ip := range strings.Fields(ips) {
		slot := fmt.Sprint(i + 1)
		own["MasterLaunchTemplate"+slot] = map[string]string{
			"SLOT": slot, "ENI_ID": "eni-0123456789abcdef" + slot, "VOLUME_ID": "vol-0123456789abcdef" + slot, "FIXED_IP": ip,
			"GROUP":            "OpenViduMasterNodeASG" + slot,
			"SECRET_ARN":       "arn:aws:secretsmanager:ap-southeast-1:123456789012:secret:OpenViduSharedInfo-AbCdEfGhIjKl-MnOpQr",
			"MEDIA_SECRET_ARN": "arn:aws:secretsmanager:ap-southeast-1:123456789012:secret:MasterInfoMediaSecret-AbCdEfGhIjKl-MnOpQr",
			"DISK_SIZE":        "16384", "REVISION": "0123456789abcdef",
		}
	}
	for id, text := range userData(t) {
		header, _, ok := strings.Cut(text, "\nsource <(")
		if !ok {
			t.Fatalf("%s: no header", id)
		}
		want := maps.Clone(common)
		maps.Copy(want, own[id])
		names := slices.Sorted(maps.Keys(want))
		program := header + "\n"
		for _, name := range names {
			program += fmt.Sprintf("echo \"${%s[*]-}\"\n", name)
		}
		// The wait condition's address has characters that mean something to a shell.
		program += "[[ $WAIT_URL == https://*Ready\\?*Signature=aaa* ]] && echo url\n"
		command := exec.Command("bash", "-eu")
		command.Stdin = strings.NewReader(program)
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", id, err, output)
		}
		lines := strings.Split(strings.TrimRight(string(output), "\n"), "\n")
		for i, name := range names {
			if lines[i] != want[name] {
				t.Errorf("%s: %s is %q, want %q", id, name, lines[i], want[name])
			}
		}
		if lines[len(lines)-1] != "url" {
			t.Errorf("%s: WAIT_URL was not understood: %s", id, output)
		}
	}
}

func TestTemplateFitsItsBudget(t *testing.T) {
	t.Logf("%d bytes", len(written))
	if len(written) > budget {
		t.Errorf("the template has %d bytes, more than %d", len(written), budget)
	}
}

func TestTemplateIsSelfContained(t *testing.T) {
	text, _ := json.Marshal(synthesized)
	for _, word := range []string{"cdk-bootstrap", "BootstrapVersion", "CDKMetadata", "aws:cdk:path", "AWS::LanguageExtensions"} {
		if bytes.Contains(text, []byte(word)) {
			t.Errorf("the template needs, or tells of, %s", word)
		}
	}
}

// The golden is the contract that users have with the published template: logical ids above all.
func TestTemplateIsTheGoldenOne(t *testing.T) {
	golden := filepath.Join("testdata", "OpenViduHA.template.json")
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(readable(t, withLibraries(t))); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(golden)
	if err == nil && bytes.Equal(out.Bytes(), want) {
		return
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was written: look at its diff, then run the test again", golden)
	}
	dir := t.TempDir()
	actual := filepath.Join(dir, "actual.json")
	if err := os.WriteFile(actual, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Errorf("the template is not %s; if it should change, run: go test . -update\n%s", golden, difference(golden, actual))
}

// withLibraries is the template with its boot libraries in clear, each in its first part.
func withLibraries(t *testing.T) map[string]any {
	t.Helper()
	libraries, err := packed.Libraries(synthesized)
	if err != nil {
		t.Fatal(err)
	}
	out := maps.Clone(map[string]any(synthesized))
	resources := maps.Clone(synthesized.Section("Resources"))
	out["Resources"] = resources
	for id, resource := range resources {
		if cfn.At(resource, "Type") != "AWS::SSM::Parameter" {
			continue
		}
		properties := maps.Clone(cfn.At(resource, "Properties").(map[string]any))
		properties["Value"] = libraries[id]
		resource := maps.Clone(resource.(map[string]any))
		resource["Properties"] = properties
		resources[id] = resource
	}
	if len(libraries) != 2 {
		t.Errorf("%d libraries, want those of Master Nodes and Media Nodes", len(libraries))
	}
	return out
}

// readable unpacks scripts and splits texts of many lines into lists of lines, so that the golden's diffs show the line that changed.
func readable(t *testing.T, value any) any {
	switch v := value.(type) {
	case cfn.Template:
		return readable(t, map[string]any(v))
	case map[string]any:
		out := map[string]any{}
		for key, element := range v {
			out[key] = readable(t, element)
		}
		return out
	case []any:
		out := []any{}
		for _, element := range v {
			out = append(out, readable(t, element))
		}
		return out
	case string:
		if lines := strings.SplitAfter(unpacked(t, v), "\n"); len(lines) > 3 {
			return lines
		}
	}
	return value
}

// difference shows the first lines that differ.
func difference(golden, actual string) string {
	read := func(path string) []string {
		content, _ := os.ReadFile(path)
		return strings.Split(string(content), "\n")
	}
	was, is := read(golden), read(actual)
	for i := range max(len(was), len(is)) {
		if i >= len(was) || i >= len(is) || was[i] != is[i] {
			tail := func(lines []string) string {
				return strings.Join(lines[min(i, len(lines)):min(i+5, len(lines))], "\n")
			}
			return fmt.Sprintf("from line %d on, golden:\n%s\nnow:\n%s", i+1, tail(was), tail(is))
		}
	}
	return ""
}

func TestSynthesisIsRepeatable(t *testing.T) {
	dir := t.TempDir()
	app := newApp(dir)
	newStack(app, "OpenViduHA")
	app.Synth(nil)
	again, err := os.ReadFile(filepath.Join(dir, "OpenViduHA.template.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, written) {
		t.Error("a second synthesis gives another template")
	}
}

func TestResourceIdsArePlainNames(t *testing.T) {
	var hashed []string
	for id := range synthesized.Section("Resources") {
		if regexp.MustCompile(`[0-9A-F]{8}$`).MatchString(id) {
			hashed = append(hashed, id)
		}
	}
	sort.Strings(hashed)
	if len(hashed) > 0 {
		t.Errorf("ids with a hash: %v", hashed)
	}
	for _, id := range []string{"OpenViduSharedInfo", "OpenViduMediaNodeASG", "OpenViduMediaNodeLaunchTemplate",
		"OpenViduMasterNodeASG1", "OpenViduMasterNodeASG2", "OpenViduMasterNodeASG3", "OpenViduMasterNodeASG4"} {
		if synthesized.Section("Resources")[id] == nil {
			t.Errorf("%s, which OpenVidu documents, is missing", id)
		}
	}
}
