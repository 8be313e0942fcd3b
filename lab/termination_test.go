package lab

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// changed is a copy of a template with changes to its resources.
func changed(change func(resources map[string]any)) func(cfn.Template) cfn.Template {
	return func(template cfn.Template) cfn.Template {
		copied := duplicate(map[string]any(template)).(map[string]any)
		change(cfn.Template(copied).Section("Resources"))
		return copied
	}
}

func duplicate(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, element := range v {
			out[key] = duplicate(element)
		}
		return out
	case []any:
		out := []any{}
		for _, element := range v {
			out = append(out, duplicate(element))
		}
		return out
	}
	return value
}

// properties of a resource, to be changed.
func properties(resources map[string]any, id string) map[string]any {
	return cfn.At(resources[id], "Properties").(map[string]any)
}

// delays sets the deregistration delay of target groups, in seconds.
func delays(resources map[string]any, seconds string, ids ...string) {
	for _, id := range ids {
		for _, attribute := range cfn.List(properties(resources, id)["TargetGroupAttributes"]) {
			if cfn.At(attribute, "Key") == "deregistration_delay.timeout_seconds" {
				attribute.(map[string]any)["Value"] = seconds
			}
		}
	}
}

// may lets Media Nodes make calls that the template does not let them make.
func may(resources map[string]any, actions ...any) {
	properties(resources, "MediaRole")["Policies"] = append(cfn.List(properties(resources, "MediaRole")["Policies"]), map[string]any{"PolicyName": "More",
		"PolicyDocument": map[string]any{"Statement": []any{map[string]any{"Effect": "Allow", "Action": actions, "Resource": "*"}}}})
}

// call is a command of the AWS CLI on a node.
func call(m *Machine, command string) string {
	return m.Shell("export AWS_DEFAULT_REGION=" + region + " AWS_ENDPOINT_URL=" + endpoint + " ID=" + m.Id + " GROUP=" + m.tags[groupTag] + "; aws autoscaling " + command + " --output text 2>&1")
}

func is(s *Stack, m *Machine, state string) func() bool {
	return func() bool { return s.State(m) == state }
}

