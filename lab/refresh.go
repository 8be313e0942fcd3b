package lab

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// refresh is an instance refresh. Its fields are guarded by the stack's mutex.
type refresh struct {
	id, status, reason    string
	begun, ended          time.Time
	preferences           refreshPreferences
	total, poolTotal      int // instances to replace
	replaced, poolRenewed int
	cancelled             chan struct{}
}

// refreshPreferences are RefreshPreferences of the EC2 Auto Scaling API Reference.
type refreshPreferences struct {
	minimum, maximum   int // percentages of the desired capacity
	warmup             time.Duration
	skipMatching       bool
	protected, standby string // Wait, Ignore; Refresh or Terminate
}

// active tells whether the refresh is under way.
func (r *refresh) active() bool {
	return slices.Contains([]string{"Pending", "InProgress", "Cancelling"}, r.status)
}

// percentage of the instances that are replaced.
func (r *refresh) percentage() int {
	if total := r.total + r.poolTotal; total > 0 {
		return 100 * (r.replaced + r.poolRenewed) / total
	}
	return 100
}

// startRefresh begins to replace all instances of a group.
func (s *Stack) startRefresh(g *scalingGroup, preferences refreshPreferences) (*refresh, *fault) {
	s.mu.Lock()
	for _, r := range g.refreshes {
		if r.active() {
			s.mu.Unlock()
			return nil, &fault{400, "InstanceRefreshInProgress", "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh."}
		}
	}
	r := &refresh{id: newId(), status: "Pending", begun: time.Now(), preferences: preferences, cancelled: make(chan struct{})}
	g.refreshes = append(g.refreshes, r)
	s.mu.Unlock()
	go s.refresh(g, r)
	return r, nil
}

// cancelRefresh lets the replacements under way finish and begins no other.
//
// EC2 Auto Scaling API Reference, CancelInstanceRefresh and InstanceRefresh (Cancelling): what was replaced stays so.
func (s *Stack) cancelRefresh(g *scalingGroup) (*refresh, *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range g.refreshes {
		if r.active() {
			if r.status != "Cancelling" {
				r.status, r.reason = "Cancelling", "Cancelled due to user request."
				close(r.cancelled)
			}
			return r, nil
		}
	}
	return nil, &fault{400, "ActiveInstanceRefreshNotFound", "No in progress or pending Instance Refresh found for Auto Scaling group " + g.name}
}

// refresh replaces instances batch by batch.
//
// EC2 Auto Scaling User Guide, "How an instance refresh works in an Auto Scaling group": batches by the minimum and maximum healthy
// percentage; new ones first where the minimum is 100 percent; the next batch once the new ones are in service and warmed up. An
// instance that terminates goes through deregistration and its hook, which the refresh waits for too. "Decrease latency for
// applications with long boot times using warm pools": it replaces the instances of the warm pool as well.
func (s *Stack) refresh(g *scalingGroup, r *refresh) {
	s.mu.Lock()
	version := int(number(cfn.At(g.properties, "LaunchTemplate", "Version")))
	matches := func(i *instance) bool { return r.preferences.skipMatching && i.machine.Version == version }
	var old, pool []*instance
	for _, i := range g.members {
		switch {
		case matches(i) || leaving(i.state):
		case warm(i.state):
			pool = append(pool, i)
		default:
			old = append(old, i)
		}
	}
	r.total, r.poolTotal = len(old), len(pool)
	if r.status == "Pending" {
		r.status = "InProgress"
	}
	s.mu.Unlock()
	s.publishRefresh(g, r, "Started")
	reason := ""
	for len(old) > 0 && reason == "" && !r.stopped(s) {
		var batch, ignored []*instance
		batch, old, ignored, reason = s.nextBatch(g, r, old)
		s.mu.Lock()
		r.total -= len(ignored)
		s.mu.Unlock()
		if reason == "" && len(batch) > 0 {
			s.replaceBatch(g, r, batch)
		}
	}
	for _, i := range pool {
		if reason != "" || r.stopped(s) {
			break
		}
		// The pool is filled again as soon as the instance leaves it.
		s.end(i, ending{cause: refreshCause(i)})
		s.reconcile(g, s.lacking(g))
		s.awaitEnd(i)
		s.mu.Lock()
		r.poolRenewed++
		s.mu.Unlock()
	}
	for r.poolTotal > 0 && reason == "" && !r.stopped(s) && !s.poolFull(g) {
		time.Sleep(50 * time.Millisecond)
	}
	s.mu.Lock()
	r.ended = time.Now()
	event := "Succeeded"
	switch {
	case reason != "":
		r.status, r.reason, event = "Failed", reason, "Failed"
	case r.status == "Cancelling":
		r.status, event = "Cancelled", "Cancelled"
	default:
		r.status = "Successful"
	}
	s.mu.Unlock()
	s.publishRefresh(g, r, event)
}

