package iam

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/lab/internal/nodejs"
)

const (
	account  = "123456789012"
	volume   = "arn:aws:ec2:us-east-1:" + account + ":volume/vol-0123456789abcdef0"
	instance = "arn:aws:ec2:us-east-1:" + account + ":instance/i-0123456789abcdef0"
	secret   = "arn:aws:secretsmanager:us-east-1:" + account + ":secret:shared-AbCdEf"
	bucket   = "arn:aws:s3:::recordings"
	key      = "arn:aws:kms:us-east-1:" + account + ":key/11111111-2222-3333-4444-555555555555"
)

var decider *Decider

func TestMain(m *testing.M) {
	err := nodejs.Install("../..")
	if err == nil {
		decider, err = Start("../..")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := decider.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func document(t *testing.T, statements ...string) any {
	t.Helper()
	var policy any
	text := `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		t.Fatalf("%s: %s", err, text)
	}
	return policy
}

func role(action string, resources map[string][]Resource, policy any) Call {
	return Call{Principal: "arn:aws:sts::" + account + ":assumed-role/MasterRole/i-0123456789abcdef0", Account: account,
		Action: action, Resources: resources, Policies: []Policy{{"Own", policy}}}
}

func one(kind, arn string) map[string][]Resource { return map[string][]Resource{kind: {{ARN: arn}}} }

func tagged(arn string, tags map[string]any) Resource {
	return Resource{ARN: arn, Context: tags, Absent: []string{"aws:ResourceTag/", "ec2:ResourceTag/"}}
}

// attach is a call about two resources, each of which must be allowed.
func attach(policy any, v, i Resource) Call {
	return role("ec2:AttachVolume", map[string][]Resource{"volume": {v}, "instance": {i}}, policy)
}

func TestDecisions(t *testing.T) {
	const (
		allowed  = "allowed"
		denied   = "denied"
		explicit = "explicitly denied"
	)
	secrets := func(t *testing.T, statements ...string) Call {
		return role("secretsmanager:GetSecretValue", one("Secret", secret), document(t, statements...))
	}
	metric := func(t *testing.T, namespace string, statements ...string) Call {
		call := role("cloudwatch:PutMetricData", nil, document(t, statements...))
		call.Any, call.Context = true, map[string]any{"cloudwatch:namespace": namespace}
		return call
	}
	boundary := func(call Call, policy any) Call {
		call.Boundary = []Policy{{"Boundary", policy}}
		return call
	}
	inBucket := func(t *testing.T, secure string) Call {
		call := role("s3:GetBucketLocation", map[string][]Resource{"bucket": {{ARN: bucket, Policy: document(t,
			`{"Effect":"Deny","Principal":{"AWS":"*"},"Action":"s3:*","Resource":["`+bucket+`","`+bucket+`/*"],"Condition":{"Bool":{"aws:SecureTransport":"false"}}}`)}}},
			document(t, `{"Effect":"Allow","Action":"s3:GetBucketLocation","Resource":"arn:aws:s3:::*"}`))
		call.Context = map[string]any{"aws:SecureTransport": secure}
		return call
	}
	withKey := func(t *testing.T, keyPolicy, via string) Call {
		call := role("kms:CreateGrant", map[string][]Resource{"key": {{ARN: key, Policy: document(t, keyPolicy)}}},
			document(t, `{"Effect":"Allow","Action":"kms:CreateGrant","Resource":"arn:aws:kms:us-east-1:`+account+`:key/*",
				"Condition":{"Bool":{"kms:GrantIsForAWSResource":true},"StringEquals":{"kms:ViaService":"ec2.us-east-1.amazonaws.com"}}}`))
		call.Context = map[string]any{"kms:GrantIsForAWSResource": "true", "kms:ViaService": via}
		return call
	}
	const volumes = `{"Effect":"Allow","Action":"ec2:AttachVolume","Resource":"arn:aws:ec2:*:*:volume/vol-0123456789abcdef0"}`
	const instances = `{"Effect":"Allow","Action":"ec2:AttachVolume","Resource":"arn:aws:ec2:*:*:instance/*","Condition":{"StringEquals":{"aws:ResourceTag/Cluster":"one"}}}`
	const root = `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"}`
	mine, others := map[string]any{"aws:ResourceTag/Cluster": "one"}, map[string]any{"aws:ResourceTag/Cluster": "two"}
	for name, c := range map[string]struct {
		call Call
		want string
	}{
		"no policy":                      {secrets(t), denied},
		"exact":                          {secrets(t, `{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"`+secret+`"}`), allowed},
		"another resource":               {secrets(t, `{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"`+secret+`2"}`), denied},
		"another action":                 {secrets(t, `{"Effect":"Allow","Action":"secretsmanager:PutSecretValue","Resource":"*"}`), denied},
		"actions have no case":           {secrets(t, `{"Effect":"Allow","Action":"SecretsManager:getsecretvalue","Resource":"*"}`), allowed},
		"resources have case":            {secrets(t, `{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"`+strings.Replace(secret, "shared", "Shared", 1)+`"}`), denied},
		"* in an action":                 {secrets(t, `{"Effect":"Allow","Action":"secretsmanager:Get*Value","Resource":"*"}`), allowed},
		"* in an action that differs":    {secrets(t, `{"Effect":"Allow","Action":"secretsmanager:Put*","Resource":"*"}`), denied},
		"? is one character":             {secrets(t, `{"Effect":"Allow","Action":"*","Resource":"arn:aws:secretsmanager:us-east-1:`+account+`:secret:shared-??????"}`), allowed},
		"? is not two characters":        {secrets(t, `{"Effect":"Allow","Action":"*","Resource":"arn:aws:secretsmanager:us-east-1:`+account+`:secret:shared-?????"}`), denied},
		"* spans slashes":                {role("ec2:TerminateInstances", one("instance", instance), document(t, `{"Effect":"Allow","Action":"ec2:*","Resource":"arn:aws:ec2:*:*:i*0"}`)), allowed},
		"[ is no class":                  {secrets(t, `{"Effect":"Allow","Action":"*","Resource":"arn:aws:secretsmanager:us-east-1:`+account+`:secret:[s]hared-*"}`), denied},
		"NotAction":                      {secrets(t, `{"Effect":"Allow","NotAction":"secretsmanager:Get*","Resource":"*"}`), denied},
		"NotResource":                    {secrets(t, `{"Effect":"Allow","Action":"*","NotResource":"`+bucket+`"}`), allowed},
		"explicit Deny wins":             {secrets(t, `{"Effect":"Deny","Action":"secretsmanager:*","Resource":"*"}`, `{"Effect":"Allow","Action":"*","Resource":"*"}`), explicit},
		"Deny of something else":         {secrets(t, `{"Effect":"Deny","Action":"secretsmanager:Put*","Resource":"*"}`, `{"Effect":"Allow","Action":"*","Resource":"*"}`), allowed},
		"within the boundary":            {boundary(secrets(t, `{"Effect":"Allow","Action":"*","Resource":"*"}`), document(t, `{"Effect":"Allow","Action":"secretsmanager:*","Resource":"*"}`)), allowed},
		"beyond the boundary":            {boundary(secrets(t, `{"Effect":"Allow","Action":"*","Resource":"*"}`), document(t, `{"Effect":"Allow","Action":"ec2:*","Resource":"*"}`)), denied},
		"condition holds":                {metric(t, "OpenVidu", `{"Effect":"Allow","Action":"cloudwatch:PutMetricData","Resource":"*","Condition":{"StringEquals":{"cloudwatch:namespace":"OpenVidu"}}}`), allowed},
		"condition fails":                {metric(t, "AWS/EC2", `{"Effect":"Allow","Action":"cloudwatch:PutMetricData","Resource":"*","Condition":{"StringEquals":{"cloudwatch:namespace":"OpenVidu"}}}`), denied},
		"condition of a Deny":            {metric(t, "AWS/EC2", `{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringLike":{"cloudwatch:namespace":"AWS/*"}}}`, `{"Effect":"Allow","Action":"*","Resource":"*"}`), explicit},
		"condition of a Deny fails":      {metric(t, "OpenVidu", `{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringLike":{"cloudwatch:namespace":"AWS/*"}}}`, `{"Effect":"Allow","Action":"*","Resource":"*"}`), allowed},
		"no resource is not any":         {metric(t, "OpenVidu", `{"Effect":"Allow","Action":"cloudwatch:PutMetricData","Resource":"arn:aws:cloudwatch:us-east-1:`+account+`:dataset/*"}`), denied},
		"both resources":                 {attach(document(t, volumes, instances), tagged(volume, nil), tagged(instance, mine)), allowed},
		"one resource alone":             {attach(document(t, instances), tagged(volume, nil), tagged(instance, mine)), denied},
		"tag of another":                 {attach(document(t, volumes, instances), tagged(volume, nil), tagged(instance, others)), denied},
		"no tag":                         {attach(document(t, volumes, instances), tagged(volume, nil), tagged(instance, nil)), denied},
		"tag that must be absent is":     {attach(document(t, volumes, `{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"Null":{"ec2:ResourceTag/Slot":"true"}}}`), tagged(volume, nil), tagged(instance, mine)), allowed},
		"tag that must be absent is not": {attach(document(t, volumes, `{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"Null":{"ec2:ResourceTag/Slot":"true"}}}`), tagged(volume, nil), tagged(instance, map[string]any{"ec2:ResourceTag/Slot": "1"})), denied},
		"tag where the reference has none": {role("route53:GetHostedZone", map[string][]Resource{"hostedzone": {tagged("arn:aws:route53:::hostedzone/Z1", mine)}},
			document(t, `{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/Cluster":"one"}}}`)), denied},
		"resource policy":             {inBucket(t, "true"), allowed},
		"resource policy denies":      {inBucket(t, "false"), explicit},
		"key policy":                  {withKey(t, root, "ec2.us-east-1.amazonaws.com"), allowed},
		"key through another service": {withKey(t, root, "s3.us-east-1.amazonaws.com"), denied},
		"key policy without the account": {withKey(t, strings.Replace(root, ":root", ":role/Administrator", 1), "ec2.us-east-1.amazonaws.com"),
			denied},
	} {
		t.Run(name, func(t *testing.T) {
			d := decider.Decide(c.call)
			got := allowed
			switch {
			case d.Problem != "":
				got = d.Problem
			case d.Explicit:
				got = explicit
			case d.Denied != "":
				got = denied
			}
			if got != c.want {
				t.Errorf("it is %s, want %s", got, c.want)
			}
		})
	}
	if d := decider.Decide(attach(document(t, volumes, instances), tagged(volume, nil), tagged(instance, others))); d.Denied != instance {
		t.Errorf("denied on %q, want the instance", d.Denied)
	}
}

// What cannot be decided is neither allowed nor quietly denied.
func TestProblems(t *testing.T) {
	everything := document(t, `{"Effect":"Allow","Action":"*","Resource":"*"}`)
	for name, c := range map[string]struct {
		call Call
		says string
	}{
		"unknown service":  {role("openvidu:Call", nil, everything), "does not know openvidu:Call"},
		"unknown action":   {role("ec2:AttachVolumes", nil, everything), "does not know ec2:AttachVolumes"},
		"no action":        {role("s3:", nil, everything), "does not know s3:"},
		"resource unnamed": {role("ec2:AttachVolume", one("volume", volume), everything), "which parameter of ec2:AttachVolume names its instance"},
		"none named":       {role("s3:GetBucketLocation", nil, everything), "names its accesspoint or bucket"},
		"not an ARN":       {role("secretsmanager:GetSecretValue", one("Secret", "shared"), everything), "no.resource.types"},
		"invalid policy":   {role("ec2:DescribeVolumes", nil, document(t, `{"Effect":"Perhaps","Action":"*","Resource":"*"}`)), "policy.errors"},
		"invalid operator": {role("ec2:DescribeVolumes", nil, document(t, `{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringResembles":{"ec2:Region":"x"}}}`)), "StringResembles is no condition operator"},
		"condition key that does not exist": {role("ec2:DescribeVolumes", nil, document(t, `{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"ec2:Regoin":"x"}}}`)),
			"ec2:Regoin is no condition key"},
		"condition key without a value": {role("ec2:DescribeVolumes", nil, document(t, `{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEqualsIfExists":{"ec2:Region":"x"}}}`)),
			"does not know ec2:Region"},
		"condition key of a Deny": {role("ec2:DescribeVolumes", nil, document(t, `{"Effect":"Allow","Action":"*","Resource":"*"}`, `{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}}`)),
			"does not know aws:SourceIp"},
		"policy variable without a value": {role("secretsmanager:GetSecretValue", one("Secret", secret), document(t, `{"Effect":"Allow","Action":"*","Resource":"arn:aws:secretsmanager:us-east-1:`+account+`:secret:${aws:PrincipalTag/Cluster}-*"}`)),
			"does not know aws:PrincipalTag/Cluster"},
		"tags that are not known": {role("ec2:TerminateInstances", one("instance", instance), document(t, `{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/Cluster":"one"}}}`)),
			"does not know aws:ResourceTag/Cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			if d := decider.Decide(c.call); !strings.Contains(d.Problem, c.says) || d.Denied != "" {
				t.Errorf("it says %+v, want %q", d, c.says)
			}
		})
	}
}