// TestTerminationOrder pins the order that AWS documents: an instance leaves its target groups, with the longest of their delays to
// the full, before its hook begins; and nobody can heartbeat or complete a hook that has not begun.
func TestTerminationOrder(t *testing.T) {
	type moment struct {
		what string
		at   time.Time
	}
	options := Options{Masters: 1, Media: 1, Scale: 60, Template: changed(func(resources map[string]any) {
		delays(resources, "1800", "MainRtmp")
		delays(resources, "600", "TurnTurn")
	})}
	change := map[string]any{"TurnDomainName": "turn.example.com", "TurnCertificateARN": importCertificate("turn.example.com")}
	scenario(t, options, change, func(t testing.TB, s *Stack) {
		var mu sync.Mutex
		var seen []moment
		s.Observe(func(group string, m *Machine, state string) {
			if m.Group == MediaGroup {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, moment{group + " " + state + " in " + s.State(m), time.Now()})
			}
		})
		ready(t, s, 0, 1)
		m := s.Machine(MediaGroup)
		eventually(t, "its service", is(s, m, "InService"))
		m.Call("openvidu")
		expect(t, "its way into service", strings.Join(s.Lifecycle(m), " "), "Pending Pending:Wait Pending:Proceed InService")
		complete := "complete-lifecycle-action --lifecycle-action-result CONTINUE --auto-scaling-group-name $GROUP --instance-id $ID --lifecycle-hook-name "
		heartbeat := "record-lifecycle-action-heartbeat --auto-scaling-group-name $GROUP --instance-id $ID --lifecycle-hook-name "
		refused := func(command, when string) {
			t.Helper()
			if got := call(m, command); !strings.Contains(got, "ValidationError") || !strings.Contains(got, "No active Lifecycle Action found with instance ID "+m.Id) {
				t.Errorf("%s: %s: %s", when, command, got)
			}
		}
		refused(complete+"drain", "in service")
		refused(complete+"ready", "in service")
		begun := time.Now()
		s.ScaleIn(m)
		// From here on the node itself tries as well, so the refusals are those of its own hook.
		eventually(t, "the target lifecycle state", func() bool {
			return m.Shell("curl -s -H \"X-aws-ec2-metadata-token: $(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)\" http://169.254.169.254/latest/meta-data/autoscaling/target-lifecycle-state") == "Terminated"
		})
		expect(t, "state", s.State(m), "Terminating")
		expect(t, "targets", fmt.Sprint(s.TargetStates(m)), "map[MainRtmp:draining TurnTurn:draining]")
		refused(heartbeat+"drain", "while it is deregistered")
		refused(complete+"drain", "while it is deregistered")
		eventually(t, "the shorter delay's end", func() bool { return s.TargetStates(m)["TurnTurn"] == "gone" })
		expect(t, "state after the shorter delay", s.State(m), "Terminating")
		eventually(t, "its hook", is(s, m, "Terminating:Wait"))
		if waited := time.Since(begun); waited < 1800*time.Second/60 {
			t.Errorf("the hook began after %s, before the delay of the target group was over", waited)
		}
		if result := call(m, heartbeat+"drain"); result != "" {
			t.Errorf("heartbeat in the hook's wait: %s", result)
		}
		refused(complete+"ready", "in another hook's wait")
		m.HangUp()
		eventually(t, "its end", m.gone)
		eventually(t, "Terminated", is(s, m, "Terminated"))
		expect(t, "its way out", strings.Join(s.Lifecycle(m)[4:], " "), "Terminating Terminating:Wait Terminating:Proceed Terminated")
		mu.Lock()
		defer mu.Unlock()
		var words []string
		for _, moment := range seen {
			words = append(words, moment.what)
		}
		slices.Sort(words[:2])
		slices.Sort(words[2:4])
		expect(t, "targets", strings.Join(words, ", "), "MainRtmp registered in Pending:Proceed, TurnTurn registered in Pending:Proceed, "+
			"MainRtmp draining in Terminating, TurnTurn draining in Terminating, TurnTurn gone in Terminating, MainRtmp gone in Terminating")
		s.mu.Lock()
		s.figures = fmt.Sprintf("deregistered in %.0f s, as the delay of 1800 s", seen[len(seen)-1].at.Sub(begun).Seconds()*60)
		s.mu.Unlock()
	})
}

// TestDeregistrationHoldsTheNode shows what the template's delay means: without a call, a Media Node waits for all of it.
func TestDeregistrationHoldsTheNode(t *testing.T) {
	scenario(t, Options{Masters: 1, Media: 1, Scale: 200}, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0)
		m := s.Machine(MediaGroup)
		eventually(t, "its service", is(s, m, "InService"))
		m.HangUp()
		begun := time.Now()
		s.ScaleIn(m)
		eventually(t, "its end", m.gone)
		s.mu.Lock()
		delay := s.deregistrationDelay("MainRtmp")
		s.figures = fmt.Sprintf("%.0f min from Terminating to Terminated without a call", time.Since(begun).Minutes()*200)
		s.mu.Unlock()
		if waited := time.Since(begun) * 200; waited < delay {
			t.Errorf("it ended after %s, before the delay of %s", waited, delay)
		}
		if delay > 2*time.Minute { // of the three that a node without a call may take
			t.Errorf("a node without a call waits %s for its deregistration", delay)
		}
	})
}

