package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/syntax"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

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
