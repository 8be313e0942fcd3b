package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDeletionOrder: the fleet goes first. Masters, listeners and the rules between them stay until the last call through a draining Media Node is over.
func TestDeletionOrder(t *testing.T) {
	scenario(t, Options{Masters: 1, Media: 1, Scale: 200, Template: short}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		m := served(t, s)
		result := make(chan Deletion, 1)
		begun := time.Now()
		go func() { result <- s.Delete() }()
		eventually(t, "its hook", is(s, m, "Terminating:Wait"))
		expect(t, "stack", s.Status(), "DELETE_IN_PROGRESS")
		// What can go beside the drain goes: nothing changes any more.
		went := func() (ids []string) {
			for _, gone := range s.Deleted() {
				ids = append(ids, gone.Id)
			}
			slices.Sort(ids)
			return ids
		}
		before := went()
		for quiet := time.Now(); time.Since(quiet) < 5*time.Second; time.Sleep(100 * time.Millisecond) {
			if now := went(); !slices.Equal(now, before) {
				before, quiet = now, time.Now()
			}
		}
		beside := before
		expect(t, "the drain", s.State(m), "Terminating:Wait")
		for _, id := range []string{MediaGroup, "MainRtmp", "OpenViduMediaNodeLaunchTemplate", "MediaProfile", "MediaRole", "MediaSG",
			Group(1), Group(2), Group(3), Group(4), "MasterLaunchTemplate1", "MasterRole", "MasterSG", "MainLoadBalancer", "MainLoadBalancerRtmps", "MainLoadBalancerRtmps1945",
			"MainLoadBalancerHttps", "MainMasters", "MainMasterFromMain7880", "MainMediaFromMain1945", "MainMediaFromMain9092", "MasterMasterFromMaster7000", "MediaMediaFromMaster7880",
			"MasterInfoFill", "MasterInfoCredentials", "MasterInfoMediaSecret", "OpenViduSharedInfo"} {
			if s.existing()[id] == "" {
				t.Errorf("%s went while a Media Node drained, or never was", id)
			}
		}
		expect(t, "whether the master still answers", fmt.Sprint(answers(fixedIp(s, 1), "7880", "/health/caddy")), "true")
		// The node's role still lets it drain.
		time.Sleep(2 * time.Second)
		expect(t, "the drain", s.State(m), "Terminating:Wait")
		idle(m)
		deletion := <-result
		t.Log(deletion)
		expect(t, "failed", fmt.Sprint(deletion.Failed), "map[]")
		expect(t, "stack", s.Status(), "DELETE_COMPLETE")
		expect(t, "the node", s.State(m), "Terminated")
		expect(t, "retained", strings.Join(deletion.Retained, " "), "OpenViduSharedInfo VolumesRetained1 VolumesRetained2 VolumesRetained3 VolumesRetained4")
		expect(t, "what is left", fmt.Sprint(s.existing()), "map[]")
		at := func(id string) time.Time {
			for _, gone := range deletion.Gone {
				if gone.Id == id {
					return gone.At
				}
			}
			t.Errorf("%s did not go", id)
			return time.Time{}
		}
		for _, order := range [][]string{{MediaGroup, Group(4), Group(3), Group(2), Group(1), "MasterLaunchTemplate1", "MasterProfile", "MasterRole"},
			{MediaGroup, "OpenViduMediaNodeLaunchTemplate", "MediaRole", "MasterInfoMediaSecret"}, {MediaGroup, "MasterInfoFill", "MasterInfoCredentials"},
			{MediaGroup, "MainLoadBalancerRtmps", "MainLoadBalancer", "MainSG"}, {MediaGroup, "MainLoadBalancerHttps", "MainMasters"}} {
			for n := range order[1:] {
				if at(order[n]).After(at(order[n+1])) {
					t.Errorf("%s went after %s", order[n], order[n+1])
				}
			}
		}
		s.mu.Lock()
		s.figures = fmt.Sprintf("%d of %d resources went beside the drain, all after %.0f s", len(beside), len(deletion.Gone), time.Since(begun).Seconds()*200)
		s.mu.Unlock()
	})
}

// TestDeletionThatTakesTooLong fails after 240 minutes, keeps what the fleet depends on, and can be repeated.
func TestDeletionThatTakesTooLong(t *testing.T) {
	scenario(t, Options{Masters: -1, Media: 1, Scale: 1200, Template: short}, nil, func(t testing.TB, s *Stack) {
		eventually(t, "a Media Node", func() bool { return s.Machine(MediaGroup) != nil })
		m := s.Machine(MediaGroup)
		taken(t, s, m)
		owner(t, s, "SetInstanceProtection", "AutoScalingGroupName", m.tags[groupTag], "InstanceIds.member.1", m.Id, "ProtectedFromScaleIn", "true")
		deletion := s.Delete()
		expect(t, "stack", s.Status(), "DELETE_FAILED")
		if reason := deletion.Failed[MediaGroup]; len(deletion.Failed) != 1 || !strings.Contains(reason, "did not stabilize: "+m.Id+" InService") {
			t.Errorf("failed: %v", deletion.Failed)
		}
		if kind := s.existing()["MediaRole"]; kind == "" {
			t.Error("the role of the fleet is gone")
		}
		if kind := s.existing()["MainLoadBalancerRtmps"]; kind == "" {
			t.Error("the listener is gone while a node may carry calls")
		}
		owner(t, s, "SetInstanceProtection", "AutoScalingGroupName", m.tags[groupTag], "InstanceIds.member.1", m.Id, "ProtectedFromScaleIn", "false")
		expect(t, "failed at the second try", fmt.Sprint(s.Delete().Failed), "map[]")
		expect(t, "stack", s.Status(), "DELETE_COMPLETE")
	})
}