// TestAbandonedDrain: what a terminating hook abandons is terminated, unless the group retains it.
func TestAbandonedDrain(t *testing.T) {
	t.Parallel()
	abandon := func(t testing.TB, s *Stack) *Machine {
		t.Helper()
		ready(t, s, 0)
		m := s.Machine(MediaGroup)
		eventually(t, "its service", is(s, m, "InService"))
		m.Shell("systemctl stop openvidu-drain") // the node itself is not to complete
		s.ScaleIn(m)
		eventually(t, "its hook", is(s, m, "Terminating:Wait"))
		if _, err := s.AutoScaling("CompleteLifecycleAction", "AutoScalingGroupName", m.tags[groupTag], "InstanceId", m.Id, "LifecycleHookName", "drain", "LifecycleActionResult", "ABANDON"); err != nil {
			t.Error(err)
		}
		return m
	}
	t.Run("terminated, without the group's policy", func(t *testing.T) {
		options := Options{Masters: 1, Media: 1, Scale: 300, Template: changed(func(resources map[string]any) {
			delete(properties(resources, MediaGroup), "InstanceLifecyclePolicy")
		})}
		scenario(t, options, nil, func(t testing.TB, s *Stack) {
			m := abandon(t, s)
			eventually(t, "its end", is(s, m, "Terminated"))
			if !m.gone() {
				t.Error("the instance still runs")
			}
		})
	})
	t.Run("retained, as the template has it", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Scale: 300}, nil, func(t testing.TB, s *Stack) {
			m := abandon(t, s)
			eventually(t, "its retention", is(s, m, "Terminating:Retained"))
			expect(t, "the instance", m.Shell("echo runs"), "runs")
			if _, err := s.AutoScaling("TerminateInstanceInAutoScalingGroup", "InstanceId", m.Id, "ShouldDecrementDesiredCapacity", "false"); err != nil {
				t.Error(err)
			}
			eventually(t, "its end", is(s, m, "Terminated"))
		})
	})
}

// TestHookTimeouts: the clocks begin with the hook's wait, and the global one does not care for heartbeats.
func TestHookTimeouts(t *testing.T) {
	options := Options{Masters: 1, Media: 2, Scale: 60, Template: changed(func(resources map[string]any) {
		delays(resources, "600", "MainRtmp")
		delete(properties(resources, MediaGroup), "InstanceLifecyclePolicy") // what is abandoned is terminated
		for _, hook := range cfn.List(properties(resources, MediaGroup)["LifecycleHookSpecificationList"]) {
			if cfn.At(hook, "LifecycleHookName") == "drain" {
				hook.(map[string]any)["HeartbeatTimeout"] = 30 // 0.5 s; 50 s in all
				delete(hook.(map[string]any), "DefaultResult")
			}
		}
	})}
	scenario(t, options, nil, func(t testing.TB, s *Stack) {
		ready(t, s, 0)
		s.mu.Lock()
		machines := slices.Clone(s.machines[MediaGroup])
		s.mu.Unlock()
		silent, beating := machines[0], machines[1]
		for _, m := range machines {
			eventually(t, "its service", is(s, m, "InService"))
			m.Shell("systemctl stop openvidu-drain")
			s.ScaleIn(m)
		}
		eventually(t, "its hook", is(s, beating, "Terminating:Wait"))
		begun := s.now()
		for beats := 0; s.State(beating) == "Terminating:Wait" && s.now().Sub(begun) < 2*time.Minute; time.Sleep(100 * time.Millisecond) {
			if _, err := s.AutoScaling("RecordLifecycleActionHeartbeat", "AutoScalingGroupName", beating.tags[groupTag], "InstanceId", beating.Id, "LifecycleHookName", "drain"); err == nil {
				beats++
			}
			if beats == 100 { // long after the heartbeat timeout
				expect(t, "state with heartbeats", s.State(beating), "Terminating:Wait")
				expect(t, "state without", s.State(silent), "Terminated")
				result, _ := s.Hook(silent)
				expect(t, "result without", result, "expired: ABANDON")
			}
		}
		if lasted := s.now().Sub(begun); lasted < 45*time.Second || lasted > 70*time.Second {
			t.Errorf("the hook lasted %s, not 100 heartbeat timeouts", lasted)
		}
		eventually(t, "its end", is(s, beating, "Terminated"))
	})
}
