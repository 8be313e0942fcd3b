package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// Without its secret, data that stays is unreadable. No parameter decides which secret a cluster has: one that did would replace it
// by an empty one when it changes.
func TestTheSecretOutlivesTheStackAsItsDataDoes(t *testing.T) {
	resource := synthesized.Section("Resources")["OpenViduSharedInfo"]
	if got := cfn.At(resource, "DeletionPolicy"); got != "RetainExceptOnCreate" {
		t.Errorf("the deletion of the stack does to the secret: %v", got)
	}
	if got := cfn.At(resource, "UpdateReplacePolicy"); got != "Retain" {
		t.Errorf("a replacement does to the secret: %v", got)
	}
	if got := cfn.At(resource, "Condition"); got != nil {
		t.Errorf("the secret is there on condition of %v", got)
	}
	for retain, want := range map[string]string{"true": "true", "false": "false"} {
		d := deploy(t, with(map[string]any{"RetainVolumes": retain}), nil)
		fill := d.OfType("Custom::OpenViduCredentials")["MasterInfoFill"]
		if got := fill["VolumesRetained"]; got != want {
			t.Errorf("RetainVolumes %s: the function is told %v", retain, got)
		}
		if got := credentialsVariable(d, "VOLUMES_TAG"); got != fmt.Sprint(d.Values["AWS::StackId"], "/Volumes") {
			t.Errorf("the function looks for snapshots of %v", got)
		}
		// The right to delete the secret is there only where it may be deleted.
		role, _ := json.Marshal(d.OfType("AWS::IAM::Role")["MasterInfoCredentialsRole"])
		if got := strings.Contains(string(role), "secretsmanager:DeleteSecret"); got != (retain == "false") {
			t.Errorf("RetainVolumes %s: the function may delete the secret: %v", retain, got)
		}
	}
}

// credentialsVariable is of the environment of the function that fills the secrets.
func credentialsVariable(d *cfn.Deployment, name string) any {
	return cfn.At(d.OfType("AWS::Lambda::Function")["MasterInfoCredentials"], "Environment", "Variables", name)
}

// Media Nodes face the internet: their role reads a secret with what they use, and no other.
func TestMediaNodesReadOnlyWhatTheyUse(t *testing.T) {
	d := deploy(t, with(nil), nil)
	readers := map[string][]string{}
	for id, role := range d.OfType("AWS::IAM::Role") {
		for _, policy := range cfn.List(role["Policies"]) {
			for _, statement := range cfn.List(cfn.At(policy, "PolicyDocument", "Statement")) {
				if slices.Contains(cfn.List(cfn.At(statement, "Action")), any("secretsmanager:GetSecretValue")) {
					for _, resource := range cfn.List(cfn.At(statement, "Resource")) {
						readers[fmt.Sprint(resource)] = append(readers[fmt.Sprint(resource)], id)
					}
				}
			}
		}
	}
	for arn, ids := range readers {
		slices.Sort(ids)
		readers[arn] = slices.Compact(ids)
	}
	want := map[string][]string{
		"OpenViduSharedInfo.":    {"MasterInfoCredentialsRole", "MasterRole"},
		"MasterInfoMediaSecret.": {"MasterInfoCredentialsRole", "MasterRole", "MediaRole"},
	}
	if !reflect.DeepEqual(readers, want) {
		t.Errorf("secrets are read by %v, want %v", readers, want)
	}
	fill := d.OfType("Custom::OpenViduCredentials")["MasterInfoFill"]
	// In the properties, so that CloudFormation fills a secret that replaced another.
	for _, got := range []any{fill["MediaSecretArn"], credentialsVariable(d, "MEDIA_SECRET_ARN")} {
		if got != "MasterInfoMediaSecret." {
			t.Errorf("the function fills %v", got)
		}
	}
	if got := fmt.Sprint(fill["MediaKeys"]); got != "[REDIS_PASSWORD OPENVIDU_VERSION]" {
		t.Errorf("Media Nodes get %s", got)
	}
	if got := credentialsVariable(d, "MEDIA_KEYS"); got != "REDIS_PASSWORD,OPENVIDU_VERSION" {
		t.Errorf("Media Nodes get %v", got)
	}
	for id, want := range map[string]string{"OpenViduMediaNodeLaunchTemplate": "MasterInfoMediaSecret.", "MasterLaunchTemplate1": "OpenViduSharedInfo."} {
		text, _ := cfn.At(d.OfType("AWS::EC2::LaunchTemplate")[id], "LaunchTemplateData", "UserData").(string)
		if !strings.Contains(text, "\nSECRET_ARN='"+want+"'\n") {
			t.Errorf("%s reads another secret than %s", id, want)
		}
	}
	secret := synthesized.Section("Resources")["MasterInfoMediaSecret"]
	if cfn.At(secret, "DeletionPolicy") != "Delete" || cfn.At(secret, "Properties", "SecretString") != nil || cfn.At(secret, "Properties", "GenerateSecretString") != nil {
		t.Errorf("the Media Nodes' secret: %v", secret)
	}
}

