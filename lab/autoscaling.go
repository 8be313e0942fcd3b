package lab

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
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

// scalingGroup is an Auto Scaling group. Its fields are guarded by the stack's mutex.
type scalingGroup struct {
	id, name                  string         // logical and physical
	properties                map[string]any // of the template, resolved, for what is launched from now on
	desired, minimum, maximum int
	launching, warming        int         // launches under way, into the group and into its warm pool
	members                   []*instance // those of the warm pool too, until they are terminated or detached
	pool                      *warmPool
	activities                []*activity // oldest first
	refreshes                 []*refresh  // oldest first
	failures                  []string    // status messages of the launches that are to fail next
	failed                    int         // launches that failed since one succeeded
	suspended                 []string    // processes
	deleting                  bool
}

// warmPool of a group.
type warmPool struct {
	minimum, prepared int // prepared is MaxGroupPreparedCapacity; -1: not given
	reuse             bool
}

// instance is a machine as its Auto Scaling group sees it. Its fields are guarded by the stack's mutex.
type instance struct {
	machine              *Machine
	group                *scalingGroup
	state                string   // LifecycleState
	history              []string // its states so far, this one included
	unhealthy, protected bool
	inService            time.Time
	hooks                []*hook       // of the last transition
	turn                 chan struct{} // of the transition under way; closed when another begins
	ended                chan struct{} // closed when it is terminated or detached
	targets              map[string]*target
}

// Lifecycle states: EC2 Auto Scaling API Reference, AutoScalingInstanceDetails.
const (
	pending          = "Pending"
	inService        = "InService"
	terminating      = "Terminating"
	terminated       = "Terminated"
	enteringStandby  = "EnteringStandby"
	standby          = "Standby"
	detaching        = "Detaching"
	detached         = "Detached"
	warmPending      = "Warmed:Pending"
	warmStopped      = "Warmed:Stopped"
	warmTerminating  = "Warmed:Terminating"
	warmTerminated   = "Warmed:Terminated"
	retainedSuffix   = ":Retained"
	waitSuffix       = ":Wait"
	proceedSuffix    = ":Proceed"
	adminRetry       = 24 * time.Hour
	longestBackOff   = 15 * time.Minute
	shortestBackOff  = 15 * time.Second
	groupDeletion    = 240 * time.Minute
	refreshPatience  = time.Hour
	defaultHeartbeat = 3600
)

// warm tells whether a lifecycle state is one of the warm pool.
func warm(state string) bool { return strings.HasPrefix(state, "Warmed:") }

// leaving tells whether a lifecycle state is one that an instance never comes back from.
func leaving(state string) bool {
	state = strings.TrimPrefix(state, "Warmed:")
	return strings.HasPrefix(state, terminating) || state == terminated || state == detaching || state == detached
}

// counts tells whether an instance in a lifecycle state counts toward the desired capacity.
//
// EC2 Auto Scaling User Guide: instances on standby count no more once the desired capacity was decremented, or a replacement
// takes their place ("Temporarily remove instances from your Auto Scaling group"); retained ones do not count ("Control instance
// retention with instance lifecycle policies"); those of the warm pool never do.
func counts(state string) bool {
	return !warm(state) && !leaving(state) && state != standby && state != enteringStandby
}

// scaled is how long a wait lasts in this stack.
func (s *Stack) scaled(wait time.Duration) time.Duration {
	return wait / time.Duration(s.Options.Scale)
}

// within waits for a while; it tells whether the transition is still under way.
func (s *Stack) within(turn chan struct{}, while time.Duration) bool {
	timer := time.NewTimer(while)
	defer timer.Stop()
	select {
	case <-turn:
		return false
	case <-s.done:
		return false
	case <-timer.C:
		return true
	}
}

// over tells whether the stack is gone.
func (s *Stack) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// capacity of a group: the instances that count, and those that are on their way. The stack's mutex is held.
func (g *scalingGroup) capacity() int {
	n := g.launching
	for _, i := range g.members {
		if counts(i.state) {
			n++
		}
	}
	return n
}