// stopped tells whether a refresh begins no further replacement.
func (r *refresh) stopped(s *Stack) bool {
	select {
	case <-r.cancelled:
		return true
	case <-s.done:
		return true
	default:
		return false
	}
}

// poolFull tells whether the warm pool holds as many stopped instances as it is to hold.
func (s *Stack) poolFull(g *scalingGroup) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	stopped := 0
	for _, i := range g.members {
		if i.state == warmStopped {
			stopped++
		}
	}
	return stopped >= g.poolSize()
}

// nextBatch chooses the instances that are replaced next; a reason ends the refresh.
//
// EC2 Auto Scaling API Reference, RefreshPreferences: with Wait, an hour is waited for instances that are protected from scale-in or
// on standby, then the refresh fails; Ignore leaves them; Refresh and Terminate replace them. The percentages are of the desired
// capacity; a group that cannot give one away within them replaces one at a time nevertheless.
func (s *Stack) nextBatch(g *scalingGroup, r *refresh, old []*instance) (batch, rest, ignored []*instance, reason string) {
	p := r.preferences
	for deadline := s.now().Add(s.scaled(refreshPatience)); ; time.Sleep(50 * time.Millisecond) {
		batch, rest, ignored = nil, nil, nil
		s.mu.Lock()
		size := max(1, g.desired-(g.desired*p.minimum+99)/100) + g.desired*p.maximum/100 - g.desired
		if p.minimum >= 100 {
			size = max(1, g.desired*p.maximum/100-g.desired)
		}
		var waiting []string
		for _, i := range old {
			behaviour := "Refresh"
			if i.protected {
				behaviour = p.protected
			}
			if i.state == standby || i.state == enteringStandby {
				behaviour = p.standby
			}
			switch {
			case leaving(i.state): // something else replaced it
				ignored = append(ignored, i)
			case behaviour == "Ignore":
				ignored = append(ignored, i)
			case behaviour == "Wait":
				rest = append(rest, i)
				waiting = append(waiting, i.machine.Id)
			case len(batch) < size:
				batch = append(batch, i)
			default:
				rest = append(rest, i)
			}
		}
		s.mu.Unlock()
		switch {
		case len(batch) > 0 || len(rest) == 0 || r.stopped(s):
			return batch, rest, ignored, ""
		case s.now().After(deadline):
			return nil, rest, ignored, fmt.Sprintf("Timed out waiting for instances that are protected from scale in or in standby: %s", strings.Join(waiting, ", "))
		}
	}
}

// replaceBatch replaces some instances and waits until their replacements are warmed up, and they themselves terminated.
func (s *Stack) replaceBatch(g *scalingGroup, r *refresh, batch []*instance) {
	var all sync.WaitGroup
	ready := func(fresh *instance) bool {
		for fresh != nil && !s.reached(fresh, inService) {
			select {
			case <-fresh.ended: // its launch was abandoned: the group has launched another one
				return false
			case <-s.done:
				return false
			case <-time.After(50 * time.Millisecond):
			}
		}
		return fresh != nil && s.within(fresh.ended, s.scaled(r.preferences.warmup))
	}
	launch := func() {
		for !s.over() {
			s.mu.Lock()
			g.launching++
			s.mu.Unlock()
			fresh := s.launch(g, refreshed(), false)
			if ready(fresh) || fresh == nil {
				return
			}
		}
	}
	for _, i := range batch {
		all.Go(func() {
			if r.preferences.minimum >= 100 { // launch before terminating
				s.mu.Lock()
				g.desired++
				s.mu.Unlock()
				launch()
				s.mu.Lock()
				g.desired--
				s.mu.Unlock()
				s.end(i, ending{cause: refreshCause(i)})
			} else {
				s.end(i, ending{cause: refreshCause(i)})
				launch()
			}
			s.awaitEnd(i)
			s.mu.Lock()
			r.replaced++
			s.mu.Unlock()
		})
	}
	all.Wait()
}

// awaitEnd waits until an instance is terminated, or retained.
func (s *Stack) awaitEnd(i *instance) {
	for !s.reached(i, terminating+retainedSuffix) && !s.reached(i, warmTerminating+retainedSuffix) {
		select {
		case <-i.ended:
			return
		case <-s.done:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func refreshed() string {
	return "At " + stamp() + " an instance was launched in response to an instance refresh."
}

func refreshCause(i *instance) string {
	return fmt.Sprintf("At %s instance %s was taken out of service in response to an instance refresh.", stamp(), i.machine.Id)
}

// publishRefresh sends an event of a refresh: EC2 Auto Scaling User Guide, "Amazon EC2 Auto Scaling event reference".
func (s *Stack) publishRefresh(g *scalingGroup, r *refresh, what string) {
	s.publish("EC2 Auto Scaling Instance Refresh "+what, []string{groupArn(g.name)}, map[string]any{"InstanceRefreshId": r.id, "AutoScalingGroupName": g.name})
}
