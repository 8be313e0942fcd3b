package lab

import (
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// target is an instance in a target group.
type target struct {
	state string        // registered, draining or gone
	gone  chan struct{} // closed when its deregistration is complete
}

// observe tells the load balancers, and the observer of targets, about a change.
func (s *Stack) observe(group string, m *Machine, state string) {
	if err := s.balance(group, m, state); err != nil && !s.over() {
		s.complain("%s %s: %s", group, state, err)
	}
	s.mu.Lock()
	tell := s.targets
	s.mu.Unlock()
	if tell != nil {
		tell(group, m, state)
	}
}

// Observe has an observer told of every change of a target, after all that are registered or draining now.
func (s *Stack) Observe(tell func(targetGroup string, m *Machine, state string)) {
	type known struct {
		group string
		m     *Machine
		state string
	}
	var all []known
	s.mu.Lock()
	s.targets = tell
	for _, i := range s.instances {
		for group, t := range i.targets {
			if t.state != "gone" {
				all = append(all, known{group, i.machine, t.state})
			}
		}
	}
	s.mu.Unlock()
	for _, k := range all {
		tell(k.group, k.m, k.state)
	}
}

// TargetStates of a machine: by the logical ids of target groups.
func (s *Stack) TargetStates(m *Machine) map[string]string {
	i := s.instanceOf(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	states := map[string]string{}
	for group, t := range i.targets {
		states[group] = t.state
	}
	return states
}

// targetGroups of an Auto Scaling group: logical ids. The stack's mutex is held.
func (s *Stack) targetGroups(g *scalingGroup) (ids []string) {
	for _, arn := range cfn.List(g.properties["TargetGroupARNs"]) {
		for id, kind := range s.kinds {
			if kind == "AWS::ElasticLoadBalancingV2::TargetGroup" && s.attributes[id][""] == arn {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// register registers an instance with the target groups of its group.
func (s *Stack) register(i *instance, turn chan struct{}) {
	var made []string
	s.mu.Lock()
	if i.turn == turn {
		for _, id := range s.targetGroups(i.group) {
			if t := i.targets[id]; t == nil || t.state != "registered" {
				i.targets[id] = &target{state: "registered", gone: make(chan struct{})}
				made = append(made, id)
			}
		}
	}
	s.mu.Unlock()
	for _, id := range made {
		s.observe(id, i.machine, "registered")
	}
}

// deregistrationDelay of a target group. The stack's mutex is held.
//
// Elastic Load Balancing, User Guide for Network Load Balancers, "Edit target group attributes", Deregistration delay: a target
// leaves draining after deregistration_delay.timeout_seconds, 300 unless given, even when nothing runs through it any more.
func (s *Stack) deregistrationDelay(id string) time.Duration {
	for _, attribute := range cfn.List(s.applied[id]["TargetGroupAttributes"]) {
		if cfn.At(attribute, "Key") == "deregistration_delay.timeout_seconds" {
			return time.Duration(number(cfn.At(attribute, "Value"))) * time.Second
		}
	}
	return 300 * time.Second
}

// drain takes an instance out of the target groups that want tells; what it gives is closed when their delays are over.
func (s *Stack) drain(i *instance, atOnce bool, want func(id string) bool) (complete chan struct{}) {
	var begun []string
	var all sync.WaitGroup
	s.mu.Lock()
	delays := map[string]time.Duration{}
	for id, t := range i.targets {
		if t.state == "registered" && want(id) {
			t.state = "draining"
			begun = append(begun, id)
			if !atOnce {
				delays[id] = s.scaled(s.deregistrationDelay(id))
			}
		}
		if t.state == "draining" && want(id) {
			all.Go(func() {
				select {
				case <-t.gone:
				case <-s.done:
				}
			})
		}
	}
	s.mu.Unlock()
	for _, id := range begun {
		s.observe(id, i.machine, "draining")
		go func() {
			s.within(nil, delays[id])
			s.mu.Lock()
			t := i.targets[id]
			t.state = "gone"
			s.mu.Unlock()
			s.observe(id, i.machine, "gone")
			close(t.gone)
		}()
	}
	complete = make(chan struct{})
	go func() {
		all.Wait()
		close(complete)
	}()
	return complete
}

// deregister takes an instance out of all its target groups and waits until that is complete; it tells whether the transition is
// still under way. Of an instance that does not run any more nothing is left to drain.
func (s *Stack) deregister(i *instance, turn chan struct{}, atOnce bool) bool {
	complete := s.drain(i, atOnce, func(string) bool { return true })
	select {
	case <-complete:
		return !s.over()
	case <-turn:
	case <-s.done:
	}
	return false
}

// retarget registers and deregisters the instances in service after the target groups of their group changed.
//
// EC2 Auto Scaling API Reference, AttachLoadBalancerTargetGroups and DetachLoadBalancerTargetGroups: the instances of the group are
// registered with what is attached, and deregistered from what is detached.
func (s *Stack) retarget(g *scalingGroup) {
	s.mu.Lock()
	wanted := map[string]bool{}
	for _, id := range s.targetGroups(g) {
		wanted[id] = true
	}
	turns := map[*instance]chan struct{}{}
	for _, i := range g.members {
		if i.state == inService {
			turns[i] = i.turn
		}
	}
	s.mu.Unlock()
	for i, turn := range turns {
		s.register(i, turn)
		s.drain(i, false, func(id string) bool { return !wanted[id] })
	}
}