// poolSize is how many instances a group's warm pool is to hold.
//
// EC2 Auto Scaling API Reference, PutWarmPool: the difference between MaxGroupPreparedCapacity (else the group's maximum) and
// the desired capacity, never less than MinSize; where MaxGroupPreparedCapacity and MinSize are the same, that size itself.
func (g *scalingGroup) poolSize() int {
	switch {
	case g.pool == nil || g.deleting:
		return 0
	case g.pool.prepared == g.pool.minimum:
		return g.pool.minimum
	case g.pool.prepared < 0:
		return max(g.pool.minimum, g.maximum-g.desired)
	}
	return max(g.pool.minimum, g.pool.prepared-g.desired)
}

// pooled are the instances that the warm pool holds or is about to hold. The stack's mutex is held.
func (g *scalingGroup) pooled() (list []*instance) {
	for _, i := range g.members {
		if warm(i.state) && !leaving(i.state) && !strings.HasSuffix(i.state, retainedSuffix) {
			list = append(list, i)
		}
	}
	return list
}

// reconcile launches and terminates what a group has too few and too many of.
func (s *Stack) reconcile(g *scalingGroup, cause string) {
	s.mu.Lock()
	if g.deleting {
		s.mu.Unlock()
		return
	}
	var start, end []*instance
	missing, fresh := 0, 0
	if !slices.Contains(g.suspended, "Launch") {
		for missing = g.desired - g.capacity(); missing > 0; missing-- {
			if i := s.takeStopped(g); i != nil {
				start = append(start, i)
				continue
			}
			g.launching++
			fresh++
		}
	}
	if g.capacity() > g.desired && !slices.Contains(g.suspended, "Terminate") {
		end = g.chosen(g.capacity() - g.desired)
	}
	warming := 0
	for ; len(g.pooled())+g.warming < g.poolSize(); warming++ {
		g.warming++
	}
	superfluous := g.pooled()
	superfluous = superfluous[:max(0, min(len(superfluous), len(superfluous)+g.warming-g.poolSize()))]
	s.mu.Unlock()
	for _, i := range start {
		go s.startWarm(i, cause)
	}
	for range fresh {
		go s.launch(g, cause, false)
	}
	for range warming {
		go s.launch(g, "At "+stamp()+" an instance was launched into the warm pool.", true)
	}
	for _, i := range end {
		s.end(i, ending{cause: fmt.Sprintf("%s  At %s instance %s was selected for termination.", cause, stamp(), i.machine.Id), scaleIn: true})
	}
	for _, i := range superfluous {
		s.end(i, ending{cause: "At " + stamp() + " an instance was taken out of the warm pool, which holds more than its size."})
	}
}

// takeStopped takes a stopped instance out of the warm pool for the group. The stack's mutex is held.
//
// EC2 Auto Scaling User Guide, "Decrease latency for applications with long boot times using warm pools": a scale-out draws from
// the warm pool first; when that is depleted, instances are launched directly into the group.
func (s *Stack) takeStopped(g *scalingGroup) *instance {
	for _, i := range g.members {
		if i.state == warmStopped {
			s.moveLocked(i, pending)
			s.machines[g.id] = append(s.machines[g.id], i.machine)
			return i
		}
	}
	return nil
}

// chosen are the instances that a scale-in terminates. The stack's mutex is held.
//
// EC2 Auto Scaling User Guide, "Default termination policy": the zone with the most instances first, of which at least one is not
// protected from scale-in; there the one with the oldest version of the launch template; then the one closest to the next billing
// hour, for which the oldest one stands here. "Use instance scale-in protection": a protected one is never chosen.
func (g *scalingGroup) chosen(n int) (list []*instance) {
	candidates := slices.DeleteFunc(slices.Clone(g.members), func(i *instance) bool { return !counts(i.state) || i.protected })
	for ; n > 0 && len(candidates) > 0; n-- {
		zones := map[string]int{}
		for _, i := range g.members {
			if counts(i.state) && !slices.Contains(list, i) {
				zones[i.machine.subnet]++
			}
		}
		next := slices.MinFunc(candidates, func(a, b *instance) int {
			if d := zones[b.machine.subnet] - zones[a.machine.subnet]; d != 0 {
				return d
			}
			if d := a.machine.Version - b.machine.Version; d != 0 {
				return d
			}
			return a.machine.Launched.Compare(b.machine.Launched)
		})
		list = append(list, next)
		candidates = slices.DeleteFunc(candidates, func(i *instance) bool { return i == next })
	}
	return list
}

