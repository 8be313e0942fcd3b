package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
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
