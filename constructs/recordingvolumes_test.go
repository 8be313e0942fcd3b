package constructs_test

import (
	"fmt"
	"testing"

	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

func TestSnapshotsAreTakenDailyAndRestored(t *testing.T) {
	for _, c := range []struct {
		days *float64
		want any
	}{{nil, 7.0}, {jsii.Number(30), 30.0}, {jsii.Number(0), nil}} {
		p := newProgram(t, "a")
		constructs.NewRecordingVolumes(p.stack, jsii.String("Volumes"), &constructs.RecordingVolumesProps{
			AvailabilityZones: jsii.Strings("eu-west-1a", "eu-west-1b"), SnapshotRetentionDays: c.days, SnapshotIds: jsii.Strings("snap-1", "snap-2"),
		})
		resources := p.resources()
		policies := ofType(resources, "AWS::DLM::LifecyclePolicy")
		for i, volume := range ofType(resources, "AWS::EC2::Volume") {
			if got := volume.Properties["SnapshotId"]; got != fmt.Sprint("snap-", i+1) {
				t.Errorf("volume %d is made from %v", i+1, got)
			}
		}
		if c.want == nil {
			if len(policies)+len(ofType(resources, "AWS::IAM::Role")) > 0 {
				t.Errorf("there are snapshots: %v", policies)
			}
			continue
		}
		details := policies[0].Properties["PolicyDetails"].(map[string]any)
		schedule := details["Schedules"].([]any)[0].(map[string]any)
		if got := schedule["RetainRule"].(map[string]any)["Count"]; got != c.want {
			t.Errorf("%v snapshots are kept, want %v", got, c.want)
		}
		if got := text(schedule["CreateRule"]); got != `{"Interval":24,"IntervalUnit":"HOURS","Times":["03:00"]}` || schedule["CopyTags"] != true {
			t.Errorf("schedule: %v", schedule)
		}
		for _, volume := range ofType(resources, "AWS::EC2::Volume") {
			if text(details["TargetTags"]) != text(volume.Properties["Tags"]) {
				t.Errorf("the policy looks for %s, a volume carries %s", text(details["TargetTags"]), text(volume.Properties["Tags"]))
			}
		}
	}
}
