package lab

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// permissions is a template with a role, of which an instance has the profile, and what the role has to do with.
const permissions = `{
  "Secret": {"Type": "AWS::SecretsManager::Secret", "Properties": {"KmsKeyId": {"Fn::GetAtt": ["Key", "Arn"]}, "Tags": [{"Key": "Cluster", "Value": "one"}]}},
  "Plain": {"Type": "AWS::SecretsManager::Secret", "Properties": {}},
  "Guarded": {"Type": "AWS::SecretsManager::Secret", "Properties": {}},
  "GuardedPolicy": {"Type": "AWS::SecretsManager::ResourcePolicy", "Properties": {"SecretId": {"Ref": "Guarded"}, "ResourcePolicy": {"Version": "2012-10-17", "Statement": [
    {"Effect": "Deny", "Principal": {"AWS": {"Fn::GetAtt": ["Role", "Arn"]}}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]}}},
  "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {}},
  "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"AWS": {"Fn::Sub": "arn:aws:iam::${AWS::AccountId}:root"}}, "Action": "kms:*", "Resource": "*"}]}}},
  "Managed": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "s3:GetBucketLocation", "Resource": {"Fn::GetAtt": ["Bucket", "Arn"]}}]}}},
  "Attached": {"Type": "AWS::IAM::Policy", "Properties": {"PolicyName": "Attached", "Roles": [{"Ref": "Role"}], "PolicyDocument": {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "ec2:TerminateInstances", "Resource": "*", "Condition": {"ArnEquals": {"ec2:SourceInstanceARN": {"Fn::Sub": "arn:aws:ec2:${AWS::Region}:${AWS::AccountId}:instance/i-0123456789abcdef0"}}}}]}}},
  "Role": {"Type": "AWS::IAM::Role", "Properties": {
    "ManagedPolicyArns": ["arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore", {"Ref": "Managed"}],
    "Policies": [{"PolicyName": "Own", "PolicyDocument": {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"},
      {"Effect": "Allow", "Action": "secretsmanager:PutSecretValue", "Resource": "*", "Condition": {"StringEquals": {"aws:ResourceTag/Cluster": "one"}}},
      {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": {"Fn::GetAtt": ["Key", "Arn"]}, "Condition": {"StringEquals": {"kms:ViaService": "secretsmanager.us-east-1.amazonaws.com"}}},
      {"Effect": "Allow", "Action": "cloudformation:SignalResource", "Resource": {"Ref": "AWS::StackId"}},
      {"Effect": "Allow", "Action": "ec2:DescribeVolumes", "Resource": "*", "Condition": {"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}}]}}]}},
  "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [{"Ref": "Role"}]}}
}`

// permitted deploys the template, as it is but for what change does to the role's properties.
func permitted(t testing.TB, options Options, change func(role map[string]any)) *Stack {
	t.Helper()
	s, err := Deploy(cloud, withRole(t, change), nil, options)
	t.Cleanup(s.Destroy)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func withRole(t testing.TB, change func(role map[string]any)) cfn.Template {
	t.Helper()
	var resources map[string]any
	if err := json.Unmarshal([]byte(permissions), &resources); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(cfn.At(resources, "Role", "Properties").(map[string]any))
	}
	return cfn.Template{"Resources": resources}
}

// ask is a call of an instance that has the role.
func (s *Stack) ask(service, action string, input map[string]any) request {
	m := &Machine{Id: "i-0123456789abcdef0", Ip: "10.99.16.4", Group: "Group", stack: s, role: "Role"}
	return request{who: principal{s, m.Group, m.role, m}, service: service, action: action, form: url.Values{}, input: input, from: "203.0.113.7"}
}

