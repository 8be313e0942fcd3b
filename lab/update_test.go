package lab

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// checkEverywhere looks for a setting on every master.
func checkEverywhere(t testing.TB, s *Stack, key, want string) {
	t.Helper()
	for slot := 1; slot <= 4; slot++ {
		expect(t, key, s.Machine(Group(slot)).Shell("sed -n 's/^"+key+"=//p' /opt/openvidu/config/cluster/openvidu.env"), want)
	}
}

func TestUpdateReplacesOneMasterAtATime(t *testing.T) {
	scenario(t, Options{Media: 1, Hold: After(time.Second)}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1, 2, 3, 4)
		quiet(t, s, 1, 2, 3, 4)
		mark(s, 1, 2, 3, 4)
		s.SetSecret(map[string]any{"MINIO_SECRET_KEY": "edited-by-hand"})
		media, size := s.Machine(MediaGroup), s.Machine(Group(1)).Shell("df --output=size /opt/openvidu | tail -n 1")
		w := watch(s)
		if err := s.Update(map[string]any{"RTCEngine": "mediasoup", "DiskSize": 60}); err != nil {
			t.Error(err)
		}
		if most, ever := w.end(); len(most) > 1 || len(ever) != 4 {
			t.Errorf("slots %v were down at the same time, %v at any time", most, ever)
		}
		expect(t, "stack", s.Status(), "UPDATE_COMPLETE")
		checkKept(t, s, 1, 2, 3, 4)
		checkEverywhere(t, s, "OPENVIDU_RTC_ENGINE", "mediasoup")
		checkEverywhere(t, s, "MINIO_SECRET_KEY", "edited-by-hand")
		if s.Machine(Group(1)).Shell("df --output=size /opt/openvidu | tail -n 1") <= size {
			t.Error("the file system did not grow with the volume")
		}
		if s.Machine(MediaGroup) != media {
			t.Error("the update replaced a Media Node")
		}
	})
}

func TestUpdateThatChangesNoNodeReplacesNone(t *testing.T) {
	scenario(t, Options{Masters: 1, Media: 1}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		master, media := s.Machine(Group(1)), s.Machine(MediaGroup)
		if err := s.Update(map[string]any{"ScaleTargetCPU": 60, "MaxNumberOfMediaNodes": 7}); err != nil {
			t.Error(err)
		}
		if s.Machine(Group(1)) != master || s.Machine(MediaGroup) != media {
			t.Error("a node was replaced")
		}
	})
}

// The new version of the launch template makes nodes whose installation fails: the first says so, the others stay, and the
// rollback brings the first one back.
func TestUpdateThatFailsRollsBack(t *testing.T) {
	broken := func(m *Machine) map[string]string {
		if m.Version == 2 {
			return map[string]string{"etc/lab/installer-fails": "99"}
		}
		return nil
	}
	scenario(t, Options{Scale: 60, NodeFiles: broken}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1, 2, 3, 4)
		mark(s, 1, 2, 3, 4)
		others := []*Machine{s.Machine(Group(2)), s.Machine(Group(3)), s.Machine(Group(4))}
		w := watch(s)
		err := s.Update(map[string]any{"RTCEngine": "mediasoup"})
		if err == nil || !strings.Contains(err.Error(), "OpenViduMasterNodeASG1: Received 1 FAILURE signal") {
			t.Errorf("the update ended with: %v", err)
		}
		expect(t, "stack", s.Status(), "UPDATE_ROLLBACK_COMPLETE")
		if most, ever := w.end(); !slices.Equal(most, []int{1}) || !slices.Equal(ever, []int{1}) {
			t.Errorf("slots %v were down at the same time, %v at any time", most, ever)
		}
		if !slices.Equal(others, []*Machine{s.Machine(Group(2)), s.Machine(Group(3)), s.Machine(Group(4))}) {
			t.Error("other masters were replaced")
		}
		expect(t, "recording", s.Machine(Group(1)).Shell("cat "+precious), "1")
		checkEverywhere(t, s, "OPENVIDU_RTC_ENGINE", "pion")
		expect(t, "secret", s.Secret()["OPENVIDU_RTC_ENGINE"].(string), "pion")
	})
}

