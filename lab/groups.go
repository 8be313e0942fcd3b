package lab

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

const (
	groupTag   = "aws:autoscaling:groupName"
	clusterTag = "OpenViduCluster"
)

// Group of a slot, 1 to 4.
func Group(slot int) string { return fmt.Sprint("OpenViduMasterNodeASG", slot) }

// MediaGroup is the fleet.
const MediaGroup = "OpenViduMediaNodeASG"

// hook is a launch or a termination that waits for the instance.
type hook struct {
	group, name   string // the physical name of the group
	deadline, end time.Time
	timeout       time.Duration
	beats         int
	result        string // "", CONTINUE, ABANDON, or "expired: " and the default
	byDefault     string
}

func (s *Stack) changeGroup(d *cfn.Deployment, id string, properties, old map[string]any, exists bool) error {
	if !exists {
		s.set(id, "", s.name+"-"+id)
		s.mu.Lock()
		s.applied[id] = properties
		s.mu.Unlock()
		count := 1
		if properties["LifecycleHookSpecificationList"] != nil {
			count = s.Options.Media
		} else if s.Options.Masters != 0 && id > Group(s.Options.Masters) {
			count = 0
		}
		for range count {
			go s.Launch(id)
		}
		return nil
	}
	policy := cfn.At(d.Resources[id], "UpdatePolicy", "AutoScalingRollingUpdate")
	changed := func(key string) bool { return fmt.Sprint(properties[key]) != fmt.Sprint(old[key]) }
	s.mu.Lock()
	s.applied[id] = properties // instances that are launched from here on have the new version
	s.mu.Unlock()
	if policy == nil || !changed("LaunchTemplate") && !changed("VPCZoneIdentifier") {
		return nil
	}
	err := s.roll(id, policy.(map[string]any), int(number(properties["MaxSize"])))
	if err != nil {
		s.mu.Lock()
		s.applied[id] = map[string]any{"changed": "by an update that failed"} // so that the rollback changes it back
		s.mu.Unlock()
	}
	return err
}

// roll replaces a group's instances batch by batch, as an UpdatePolicy asks for it.
func (s *Stack) roll(id string, policy map[string]any, maximum int) error {
	minimum, batch := int(number(policy["MinInstancesInService"])), max(1, int(number(policy["MaxBatchSize"])))
	if minimum >= maximum {
		return fmt.Errorf("MinInstancesInService must be less than the autoscaling group's MaxSize")
	}
	pause := duration(fmt.Sprint(policy["PauseTime"])) / time.Duration(s.Options.Scale)
	s.mu.Lock()
	old := slices.Clone(s.machines[id])
	s.rolling[id] = true
	s.updates[id] = nil
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.rolling[id] = false
		s.mu.Unlock()
	}()
	for len(old) > 0 {
		n := min(batch, len(old), max(1, len(old)-minimum))
		var replaced sync.WaitGroup
		fresh := make([]*Machine, n)
		for i, m := range old[:n] {
			replaced.Add(1)
			go func() {
				defer replaced.Done()
				s.remove(m)
				m.Terminate(s.Options.Hold)
				fresh[i] = s.Launch(id)
			}()
		}
		replaced.Wait()
		old = old[n:]
		if policy["WaitOnResourceSignals"] != true {
			time.Sleep(pause)
			continue
		}
		for deadline := time.Now().Add(pause); ; time.Sleep(50 * time.Millisecond) {
			succeeded := 0
			for _, m := range fresh {
				switch s.updateSignal(id, m.Id) {
				case "SUCCESS":
					succeeded++
				case "FAILURE":
					return fmt.Errorf("Received 1 FAILURE signal(s) out of %d", n) //nolint:staticcheck // in CloudFormation's own words
				}
			}
			if succeeded == n {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("Failed to receive %d resource signal(s) within the specified duration", n-succeeded) //nolint:staticcheck // in CloudFormation's own words
			}
		}
	}
	return nil
}

func (s *Stack) updateSignal(group, instance string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, signal := range s.updates[group] {
		if signal.UniqueId == instance {
			return signal.Status
		}
	}
	return ""
}

// duration reads PT1H and its like.
func duration(text string) time.Duration {
	parsed, err := time.ParseDuration(strings.ToLower(strings.TrimPrefix(text, "PT")))
	must(err)
	return parsed
}