// Launch adds an instance to a group, as a scale-out does; from the warm pool when a stopped one is there.
func (s *Stack) Launch(group string) *Machine {
	g := s.scalingGroup(group)
	s.mu.Lock()
	g.desired++
	cause := difference(g.desired-1, g.desired)
	i := s.takeStopped(g)
	if i == nil {
		g.launching++
	}
	s.mu.Unlock()
	if i != nil {
		s.startWarm(i, cause)
	} else if i = s.launch(g, cause, false); i == nil {
		return nil
	}
	return i.machine
}

// ScaleOut starts a stopped instance of the fleet's warm pool.
func (s *Stack) ScaleOut() *Machine {
	if len(s.Stopped()) == 0 {
		panic("the warm pool holds no stopped instance")
	}
	return s.Launch(MediaGroup)
}

// Stopped instances of warm pools.
func (s *Stack) Stopped() (list []*Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		for _, i := range g.members {
			if i.state == warmStopped {
				list = append(list, i.machine)
			}
		}
	}
	return list
}

// ScaleIn takes an instance out of its group and decrements the desired capacity, as a scale-in does.
func (s *Stack) ScaleIn(m *Machine) {
	i := s.instanceOf(m)
	s.mu.Lock()
	size := i.group.desired
	i.group.desired--
	s.mu.Unlock()
	if !s.end(i, ending{scaleIn: true, cause: fmt.Sprintf("At %s an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity from %d to %d.  At %[1]s instance %[4]s was selected for termination.", stamp(), size, size-1, m.Id)}) {
		s.mu.Lock()
		i.group.desired++
		s.mu.Unlock()
	}
}

// Kill ends the instances of a group at once, as a failing host does; its group launches others. It gives the last of those.
func (s *Stack) Kill(group string, hold Hold) (m *Machine) {
	g := s.scalingGroup(group)
	s.mu.Lock()
	old := slices.Clone(s.machines[group])
	s.mu.Unlock()
	fresh := 0
	for _, m := range old {
		i := s.instanceOf(m)
		s.forget(i)
		m.Terminate(hold)
		// EC2 Auto Scaling User Guide, "Health checks for instances in an Auto Scaling group": an instance in another state than
		// running is unhealthy.
		if s.end(i, ending{dead: true, cause: fmt.Sprintf("At %s an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped.", stamp())}) {
			fresh++
		}
	}
	if len(old) == 0 {
		return s.Launch(group)
	}
	for range fresh {
		s.mu.Lock()
		g.launching++
		s.mu.Unlock()
		if i := s.launch(g, fmt.Sprintf("At %s an instance was launched in response to an unhealthy instance needing to be replaced.", stamp()), false); i != nil {
			m = i.machine
		}
	}
	return m
}

// forget takes a machine off the list of those that run for its group.
func (s *Stack) forget(i *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[i.group.id] = slices.DeleteFunc(s.machines[i.group.id], func(other *Machine) bool { return other == i.machine })
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

// Lifecycle of a machine: the states that Auto Scaling had it in, the last one included.
func (s *Stack) Lifecycle(m *Machine) []string {
	i := s.instanceOf(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(i.history)
}

// State of a machine in its Auto Scaling group.
func (s *Stack) State(m *Machine) string {
	lifecycle := s.Lifecycle(m)
	return lifecycle[len(lifecycle)-1]
}

func (s *Stack) instanceOf(m *Machine) *instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[m.Id]
}

// scalingGroup by its logical id.
func (s *Stack) scalingGroup(id string) *scalingGroup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[id]
}

// scalingGroupNamed by its physical name; nil where there is none.
func (s *Stack) scalingGroupNamed(name string) *scalingGroup {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.name == name {
			return g
		}
	}
	return nil
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

// noteCuts notes the calls that an instance still carries when it ends.
func (s *Stack) noteCuts(m *Machine, result string) {
	if calls := m.carriers(); len(calls) > 0 {
		s.mu.Lock()
		s.cuts = append(s.cuts, fmt.Sprintf("%s: hook %s while %s ran", m.Id, result, strings.Join(calls, ", ")))
		s.mu.Unlock()
	}
}

// carriers are the services of a Media Node that carry calls.
func (m *Machine) carriers() (names []string) {
	files, _ := filepath.Glob(filepath.Join(m.dir, "upper/var/lib/lab-calls/*.call"))
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".call"))
	}
	return names
}
