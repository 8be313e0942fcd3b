package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// stays moves an instance on within its transition; it tells whether the transition is still under way.
func (s *Stack) stays(i *instance, turn chan struct{}, state string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.turn != turn {
		return false
	}
	i.state = state
	i.history = append(i.history, state)
	return true
}

// moveLocked begins a transition of an instance: whatever it waited for is moot. The stack's mutex is held.
func (s *Stack) moveLocked(i *instance, state string) chan struct{} {
	close(i.turn)
	i.turn = make(chan struct{})
	i.hooks = nil
	i.state = state
	i.history = append(i.history, state)
	return i.turn
}

// tell makes the metadata of an instance name the state that Auto Scaling wants it in.
//
// EC2 Auto Scaling User Guide, "Retrieve the target lifecycle state through instance metadata": the item is updated when the
// instance prepares to transition, so at the beginning of the transition.
func (s *Stack) tell(m *Machine, state string) {
	if err := m.announce(state); err != nil && !errors.Is(err, errOff) && !m.gone() && !s.over() {
		s.complain("%s: the metadata do not say %s: %s", m.Id, state, err)
	}
}

// launch launches an instance for a group that has counted it (launching or warming), again and again until it succeeds; nil when
// the group needs it no more, or the stack is gone.
//
// EC2 Auto Scaling User Guide, "Suspend and resume Amazon EC2 Auto Scaling processes": a group goes on trying, until after 24
// hours without any success its launches are suspended. How long it pauses between two tries AWS does not say: here 15 seconds,
// twice as long after each failure, 15 minutes at most.
func (s *Stack) launch(g *scalingGroup, cause string, intoPool bool) *instance {
	begun := time.Now()
	settle := func() { // with the stack's mutex held: the launch is not under way any more
		if intoPool {
			g.warming--
		} else {
			g.launching--
		}
	}
	for {
		s.mu.Lock()
		pause := time.Duration(0)
		if g.failed > 0 {
			pause = min(shortestBackOff<<min(g.failed-1, 10), longestBackOff)
		}
		s.mu.Unlock()
		proceeds := s.within(nil, s.scaled(pause)) && !s.over()
		s.mu.Lock()
		if !intoPool && g.capacity() > g.desired || intoPool && len(g.pooled())+g.warming > g.poolSize() || g.deleting || !proceeds {
			settle()
			s.mu.Unlock()
			return nil
		}
		if time.Since(begun) > s.scaled(adminRetry) {
			g.suspended = append(g.suspended, "Launch")
			settle()
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		a := s.activity(g, nil, "Launching a new EC2 instance", cause)
		m, message := s.machineFor(g, intoPool)
		if m == nil && s.over() {
			s.mu.Lock()
			settle()
			s.mu.Unlock()
			return nil
		}
		if m == nil {
			s.launchFailed(g, a, "", message)
			continue
		}
		turn := make(chan struct{})
		i := &instance{machine: m, group: g, turn: turn, ended: make(chan struct{}), targets: map[string]*target{}, state: pending}
		if intoPool {
			i.state = warmPending
		}
		i.history = []string{i.state}
		s.mu.Lock()
		settle()
		g.members = append(g.members, i)
		s.instances[m.Id] = i
		if !intoPool {
			s.machines[g.id] = append(s.machines[g.id], m)
		}
		s.mu.Unlock()
		s.describe(a, m)
		if message != "" { // it ends right after its launch
			s.launchFailed(g, a, m.Id, message)
			s.end(i, ending{cause: cause, straight: true, silent: true})
			<-i.ended
			s.mu.Lock()
			if intoPool {
				g.warming++
			} else {
				g.launching++
			}
			s.mu.Unlock()
			continue
		}
		if intoPool {
			hooks := s.beginHooks(i, turn, warmPending, launchingTransition)
			go s.enterPool(i, turn, a, hooks)
		} else {
			hooks := s.beginHooks(i, turn, pending, launchingTransition)
			go s.enterService(i, turn, a, hooks)
		}
		go m.firstBoot()
		return i
	}
}

// machineFor makes the machine that a group launches: with the version of the launch template that the group names. Where EC2
// refuses, it gives the reason; with a machine and a reason, the machine is to end right away.
func (s *Stack) machineFor(g *scalingGroup, intoPool bool) (*Machine, string) {
	s.mu.Lock()
	properties := g.properties
	template := cfn.At(s.deployment.Resources[g.id], "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref").(string)
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
	failure := ""
	if len(g.failures) > 0 {
		failure, g.failures = g.failures[0], g.failures[1:]
	}
	s.mu.Unlock()
	tags := s.launchTags(g, properties, data)
	zones := cfn.List(properties["VPCZoneIdentifier"])
	m := &Machine{Group: g.id, Version: version, stack: s, role: role, state: inService, tags: tags, subnet: zones[members%len(zones)].(string), Launched: time.Now()}
	if intoPool {
		m.state = warmStopped
	}
	m.showTags = cfn.At(data, "MetadataOptions", "InstanceMetadataTags") == "enabled"
	if reason := refusedTag(tags); m.showTags && reason != "" {
		return nil, reason
	}
	if failure != "" && !strings.HasPrefix(failure, unhealthyLaunch) {
		return nil, failure
	}
	m.create(cfn.At(data, "UserData").(string))
	s.mu.Lock()
	gone := s.over() // Destroy does not know of this machine
	if !gone {
		s.all = append(s.all, m)
	}
	s.mu.Unlock()
	if gone {
		m.Terminate(nil)
		os.RemoveAll(m.dir)
		return nil, ""
	}
	return m, failure
}

// launchTags are the tags of an instance: its group's that propagate, those of the launch template, the stack's.
//
// AWS CloudFormation User Guide, "Resource tag": the tags of a stack propagate to its resources, and from a group, with
// PropagateAtLaunch, to instances.
func (s *Stack) launchTags(g *scalingGroup, properties map[string]any, data any) map[string]string {
	tags := map[string]string{}
	for key, value := range s.Options.Tags {
		tags[key] = value
	}
	for _, specification := range cfn.List(cfn.At(data, "TagSpecifications")) {
		if cfn.At(specification, "ResourceType") == "instance" {
			for _, tag := range cfn.List(cfn.At(specification, "Tags")) {
				tags[fmt.Sprint(cfn.At(tag, "Key"))] = fmt.Sprint(cfn.At(tag, "Value"))
			}
		}
	}
	for _, tag := range cfn.List(properties["Tags"]) {
		if cfn.At(tag, "PropagateAtLaunch") == true {
			tags[fmt.Sprint(cfn.At(tag, "Key"))] = fmt.Sprint(cfn.At(tag, "Value"))
		}
	}
	tags[groupTag] = g.name
	return tags
}

// enterService takes an instance from its launch into service.
//
// EC2 Auto Scaling User Guide, "How lifecycle hooks work in Auto Scaling groups", steps 1 to 3: Pending, the launching hook in
// Pending:Wait, Pending:Proceed, registration with the target groups, InService.
func (s *Stack) enterService(i *instance, turn chan struct{}, a *activity, hooks []*hook) {
	result, ok := s.awaitHooks(i, turn, hooks)
	if !ok {
		return
	}
	if abandoned(result) {
		s.abandonLaunch(i, a, hooks, result)
		return
	}
	if !s.stays(i, turn, pending+proceedSuffix) {
		return
	}
	s.register(i, turn)
	s.mu.Lock()
	if i.turn != turn {
		s.mu.Unlock()
		return
	}
	i.state, i.inService = inService, time.Now()
	i.history = append(i.history, inService)
	i.group.failed = 0
	sick := i.unhealthy
	s.mu.Unlock()
	s.finish(a, "Successful", "")
	s.publishActivity("EC2 Instance Launch Successful", a, "EC2", "AutoScalingGroup")
	if sick {
		s.replaceUnhealthy(i)
	}
}

// enterPool takes an instance from its launch, or from service, into the warm pool.
//
// EC2 Auto Scaling User Guide, "Use lifecycle hooks with a warm pool": Warmed:Pending, the launching hook in Warmed:Pending:Wait,
// Warmed:Pending:Proceed, then it is stopped: Warmed:Stopped.
func (s *Stack) enterPool(i *instance, turn chan struct{}, a *activity, hooks []*hook) {
	result, ok := s.awaitHooks(i, turn, hooks)
	if !ok {
		return
	}
	if abandoned(result) {
		s.abandonLaunch(i, a, hooks, result)
		return
	}
	if !s.stays(i, turn, warmPending+proceedSuffix) {
		return
	}
	s.noteCuts(i.machine, result)
	i.machine.PowerOff()
	if s.stays(i, turn, warmStopped) {
		s.mu.Lock()
		i.group.failed = 0
		s.mu.Unlock()
		s.finish(a, "Successful", "")
		s.publishActivity("EC2 Instance Launch Successful", a, "EC2", "WarmPool")
	}
}

// abandonLaunch ends an instance whose launching hook was abandoned; its group launches another one.
//
// EC2 Auto Scaling API Reference, PutLifecycleHook, and User Guide, "Complete a lifecycle action": ABANDON of a launch terminates
// the instance. Whether a terminating hook begins for it AWS does not say: here it does not, and a call on it counts as cut.
func (s *Stack) abandonLaunch(i *instance, a *activity, hooks []*hook, result string) {
	s.noteCuts(i.machine, result)
	token := ""
	s.mu.Lock()
	for _, h := range hooks {
		if abandoned(h.result) {
			token = h.token
		}
	}
	s.mu.Unlock()
	reason := "Lifecycle Action Completed with ABANDON Result"
	if strings.HasPrefix(result, "expired") {
		reason = "Heartbeat Timeout"
	}
	s.launchFailed(i.group, a, i.machine.Id, fmt.Sprintf(
		"Instance failed to complete user's Lifecycle Action: Lifecycle Action with token %s was abandoned: %s", token, reason))
	s.end(i, ending{cause: "At " + stamp() + " an instance was taken out of service in response to a launch that was abandoned.", straight: true, silent: true})
	s.reconcile(i.group, s.lacking(i.group))
}

// startWarm starts a stopped instance that takeStopped took out of the warm pool. The metadata may name the old state for a moment.
//
// EC2 Auto Scaling User Guide, "Use lifecycle hooks with a warm pool": it goes through Pending and the launching hook once more.
func (s *Stack) startWarm(i *instance, cause string) {
	m := i.machine
	s.mu.Lock()
	turn := i.turn
	s.mu.Unlock()
	a := s.activity(i.group, m, "Launching a new EC2 instance from warm pool", cause)
	hooks := s.beginHooks(i, turn, pending, launchingTransition)
	go s.enterService(i, turn, a, hooks)
	if s.Options.StateLag == 0 {
		m.mu.Lock()
		m.state = inService
		m.mu.Unlock()
	}
	if err := m.PowerOn(); err != nil && !m.gone() && !s.over() {
		s.complain("%s does not start again: %s", m.Id, err)
	}
	if s.Options.StateLag > 0 {
		go func() {
			if s.within(turn, s.Options.StateLag) {
				s.tell(m, inService)
			}
		}()
	}
	s.reconcile(i.group, s.lacking(i.group))
}

// ending says how an instance goes.
type ending struct {
	cause    string
	hold     Hold
	straight bool // without a hook
	silent   bool // without an activity: the launch that failed has one
	scaleIn  bool // to the warm pool, where its policy says so
	dead     bool // its host failed: what is left is Auto Scaling's own work
}

// end takes an instance out of service and terminates it; it tells whether it was not already leaving.
//
// EC2 Auto Scaling User Guide, "How lifecycle hooks work in Auto Scaling groups", steps 4 to 6: Terminating; first the instance is
// deregistered from its target groups, and Auto Scaling waits until that is complete; then the terminating hook, in
// Terminating:Wait; Terminating:Proceed; Terminated.
func (s *Stack) end(i *instance, e ending) bool {
	s.mu.Lock()
	first, last := terminating, terminated
	toPool := e.scaleIn && i.group.pool != nil && i.group.pool.reuse && !warm(i.state) && len(i.group.pooled())+i.group.warming < i.group.poolSize()
	switch {
	case leaving(i.state) && !strings.HasSuffix(i.state, retainedSuffix):
		s.mu.Unlock()
		return false
	case toPool: // "Instance reuse policy": it goes back to the warm pool, and waits in Warmed:Pending:Wait
		first, last = warmPending, warmStopped
	case warm(i.state):
		first, last = warmTerminating, warmTerminated
	}
	if strings.HasSuffix(i.state, retainedSuffix) { // its hook had its chance
		e.straight = true
	}
	hooks := i.hooks
	turn := s.moveLocked(i, first)
	if e.straight { // no hook begins: the last one's result stands
		i.hooks = hooks
	}
	s.mu.Unlock()
	var a *activity
	if !e.silent {
		a = s.activity(i.group, i.machine, "Terminating EC2 instance", e.cause)
	}
	if !e.dead {
		s.tell(i.machine, last)
	}
	go s.leave(i, turn, a, e, first, last)
	return true
}

func (s *Stack) leave(i *instance, turn chan struct{}, a *activity, e ending, first, last string) {
	s.progress(a, "WaitingForELBConnectionDraining")
	if !s.deregister(i, turn, e.dead) {
		return
	}
	result := ""
	if !e.straight {
		hooks := s.beginHooks(i, turn, first, terminatingTransition)
		if len(hooks) > 0 {
			s.progress(a, "MidLifecycleAction")
		}
		var ok bool
		if result, ok = s.awaitHooks(i, turn, hooks); !ok {
			return
		}
	}
	if last == warmStopped && !abandoned(result) {
		s.backToPool(i, turn, a, result)
		return
	}
	if abandoned(result) && s.retains(i.group) {
		s.stays(i, turn, first+retainedSuffix)
		s.finish(a, "Cancelled", "Instance was retained: its termination lifecycle action was abandoned")
		return
	}
	if last == warmStopped { // "Use lifecycle hooks with a warm pool": what is abandoned is terminated
		last = terminated
	}
	if !s.stays(i, turn, first+proceedSuffix) {
		return
	}
	if !e.dead {
		if !e.straight {
			s.noteCuts(i.machine, result)
		}
		s.forget(i)
		i.machine.Terminate(e.hold)
	}
	s.stays(i, turn, last)
	s.mu.Lock()
	i.group.members = slices.DeleteFunc(i.group.members, func(other *instance) bool { return other == i })
	s.mu.Unlock()
	s.finish(a, "Successful", "")
	s.publishActivity("EC2 Instance Terminate Successful", a, "AutoScalingGroup", "EC2")
	close(i.ended)
}

// backToPool stops an instance that a scale-in returns to the warm pool.
func (s *Stack) backToPool(i *instance, turn chan struct{}, a *activity, result string) {
	if !s.stays(i, turn, warmPending+proceedSuffix) {
		return
	}
	s.noteCuts(i.machine, result)
	s.forget(i)
	i.machine.PowerOff()
	s.stays(i, turn, warmStopped)
	s.finish(a, "Successful", "")
}

// retains tells whether a group retains what a terminating hook abandons.
//
// EC2 Auto Scaling User Guide, "Control instance retention with instance lifecycle policies": the instance goes on running in
// Terminating:Retained, counts no more, and stays until TerminateInstanceInAutoScalingGroup is called for it.
func (s *Stack) retains(g *scalingGroup) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	action, _ := cfn.At(g.properties, "InstanceLifecyclePolicy", "RetentionTriggers", "TerminateHookAbandon").(string)
	return strings.EqualFold(action, "retain")
}

