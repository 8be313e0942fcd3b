package lab

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

func (s *Stack) changeGroup(d *cfn.Deployment, id string, properties, old map[string]any, exists bool) error {
	if !exists {
		s.createGroup(id, properties)
		return nil
	}
	policy := cfn.At(d.Resources[id], "UpdatePolicy", "AutoScalingRollingUpdate")
	changed := func(key string) bool { return fmt.Sprint(properties[key]) != fmt.Sprint(old[key]) }
	g := s.scalingGroup(id)
	s.mu.Lock()
	before := g.properties
	g.properties = properties // instances that are launched from here on have the new version
	s.mu.Unlock()
	s.resize(g, properties, before)
	s.retarget(g)
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

// createGroup makes a group and lets it launch; the scenario's options say how many.
func (s *Stack) createGroup(id string, properties map[string]any) {
	name := s.name + "-" + id
	s.set(id, "", name)
	count := 1
	if properties["LifecycleHookSpecificationList"] != nil {
		count = s.Options.Media
	} else if s.Options.Masters != 0 && id > Group(s.Options.Masters) {
		count = 0
	}
	g := &scalingGroup{id: id, name: name, properties: properties, desired: count, minimum: int(number(properties["MinSize"])), maximum: int(number(properties["MaxSize"]))}
	s.mu.Lock()
	s.applied[id] = properties
	s.groups[id] = g
	s.mu.Unlock()
	s.reconcile(g, fmt.Sprintf("At %s a user request created an AutoScalingGroup changing the desired capacity from 0 to %d.  %s", stamp(), count, difference(0, count)))
}

// resize writes the sizes of a template that changed to a group.
//
// AWS CloudFormation Template Reference, "UpdatePolicy attribute", AutoScalingScheduledAction: with
// IgnoreUnmodifiedGroupSizeProperties, what is unmodified in the template leaves the group's sizes alone. Without it a changed
// group gets them all; the lab writes what changed alone, since its scenarios choose the number of instances. EC2 Auto Scaling API
// Reference, UpdateAutoScalingGroup: the desired capacity is brought within the limits.
func (s *Stack) resize(g *scalingGroup, properties, old map[string]any) {
	changed := func(key string) bool { return fmt.Sprint(properties[key]) != fmt.Sprint(old[key]) }
	s.mu.Lock()
	if changed("MinSize") {
		g.minimum = int(number(properties["MinSize"]))
		g.desired = max(g.desired, g.minimum)
	}
	if changed("MaxSize") {
		g.maximum = int(number(properties["MaxSize"]))
		g.desired = min(g.desired, g.maximum)
	}
	if changed("DesiredCapacity") {
		g.desired = int(number(properties["DesiredCapacity"]))
	}
	s.mu.Unlock()
	s.reconcile(g, s.lacking(g))
}

// putWarmPool gives a group a warm pool, or changes it.
func (s *Stack) putWarmPool(properties map[string]any) error {
	if properties["PoolState"] != "Stopped" {
		return fmt.Errorf("the lab knows no warm pool like %v", properties)
	}
	g := s.scalingGroupNamed(fmt.Sprint(properties["AutoScalingGroupName"]))
	if g == nil {
		return fmt.Errorf("AutoScalingGroup name not found - %v", properties["AutoScalingGroupName"])
	}
	pool := &warmPool{minimum: int(number(properties["MinSize"])), prepared: -1, reuse: fmt.Sprint(cfn.At(properties, "InstanceReusePolicy", "ReuseOnScaleIn")) == "true"}
	if prepared := properties["MaxGroupPreparedCapacity"]; prepared != nil {
		pool.prepared = int(number(prepared))
	}
	s.mu.Lock()
	g.pool = pool
	s.mu.Unlock()
	s.reconcile(g, s.lacking(g))
	return nil
}

// roll replaces a group's instances batch by batch, as an UpdatePolicy asks for it.
//
// AWS CloudFormation Template Reference, "UpdatePolicy attribute", AutoScalingRollingUpdate: SuspendProcesses are suspended
// meanwhile; instances of a warm pool are not replaced ("AWS::AutoScaling::WarmPool").
func (s *Stack) roll(id string, policy map[string]any, maximum int) error {
	minimum, batch := int(number(policy["MinInstancesInService"])), max(1, int(number(policy["MaxBatchSize"])))
	if minimum >= maximum {
		return fmt.Errorf("MinInstancesInService must be less than the autoscaling group's MaxSize")
	}
	pause := s.scaled(duration(fmt.Sprint(policy["PauseTime"])))
	g := s.scalingGroup(id)
	s.mu.Lock()
	old := slices.DeleteFunc(slices.Clone(g.members), func(i *instance) bool { return !counts(i.state) })
	s.rolling[id] = true
	s.updates[id] = nil
	for _, process := range cfn.List(policy["SuspendProcesses"]) {
		g.suspended = append(g.suspended, fmt.Sprint(process))
	}
	s.mu.Unlock()
	defer s.resume(g)
	for len(old) > 0 {
		n := min(batch, len(old), max(1, len(old)-minimum))
		var mu sync.Mutex
		var replaced sync.WaitGroup
		var fresh []*Machine
		for _, i := range old[:n] {
			// EC2 Auto Scaling User Guide, "Instance maintenance policies": the replacement is launched while the old one terminates.
			s.end(i, ending{hold: s.Options.Hold, cause: fmt.Sprintf("At %s instance %s was taken out of service in response to a user request.", stamp(), i.machine.Id)})
			s.mu.Lock()
			g.launching++
			s.mu.Unlock()
			replaced.Go(func() {
				if i := s.launch(g, s.lacking(g), false); i != nil {
					mu.Lock()
					fresh = append(fresh, i.machine)
					mu.Unlock()
				}
			})
		}
		old = old[n:]
		if policy["WaitOnResourceSignals"] != true {
			replaced.Wait()
			s.Cloud.clock.Sleep(pause)
			continue
		}
		for deadline := s.now().Add(pause); ; time.Sleep(50 * time.Millisecond) {
			succeeded := 0
			mu.Lock()
			launched := slices.Clone(fresh)
			mu.Unlock()
			for _, m := range launched {
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
			if s.now().After(deadline) || s.over() {
				return fmt.Errorf("Failed to receive %d resource signal(s) within the specified duration", n-succeeded) //nolint:staticcheck // in CloudFormation's own words
			}
		}
	}
	return nil
}

// resume ends a rolling update: the suspended processes go on, and what became unhealthy meanwhile is replaced.
func (s *Stack) resume(g *scalingGroup) {
	s.mu.Lock()
	s.rolling[g.id] = false
	g.suspended = nil
	var sick []*instance
	for _, i := range g.members {
		if i.unhealthy && i.state == inService {
			sick = append(sick, i)
		}
	}
	s.mu.Unlock()
	for _, i := range sick {
		s.replaceUnhealthy(i)
	}
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
