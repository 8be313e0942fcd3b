package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// Deletion of a stack: what went, and why the rest stayed.
type Deletion struct {
	Gone     []Gone            // in the order in which they went
	Retained []string          // by their DeletionPolicy, sorted
	Failed   map[string]string // by logical id: the reason
}

// Gone is a resource that was deleted.
type Gone struct {
	Id, Kind  string
	Begun, At time.Time
}

// Deleted is what a deletion took away so far.
func (s *Stack) Deleted() []Gone {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.deleted)
}

// Delete deletes the stack: each resource after all that depend on it, side by side where none does. What fails stays, with all that
// it depends on; a second deletion tries again.
//
// AWS CloudFormation Template Reference, "DependsOn attribute": the order of deletion is the reverse of the creation's, in parallel to
// the extent possible. "DeletionPolicy attribute": Retain and RetainExceptOnCreate keep the resource. "Troubleshooting CloudFormation":
// a resource that cannot be deleted leaves the stack in DELETE_FAILED.
func (s *Stack) Delete() Deletion {
	if s.existing()["MasterInfoFill"] != "" {
		_, err := s.readSecret() // the credentials that it held last are looked for in all logs
		must(err)
	}
	s.setStatus("DELETE_IN_PROGRESS")
	s.mu.Lock()
	d := s.deployment
	resources := map[string]any{}
	for id := range s.applied {
		resources[id] = d.Resources[id]
	}
	s.mu.Unlock()
	finished, dependents := map[string]chan bool{}, map[string][]string{}
	for id, resource := range resources {
		finished[id] = make(chan bool)
		needs := map[string]bool{}
		cfn.References(resource, needs)
		for other := range needs {
			if other != id && resources[other] != nil {
				dependents[other] = append(dependents[other], id)
			}
		}
	}
	var mu sync.Mutex
	result := Deletion{Failed: map[string]string{}}
	blocked := map[string]bool{} // what failed, and what that depends on
	for id, resource := range resources {
		go func() {
			defer close(finished[id])
			for _, dependent := range dependents[id] {
				<-finished[dependent]
			}
			mu.Lock()
			blocked[id] = slices.ContainsFunc(dependents[id], func(dependent string) bool { return blocked[dependent] })
			skip := blocked[id]
			mu.Unlock()
			if skip {
				return
			}
			if policy, _ := cfn.At(resource, "DeletionPolicy").(string); strings.HasPrefix(policy, "Retain") {
				mu.Lock()
				result.Retained = append(result.Retained, id)
				mu.Unlock()
				s.disown(id)
				return
			}
			gone := Gone{Id: id, Kind: fmt.Sprint(cfn.At(resource, "Type")), Begun: time.Now()}
			if err := s.deleteResource(id, gone.Kind); err != nil {
				mu.Lock()
				result.Failed[id] = err.Error()
				blocked[id] = true
				mu.Unlock()
				return
			}
			gone.At = time.Now()
			s.disown(id)
			s.mu.Lock()
			s.deleted = append(s.deleted, gone)
			s.mu.Unlock()
		}()
	}
	for _, wait := range finished {
		<-wait
	}
	slices.Sort(result.Retained)
	result.Gone = s.Deleted()
	if len(result.Failed) > 0 {
		s.setStatus("DELETE_FAILED")
	} else {
		s.setStatus("DELETE_COMPLETE")
	}
	return result
}

// disown takes a resource off the stack.
func (s *Stack) disown(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.applied, id)
}

func (s *Stack) deleteResource(id, kind string) error {
	switch kind {
	case "AWS::AutoScaling::AutoScalingGroup":
		return s.deleteGroup(s.scalingGroup(id))
	case "AWS::AutoScaling::WarmPool":
		s.mu.Lock()
		name := fmt.Sprint(s.applied[id]["AutoScalingGroupName"])
		s.mu.Unlock()
		return s.deletePool(s.scalingGroupNamed(name))
	case "AWS::EC2::NetworkInterface":
		return s.deleteInterface(fmt.Sprint(s.attribute(id, "")))
	case "AWS::EC2::Volume":
		return s.deleteVolume(fmt.Sprint(s.attribute(id, "")))
	case "AWS::SecretsManager::Secret":
		s.Cloud.call("secretsmanager", "secretsmanager.DeleteSecret", map[string]any{"SecretId": s.attribute(id, ""), "ForceDeleteWithoutRecovery": true})
	case "AWS::Logs::LogGroup":
		return s.deleteLogGroup(s.attribute(id, ""))
	}
	if strings.HasPrefix(kind, "Custom::") {
		if answer := s.Invoke(id, Event{RequestType: "Delete"}); answer.Status != "SUCCESS" {
			return fmt.Errorf("%s", answer.Reason)
		}
	}
	return nil
}