func TestIamDecidesByTheTemplate(t *testing.T) {
	t.Parallel()
	s := permitted(t, Options{}, nil)
	secret := func(id string) map[string]any { return map[string]any{"SecretId": s.attribute(id, "")} }
	bucket := s.attribute("Bucket", "").(string)
	mine := s.ask("ec2", "TerminateInstances", nil)
	mine.form.Set("InstanceId.1", "i-1")
	other := s.ask("ec2", "TerminateInstances", nil)
	other.form.Set("InstanceId.1", "i-1")
	other.who.machine.Id = "i-2"
	elsewhere := s.ask("ec2", "DescribeVolumes", nil)
	elsewhere.from = "198.51.100.7"
	for name, c := range map[string]struct {
		call request
		want string // part of the resource that the call is refused on
	}{
		"an AWS managed policy":                             {s.ask("ssmmessages", "CreateControlChannel", nil), ""},
		"a managed policy of the stack":                     {s.ask("s3", "GetBucketLocation", map[string]any{"Bucket": bucket}), ""},
		"a managed policy, another bucket":                  {s.ask("s3", "GetBucketLocation", map[string]any{"Bucket": "other"}), "arn:aws:s3:::other"},
		"a policy that names the role":                      {mine, ""},
		"a policy for another instance":                     {other, "instance/i-1"},
		"from the address":                                  {s.ask("ec2", "DescribeVolumes", nil), ""},
		"from another address":                              {elsewhere, "*"},
		"the stack by its id":                               {s.ask("cloudformation", "SignalResource", map[string]any{"StackName": s.id}), ""},
		"the stack by its name":                             {s.ask("cloudformation", "SignalResource", map[string]any{"StackName": s.name}), "stack/" + s.name + "/"},
		"another stack":                                     {s.ask("cloudformation", "SignalResource", map[string]any{"StackName": "other"}), "stack/other/"},
		"a secret without a key":                            {s.ask("secretsmanager", "GetSecretValue", secret("Plain")), ""},
		"a secret with a key":                               {s.ask("secretsmanager", "GetSecretValue", secret("Secret")), ""},
		"a secret whose policy denies":                      {s.ask("secretsmanager", "GetSecretValue", secret("Guarded")), "-Guarded-"},
		"a secret with a key, to be written":                {s.ask("secretsmanager", "PutSecretValue", secret("Secret")), "key/"},
		"a secret without the tag, to be written":           {s.ask("secretsmanager", "PutSecretValue", secret("Plain")), "-Plain-"},
		"the key, not on behalf of the caller by a service": {s.ask("kms", "Decrypt", map[string]any{"KeyId": s.attribute("Key", "Arn")}), "key/"},
	} {
		if got := s.denied(c.call); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: refused on %q, want %q", name, got, c.want)
		}
	}
	if len(s.problems) > 0 {
		t.Error(s.problems)
	}
}

// What IAM cannot decide fails the scenario.
func TestIamComplains(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(role map[string]any)
		from   string
		action string
		says   string
	}{
		"an action that does not exist": {nil, "203.0.113.7", "DescribeVolume", "does not know ec2:DescribeVolume"},
		"an address that is not known":  {nil, "10.99.16.4", "DescribeVolumes", "does not know aws:SourceIp"},
		"resources that are not known":  {nil, "203.0.113.7", "CreateSnapshot", "which parameter of ec2:CreateSnapshot"},
		"an unknown AWS managed policy": {func(role map[string]any) { role["ManagedPolicyArns"] = []any{"arn:aws:iam::aws:policy/Nothing"} }, "203.0.113.7", "DescribeVolumes", "policy/Nothing"},
		"a managed policy of the account": {func(role map[string]any) { role["ManagedPolicyArns"] = []any{"arn:aws:iam::123456789012:policy/Other"} }, "203.0.113.7", "DescribeVolumes",
			"does not know the managed policy"},
	} {
		s := permitted(t, Options{}, c.change)
		call := s.ask("ec2", c.action, nil)
		call.from = c.from
		if got := s.denied(call); got == "" || len(s.problems) != 1 || !strings.Contains(s.problems[0], c.says) || len(s.refused) > 0 {
			t.Errorf("%s: refused on %q, problems %q, refused %q", name, got, s.problems, s.refused)
		}
	}
}

func TestIamChangesTakeEffectLate(t *testing.T) {
	t.Parallel()
	s := permitted(t, Options{IamDelay: time.Hour}, nil)
	later := func(ids ...string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			for i := range s.iam[id] {
				s.iam[id][i].since = s.iam[id][i].since.Add(-2 * time.Hour)
			}
		}
	}
	read := func() bool {
		return s.denied(s.ask("secretsmanager", "GetSecretValue", map[string]any{"SecretId": s.attribute("Plain", "")})) == ""
	}
	locate := func() bool {
		return s.denied(s.ask("s3", "GetBucketLocation", map[string]any{"Bucket": s.attribute("Bucket", "")})) == ""
	}
	function := s.ask("secretsmanager", "GetSecretValue", map[string]any{"SecretId": s.attribute("Plain", "")})
	function.who.machine = nil
	steps := []struct {
		name string
		do   func()
		want [3]bool // what the instance may read and locate, and what a function may read
	}{
		{"nothing is visible", func() {}, [3]bool{false, false, false}},
		{"the role is, the profile is not", func() { later("Role") }, [3]bool{false, false, true}},
		{"the profile is", func() { later("Profile") }, [3]bool{true, false, true}},
		{"the managed policy is", func() { later("Managed") }, [3]bool{true, true, true}},
		{"the role lost its policies a moment ago", func() {
			if err := s.UpdateTemplate(withRole(t, func(role map[string]any) { delete(role, "Policies") }), nil); err != nil {
				t.Fatal(err)
			}
		}, [3]bool{true, true, true}},
	}
	for _, step := range steps {
		step.do()
		if got := [3]bool{read(), locate(), s.denied(function) == ""}; got != step.want {
			t.Errorf("%s: allowed is %v, want %v", step.name, got, step.want)
		}
	}
	if len(s.refused) > 0 || len(s.early) != 6 || len(s.problems) > 0 {
		t.Errorf("refused %q, early %q, problems %q", s.refused, s.early, s.problems)
	}
	later("Role")
	if read() || !locate() || len(s.refused) != 1 {
		t.Errorf("what no policy allows any more is no matter of time: refused %q", s.refused)
	}
}