// Launch adds an instance to a group, as Auto Scaling does: with the version of the launch template that the group names.
func (s *Stack) Launch(group string) *Machine {
	m := s.launch(group, "InService")
	s.mu.Lock()
	s.machines[group] = append(s.machines[group], m)
	s.mu.Unlock()
	s.enter(m)
	return m
}

// enter waits for the hook of an instance that is to be in service; one that is given up goes.
func (s *Stack) enter(m *Machine) {
	wait := s.begin(m, "LAUNCHING")
	go func() {
		// Whether Auto Scaling begins another hook for what is abandoned, AWS does not say: a call on it counts as cut.
		if result := wait(); strings.HasSuffix(result, "ABANDON") {
			s.noteCuts(m, result)
			s.remove(m)
			m.Terminate(nil)
		}
	}()
}

// warm adds an instance to the warm pool of a group: it is stopped when its hook is completed.
func (s *Stack) warm(group string) {
	m := s.launch(group, "Warmed:Stopped")
	wait := s.begin(m, "LAUNCHING")
	go func() {
		switch result := wait(); {
		case result == "":
		case strings.HasSuffix(result, "CONTINUE"):
			m.PowerOff()
			s.mu.Lock()
			s.stopped = append(s.stopped, m)
			s.mu.Unlock()
		default:
			m.Terminate(nil)
		}
	}()
}

// Stopped instances of the warm pool.
func (s *Stack) Stopped() []*Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stopped)
}

// ScaleOut starts a stopped instance of the warm pool.
func (s *Stack) ScaleOut() *Machine {
	s.mu.Lock()
	m := s.stopped[0]
	s.stopped = s.stopped[1:]
	s.machines[m.Group] = append(s.machines[m.Group], m)
	s.mu.Unlock()
	s.enter(m)
	m.mu.Lock()
	m.state = "InService"
	m.mu.Unlock()
	must(m.PowerOn())
	return m
}

func (s *Stack) launch(group, state string) *Machine {
	s.mu.Lock()
	properties := s.applied[group]
	template := cfn.At(s.deployment.Resources[group], "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref").(string)
	version := int(number(cfn.At(properties, "LaunchTemplate", "Version")))
	data := s.versions[template][version-1]
	// The role: launch template -> instance profile -> role.
	role := ""
	profiles, roles := map[string]bool{}, map[string]bool{}
	cfn.References(cfn.At(s.deployment.Resources[template], "Properties", "LaunchTemplateData", "IamInstanceProfile"), profiles)
	for profile := range profiles {
		cfn.References(cfn.At(s.deployment.Resources[profile], "Properties", "Roles"), roles)
	}
	for role = range roles {
	}
	members := len(s.all)
	s.mu.Unlock()
	tags := map[string]string{groupTag: s.attribute(group, "").(string)}
	for _, tag := range cfn.List(properties["Tags"]) {
		if cfn.At(tag, "PropagateAtLaunch") == true {
			tags[cfn.At(tag, "Key").(string)] = cfn.At(tag, "Value").(string)
		}
	}
	zones := cfn.List(properties["VPCZoneIdentifier"])
	m := &Machine{Group: group, Version: version, stack: s, role: role, state: state, tags: tags, subnet: zones[members%len(zones)].(string), Launched: time.Now()}
	m.showTags = cfn.At(data, "MetadataOptions", "InstanceMetadataTags") == "enabled"
	m.create(cfn.At(data, "UserData").(string))
	s.mu.Lock()
	s.all = append(s.all, m)
	s.mu.Unlock()
	go m.firstBoot()
	return m
}

// Kill ends the instances of a group at once, as a failing host does; its group launches another one.
func (s *Stack) Kill(group string, hold Hold) *Machine {
	s.mu.Lock()
	old := slices.Clone(s.machines[group])
	s.mu.Unlock()
	for _, m := range old {
		s.remove(m)
		m.Terminate(hold)
	}
	return s.Launch(group)
}

func (s *Stack) remove(m *Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[m.Group] = slices.DeleteFunc(s.machines[m.Group], func(other *Machine) bool { return other == m })
}

// Machine of a group that was launched last.
func (s *Stack) Machine(group string) *Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.machines[group]) == 0 {
		return nil
	}
	return s.machines[group][len(s.machines[group])-1]
}

func (s *Stack) machineById(id string) *Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.all {
		if m.Id == id {
			return m
		}
	}
	return nil
}