// replaceUnhealthy terminates an instance and launches another one.
//
// EC2 Auto Scaling User Guide, "View the reason for health check failures": by default another instance is launched while this one
// terminates; "Instance maintenance policies": with a minimum of 100 percent it is launched, and in service, before.
func (s *Stack) replaceUnhealthy(i *instance) {
	s.mu.Lock()
	held := slices.Contains(i.group.suspended, "ReplaceUnhealthy") || i.state != inService
	before := number(cfn.At(i.group.properties, "InstanceMaintenancePolicy", "MinHealthyPercentage")) >= 100
	if before && !held {
		i.group.desired++
		i.group.launching++
	}
	s.mu.Unlock()
	if held {
		return
	}
	taken := fmt.Sprintf("At %s an instance was taken out of service in response to a user health-check.", stamp())
	needed := fmt.Sprintf("At %s an instance was launched in response to an unhealthy instance needing to be replaced.", stamp())
	if !before {
		s.end(i, ending{cause: taken})
		s.reconcile(i.group, needed)
		return
	}
	go func() {
		fresh := s.launch(i.group, needed, false)
		for fresh != nil && !s.reached(fresh, inService) && s.within(fresh.ended, 50*time.Millisecond) {
		}
		s.mu.Lock()
		i.group.desired--
		s.mu.Unlock()
		s.end(i, ending{cause: taken})
		s.reconcile(i.group, needed)
	}()
}

// reached tells whether an instance is in a lifecycle state.
func (s *Stack) reached(i *instance, state string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return i.state == state
}