// A managed policy is AWS's to widen: AmazonSSMManagedInstanceCore reads every parameter of the account.
func TestNoRoleHasAManagedPolicyOfAws(t *testing.T) {
	for id, role := range deploy(t, with(map[string]any{"RecordingsStorage": "S3"}), nil).OfType("AWS::IAM::Role") {
		for _, policy := range cfn.List(role["ManagedPolicyArns"]) {
			if strings.Contains(fmt.Sprint(policy), ":iam::aws:policy/") {
				t.Errorf("%s has %v", id, policy)
			}
		}
	}
}

func TestOneKeyEncryptsAllThatHoldsCredentials(t *testing.T) {
	const key = "arn:aws:kms:eu-west-1:123456789012:key/0f1e2d3c-1111-2222-3333-444455556666"
	for given, want := range map[string]any{"": nil, key: key} {
		d := deploy(t, with(map[string]any{"KmsKeyArn": given}), nil)
		found := 0
		check := func(id string, got any) {
			found++
			if got != want {
				t.Errorf("KmsKeyArn %q: %s has the key %v", given, id, got)
			}
		}
		for id, volume := range d.OfType("AWS::EC2::Volume") {
			check(id, volume["KmsKeyId"])
		}
		for id, secret := range d.OfType("AWS::SecretsManager::Secret") {
			check(id, secret["KmsKeyId"])
		}
		for id, launch := range d.OfType("AWS::EC2::LaunchTemplate") {
			for _, mapping := range cfn.List(cfn.At(launch, "LaunchTemplateData", "BlockDeviceMappings")) {
				check(id, cfn.At(mapping, "Ebs", "KmsKeyId"))
			}
		}
		if found != 4+2+5 {
			t.Errorf("%d resources were looked at", found)
		}
		var allowed []string
		for id, role := range d.OfType("AWS::IAM::Role") {
			for _, policy := range cfn.List(role["Policies"]) {
				for _, statement := range cfn.List(cfn.At(policy, "PolicyDocument", "Statement")) {
					for _, action := range cfn.List(cfn.At(statement, "Action")) {
						// What tells of a key does not use it.
						if action := fmt.Sprint(action); strings.HasPrefix(action, "kms:") && !slices.Contains([]string{"kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants"}, action) {
							allowed = append(allowed, fmt.Sprint(id, " ", action, " ", cfn.At(statement, "Resource"), " ", cfn.At(statement, "Condition")))
						}
					}
				}
			}
		}
		if want == nil && len(allowed) > 0 {
			t.Errorf("without a key, roles may use keys:\n%s", strings.Join(allowed, "\n"))
		}
		for _, line := range allowed {
			if !strings.Contains(line, " "+key+" ") || !strings.Contains(line, "kms:ViaService") {
				t.Errorf("not this key through one service alone: %s", line)
			}
		}
		if want != nil && len(allowed) == 0 {
			t.Error("nobody may use the key")
		}
	}
}