// groupTags of a group by its physical name.
func (s *Stack) groupTags(name string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	tags := map[string]string{}
	for id, properties := range s.applied {
		if s.attributes[id][""] == name {
			for _, tag := range cfn.List(properties["Tags"]) {
				if key, ok := cfn.At(tag, "Key").(string); ok {
					tags[key] = fmt.Sprint(cfn.At(tag, "Value"))
				}
			}
		}
	}
	return tags
}

// ScaleIn is what Auto Scaling does to an instance that it is to terminate: the metadata say so, and with a hook it waits.
func (s *Stack) ScaleIn(m *Machine) {
	wait := s.begin(m, "TERMINATING")
	must(m.announce("Terminated"))
	go func() {
		result := wait()
		if result == "" {
			return
		}
		// EC2 Auto Scaling User Guide, Control instance retention with instance lifecycle policies: it stays as it is.
		if result == "ABANDON" && cfn.At(s.applied[m.Group], "InstanceLifecyclePolicy", "RetentionTriggers", "TerminateHookAbandon") == "retain" {
			return
		}
		s.noteCuts(m, result)
		s.remove(m)
		m.Terminate(nil)
	}()
}

func (s *Stack) noteCuts(m *Machine, result string) {
	if calls := m.carriers(); len(calls) > 0 {
		s.mu.Lock()
		s.cuts = append(s.cuts, fmt.Sprintf("%s: hook %s while %s ran", m.Id, result, strings.Join(calls, ", ")))
		s.mu.Unlock()
	}
}

// begin begins the group's hook of a transition, if there is one. What it gives waits for the hook's completion,
// HeartbeatTimeout after the last heartbeat at most, and 100 of them or 48 hours in all; "" when it is moot.
func (s *Stack) begin(m *Machine, transition string) func() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &hook{group: m.tags[groupTag], result: "CONTINUE"}
	for _, specification := range cfn.List(s.applied[m.Group]["LifecycleHookSpecificationList"]) {
		if cfn.At(specification, "LifecycleTransition") == "autoscaling:EC2_INSTANCE_"+transition {
			h.result, h.name = "", cfn.At(specification, "LifecycleHookName").(string)
			h.byDefault = fmt.Sprint("expired: ", cfn.At(specification, "DefaultResult"))
			h.timeout = time.Duration(number(cfn.At(specification, "HeartbeatTimeout"))) * time.Second
			if transition == "TERMINATING" { // only a drain is made of waiting: what a boot does takes its time
				h.timeout /= time.Duration(s.Options.Scale)
			}
		}
	}
	h.deadline = time.Now().Add(h.timeout)
	h.end = time.Now().Add(min(100*h.timeout, 48*time.Hour/time.Duration(s.Options.Scale)))
	s.hooks[m.Id] = h
	return func() string {
		for {
			s.mu.Lock()
			if s.hooks[m.Id] != h { // the instance goes on to something else
				s.mu.Unlock()
				return ""
			}
			if now := time.Now(); h.result == "" && (now.After(h.deadline) || now.After(h.end)) {
				h.result = h.byDefault
			}
			result := h.result
			s.mu.Unlock()
			if result != "" {
				return result
			}
			select {
			case <-s.done:
				return ""
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// lifecycleCall takes a heartbeat or a completion; it gives the reason of a refusal.
func (s *Stack) lifecycleCall(action, instance string, form url.Values) string {
	group, name := form.Get("AutoScalingGroupName"), form.Get("LifecycleHookName")
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hooks[instance]
	if h == nil || h.result != "" || h.group != group || h.name != name {
		return fmt.Sprintf("No active Lifecycle Action found with instance ID %s, hook %s of %s", instance, name, group)
	}
	if action == "CompleteLifecycleAction" {
		h.result = form.Get("LifecycleActionResult")
	} else {
		h.beats++
		h.deadline = time.Now().Add(h.timeout)
	}
	return ""
}

// Hook of an instance: how it ended ("" while it waits), and its heartbeats.
func (s *Stack) Hook(m *Machine) (result string, beats int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hooks[m.Id]; h != nil {
		return h.result, h.beats
	}
	return "", 0
}

// carriers are the services of a Media Node that carry calls.
func (m *Machine) carriers() (names []string) {
	files, _ := filepath.Glob(filepath.Join(m.dir, "upper/var/lib/lab-calls/*.call"))
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".call"))
	}
	return names
}