func TestUpdatesThatAreRefusedTouchNothing(t *testing.T) {
	scenario(t, Options{Masters: 1}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 1)
		master, secret := s.Machine(Group(1)), s.Secret()
		for parameter, c := range map[string]struct {
			value any
			says  string
		}{
			"OpenViduVersion":           {"3.10.0", "upgrades nothing"},
			"OpenViduMasterNodeSubnets": {subnets[1:], "OpenViduMasterNodeSubnets"},
			"DiskSize":                  {"40", "DiskSize"},
			"DomainName":                {"new.example.com", "OpenVidu keeps its domain with its data"},
		} {
			if err := s.Update(map[string]any{parameter: c.value}); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", parameter, err)
			}
			expect(t, "stack", s.Status(), "UPDATE_ROLLBACK_COMPLETE")
		}
		if s.Machine(Group(1)) != master {
			t.Error("a node was replaced")
		}
		now, _ := json.Marshal(s.Secret())
		before, _ := json.Marshal(secret)
		expect(t, "secret", string(now), string(before))
	})
}

// CloudFormation calls functions more than once, and not always in order.
func TestFunctionsAreIdempotent(t *testing.T) {
	scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
		const id = "MasterInfoFill"
		text := func() string { content, _ := json.Marshal(s.Secret()); return string(content) }
		succeeds := func(event Event) Answer {
			t.Helper()
			answer := s.Invoke(id, event)
			if answer.Status != "SUCCESS" || answer.Answers != 1 {
				t.Errorf("%v: %+v", event.RequestType, answer)
			}
			return answer
		}
		before, revision := text(), s.attribute(id, "Revision")
		for _, request := range []string{"00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000a", ""} {
			if answer := succeeds(Event{RequestType: "Create", RequestId: request}); answer.Data["Revision"] != revision {
				t.Errorf("revision %v, not %v", answer.Data["Revision"], revision)
			}
		}
		s.mu.Lock()
		old := s.applied[id]
		s.mu.Unlock()
		succeeds(Event{RequestType: "Update", OldResourceProperties: old})
		if answer := succeeds(Event{RequestType: "Delete"}); answer.PhysicalResourceId != s.attribute(id, physical) {
			t.Errorf("physical id %s", answer.PhysicalResourceId)
		}
		succeeds(Event{RequestType: "Delete", PhysicalResourceId: "never-created"})
		expect(t, "secret", text(), before)
		for _, other := range []string{"PreflightChecks", "PreflightSlots"} {
			for _, request := range []string{"Create", "Delete", "Create"} {
				if answer := s.Invoke(other, Event{RequestType: request}); answer.Status != "SUCCESS" {
					t.Errorf("%s %s: %+v", request, other, answer)
				}
			}
		}
	})
}

func TestCallsBeyondARoleAreRefused(t *testing.T) {
	scenario(t, Options{Masters: 1, Media: 1, Refused: []string{"PutSecretValue", "AttachVolume", "CompleteLifecycleAction", "SetInstanceHealth", "TerminateInstances"}}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		other := s.volume(2).id
		for group, calls := range map[string][]string{
			Group(1): {
				"secretsmanager put-secret-value --secret-id $SECRET_ARN --secret-string x", "ec2 terminate-instances --instance-ids $ID",
				"autoscaling set-instance-health --instance-id $ID --health-status Unhealthy",
			},
			MediaGroup: {"secretsmanager put-secret-value --secret-id $SECRET_ARN --secret-string x", "ec2 attach-volume --volume-id " + other + " --instance-id $ID --device /dev/sdf"},
		} {
			m := s.Machine(group)
			for _, call := range calls {
				got := m.Shell("export AWS_DEFAULT_REGION=" + region + " AWS_ENDPOINT_URL=" + endpoint + " ID=" + m.Id + " SECRET_ARN=" + s.attribute("OpenViduSharedInfo", "").(string) + "; aws " + call + " 2>&1 | grep -oE 'AccessDenied|UnauthorizedOperation' | head -n 1")
				if got != "AccessDenied" && got != "UnauthorizedOperation" {
					t.Errorf("%s: aws %s: %s", group, call, got)
				}
			}
		}
	})
}
