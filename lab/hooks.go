package lab

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

const (
	launchingTransition   = "autoscaling:EC2_INSTANCE_LAUNCHING"
	terminatingTransition = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// hook is a lifecycle action: a transition that waits for the instance. Its fields are guarded by the stack's mutex.
type hook struct {
	name, token   string
	deadline, end time.Time
	timeout       time.Duration
	beats         int
	result        string // "", CONTINUE, ABANDON, or "expired: " and the default
	byDefault     string
	changed       chan struct{} // holds one token when a call came
}

// abandoned tells whether a hook's result is ABANDON, said or by default.
func abandoned(result string) bool { return strings.HasSuffix(result, "ABANDON") }

// beginHooks begins the group's hooks of a transition, if there are any: the instance enters the state's Wait, and the clocks of
// heartbeat and global timeout begin to run.
//
// EC2 Auto Scaling User Guide, "Amazon EC2 Auto Scaling lifecycle hooks": an instance waits for 48 hours or 100 times the heartbeat
// timeout at most, whichever is smaller. API Reference, LifecycleHookSpecification: the heartbeat timeout is 3600 seconds unless
// given, the default result ABANDON.
func (s *Stack) beginHooks(i *instance, turn chan struct{}, state, transition string) (hooks []*hook) {
	s.mu.Lock()
	if i.turn != turn {
		s.mu.Unlock()
		return nil
	}
	for _, specification := range cfn.List(i.group.properties["LifecycleHookSpecificationList"]) {
		if cfn.At(specification, "LifecycleTransition") != transition {
			continue
		}
		h := &hook{name: cfn.At(specification, "LifecycleHookName").(string), token: newId(), changed: make(chan struct{}, 1), byDefault: "expired: ABANDON"}
		if result, ok := cfn.At(specification, "DefaultResult").(string); ok {
			h.byDefault = "expired: " + result
		}
		seconds := defaultHeartbeat
		if given := cfn.At(specification, "HeartbeatTimeout"); given != nil {
			seconds = int(number(given))
		}
		h.timeout = time.Duration(seconds) * time.Second
		global := min(100*h.timeout, 48*time.Hour)
		if transition == terminatingTransition { // only a drain is made of waiting: what a boot does takes its time
			h.timeout, global = s.scaled(h.timeout), s.scaled(global)
		}
		h.deadline, h.end = s.now().Add(h.timeout), s.now().Add(global)
		hooks = append(hooks, h)
	}
	if len(hooks) > 0 {
		i.hooks, i.state = hooks, state+waitSuffix
		i.history = append(i.history, i.state)
	}
	s.mu.Unlock()
	for _, h := range hooks {
		s.publishLifecycle(i, h, transition, state)
	}
	return hooks
}

// awaitHooks waits until the hooks of a transition are completed or expired; not ok when the transition is moot.
//
// EC2 Auto Scaling User Guide, "Amazon EC2 Auto Scaling lifecycle hooks": ABANDON stops any remaining actions, such as other
// lifecycle hooks; CONTINUE allows them to complete.
func (s *Stack) awaitHooks(i *instance, turn chan struct{}, hooks []*hook) (result string, ok bool) {
	for _, h := range hooks {
		for {
			s.mu.Lock()
			moot := i.turn != turn
			if now := s.now(); h.result == "" && (!now.Before(h.deadline) || !now.Before(h.end)) {
				h.result = h.byDefault
			}
			next := h.deadline
			if h.end.Before(next) {
				next = h.end
			}
			now := h.result
			for _, other := range hooks {
				if abandoned(other.result) {
					now = other.result
				}
			}
			s.mu.Unlock()
			if moot {
				return "", false
			}
			if abandoned(now) {
				return now, true
			}
			if now != "" {
				result = now
				break
			}
			timer := time.NewTimer(min(max(next.Sub(s.now()), tick), 100*time.Millisecond)) // another hook of the transition may be abandoned
			select {
			case <-turn:
			case <-h.changed:
			case <-timer.C:
			case <-s.done:
				timer.Stop()
				return "", false
			}
			timer.Stop()
		}
	}
	return result, true
}

// lifecycleCall takes a heartbeat or a completion; it gives the reason of a refusal. Outside of the hook's own Wait there is no
// active lifecycle action, so both are refused.
func (s *Stack) lifecycleCall(action string, form url.Values) *fault {
	id, token := form.Get("InstanceId"), form.Get("LifecycleActionToken")
	g := s.scalingGroupNamed(form.Get("AutoScalingGroupName"))
	result := form.Get("LifecycleActionResult")
	if action == "CompleteLifecycleAction" && result != "CONTINUE" && result != "ABANDON" {
		return invalid("The lifecycle action result %s is not valid", result)
	}
	if g == nil {
		return invalid("AutoScalingGroup name not found - %s", form.Get("AutoScalingGroupName"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range g.members {
		if i.machine.Id != id && id != "" || !strings.HasSuffix(i.state, waitSuffix) {
			continue
		}
		for _, h := range i.hooks {
			if h.name != form.Get("LifecycleHookName") || h.result != "" || token != "" && h.token != token || id == "" && token == "" {
				continue
			}
			if action == "CompleteLifecycleAction" {
				h.result = result
			} else {
				h.beats++
				h.deadline = s.now().Add(h.timeout)
			}
			select {
			case h.changed <- struct{}{}:
			default:
			}
			return nil
		}
	}
	if id == "" {
		return invalid("No active Lifecycle Action found with token %s", token)
	}
	return invalid("No active Lifecycle Action found with instance ID %s", id)
}

// Hook of an instance's last transition: how it ended ("" while it waits, or has not begun), and its heartbeats.
func (s *Stack) Hook(m *Machine) (result string, beats int) {
	i := s.instanceOf(m)
	if i == nil {
		return "", 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range i.hooks {
		return h.result, h.beats
	}
	return "", 0
}

// newId is a UUID that nothing else has.
func newId() string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", serial.Add(1), serial.Add(1)) }
