package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

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
