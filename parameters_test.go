package main

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

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