// deleteGroup lets a group's instances go through their hooks, for 240 minutes at most.
//
// CloudFormation's handler of AWS::AutoScaling::AutoScalingGroup sets the sizes to 0, waits for the instances, and has 240 minutes
// for a deletion (handlers, timeoutInMinutes, of the resource type's schema). A scale-in leaves out what is protected from it (EC2
// Auto Scaling User Guide, "Use instance scale-in protection"), what is on standby and what is retained, so these fail a deletion.
func (s *Stack) deleteGroup(g *scalingGroup) error {
	s.mu.Lock()
	g.deleting, g.desired, g.minimum, g.maximum = true, 0, 0, 0
	all := slices.Clone(g.members)
	s.mu.Unlock()
	for _, i := range all {
		s.mu.Lock()
		stays := i.protected || i.state == standby || i.state == enteringStandby || strings.HasSuffix(i.state, retainedSuffix)
		s.mu.Unlock()
		if !stays {
			s.end(i, ending{cause: fmt.Sprintf("At %s a user request updated AutoScalingGroup changing the desired capacity to 0.", stamp())})
		}
	}
	left := s.emptied(g, func(*instance) bool { return true })
	if len(left) > 0 {
		s.mu.Lock()
		g.deleting = false
		s.mu.Unlock()
		return fmt.Errorf("Group did not stabilize: %s", strings.Join(left, ", ")) //nolint:staticcheck // in CloudFormation's own words
	}
	s.mu.Lock()
	delete(s.groups, g.id)
	s.mu.Unlock()
	return nil
}

// deletePool terminates the instances of a warm pool, which go through their terminating hook as well.
func (s *Stack) deletePool(g *scalingGroup) error {
	s.mu.Lock()
	g.pool = nil
	all := slices.Clone(g.members)
	s.mu.Unlock()
	pooled := func(i *instance) bool { return warm(i.state) }
	for _, i := range all {
		s.mu.Lock()
		goes := pooled(i)
		s.mu.Unlock()
		if goes {
			s.end(i, ending{cause: fmt.Sprintf("At %s a user request deleted the warm pool.", stamp())})
		}
	}
	if left := s.emptied(g, pooled); len(left) > 0 {
		return fmt.Errorf("The warm pool still holds %s", strings.Join(left, ", ")) //nolint:staticcheck // like CloudFormation's own words
	}
	return nil
}

// emptied waits until a group holds no instance of a kind; it gives those that are left after CloudFormation's patience.
func (s *Stack) emptied(g *scalingGroup, kind func(*instance) bool) (left []string) {
	for deadline := s.now().Add(s.scaled(groupDeletion)); ; time.Sleep(50 * time.Millisecond) {
		left = nil
		s.mu.Lock()
		for _, i := range g.members {
			if kind(i) {
				left = append(left, i.machine.Id+" "+i.state)
			}
		}
		under := g.launching + g.warming
		s.mu.Unlock()
		if len(left) == 0 && under == 0 || s.now().After(deadline) || s.over() {
			return left
		}
	}
}

// released waits for EC2 to let go of what a terminated instance held: CloudFormation tries again while the resource is in use.
func (s *Stack) released(inUse func() bool) bool {
	for deadline := s.now().Add(time.Minute); inUseNow(s, inUse); time.Sleep(50 * time.Millisecond) {
		if s.now().After(deadline) || s.over() {
			return false
		}
	}
	return true
}

func inUseNow(s *Stack, inUse func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return inUse()
}

func (s *Stack) deleteInterface(id string) error {
	s.mu.Lock()
	e := s.enis[id]
	s.mu.Unlock()
	if !s.released(func() bool { return e.holder != nil }) {
		return fmt.Errorf("Network interface '%s' is currently in use", id) //nolint:staticcheck // in EC2's own words
	}
	s.Cloud.query("ec2", "Action", "DeleteNetworkInterface", "NetworkInterfaceId", id)
	s.mu.Lock()
	delete(s.enis, id)
	s.mu.Unlock()
	return nil
}

func (s *Stack) deleteVolume(id string) error {
	s.mu.Lock()
	v := s.volumes[id]
	s.mu.Unlock()
	if !s.released(func() bool { return v.holder != nil }) {
		return fmt.Errorf("Volume %s is currently attached to an instance", id) //nolint:staticcheck // in EC2's own words
	}
	s.Cloud.query("ec2", "Action", "DeleteVolume", "VolumeId", id)
	s.mu.Lock()
	delete(s.volumes, id)
	s.mu.Unlock()
	v.unplug()
	return os.Remove(v.file)
}

// deleteLogGroup keeps what the log group holds for the scenario's search for credentials.
func (s *Stack) deleteLogGroup(name any) error {
	streams := s.Cloud.call("logs", "Logs_20140328.DescribeLogStreams", map[string]any{"logGroupName": name})
	for _, stream := range cfn.List(streams["logStreams"]) {
		events := s.Cloud.call("logs", "Logs_20140328.GetLogEvents", map[string]any{"logGroupName": name, "logStreamName": cfn.At(stream, "logStreamName")})
		for _, event := range cfn.List(events["events"]) {
			s.mu.Lock()
			s.words = append(s.words, fmt.Sprint(cfn.At(event, "message")))
			s.mu.Unlock()
		}
	}
	s.Cloud.call("logs", "Logs_20140328.DeleteLogGroup", map[string]any{"logGroupName": name})
	return nil
}

// String is a deletion as a table: when each resource went, and what stayed.
func (d Deletion) String() string {
	var text strings.Builder
	var first time.Time
	for _, gone := range d.Gone {
		if first.IsZero() || gone.Begun.Before(first) {
			first = gone.Begun
		}
	}
	for _, gone := range d.Gone {
		fmt.Fprintf(&text, "%7.2f s  %s %s\n", gone.At.Sub(first).Seconds(), gone.Id, gone.Kind)
	}
	failed, _ := json.Marshal(d.Failed)
	fmt.Fprintf(&text, "retained %v\nfailed %s\n", d.Retained, failed)
	return text.String()
}
