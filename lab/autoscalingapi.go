package lab

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// fault is an error that AWS answers.
type fault struct {
	status        int
	code, message string
}

func invalid(format string, arguments ...any) *fault {
	return &fault{http.StatusBadRequest, "ValidationError", fmt.Sprintf(format, arguments...)}
}

// element of an answer in XML; parts are XML already.
func element(name string, parts ...string) string {
	return "<" + name + ">" + strings.Join(parts, "") + "</" + name + ">"
}

// leaf is an element that holds a value; nothing where the value is empty.
func leaf(name string, value any) string {
	text := fmt.Sprint(value)
	if text == "" || value == nil {
		return ""
	}
	var escaped strings.Builder
	must(xml.EscapeText(&escaped, []byte(text)))
	return element(name, escaped.String())
}

// members of a list in XML.
func members[T any](name string, list []T, each func(T) string) string {
	var text strings.Builder
	for _, one := range list {
		text.WriteString(element("member", each(one)))
	}
	return element(name, text.String())
}

// listed are the elements of a list in a form.
func listed(form url.Values, name string) (list []string) {
	for n := 1; form.Has(fmt.Sprintf("%s.member.%d", name, n)); n++ {
		list = append(list, form.Get(fmt.Sprintf("%s.member.%d", name, n)))
	}
	return list
}

// AutoScaling calls Amazon EC2 Auto Scaling as the owner of the account does; keys and values as in the API Reference.
func (s *Stack) AutoScaling(action string, parameters ...string) (string, error) {
	form := url.Values{}
	for n := 0; n+1 < len(parameters); n += 2 {
		form.Set(parameters[n], parameters[n+1])
	}
	answer, problem, known := s.autoScalingCall(action, form)
	if !known {
		return "", fmt.Errorf("the lab does not know autoscaling:%s", action)
	}
	if problem != nil {
		return "", fmt.Errorf("%s: %s", problem.code, problem.message)
	}
	return answer, nil
}

// answerAutoScaling answers a call to Amazon EC2 Auto Scaling in the Query protocol; it tells whether it knows the action.
func (s *Stack) answerAutoScaling(w http.ResponseWriter, action string, form url.Values) bool {
	answer, problem, known := s.autoScalingCall(action, form)
	switch {
	case !known:
		s.complain("the lab does not know autoscaling:%s", action)
		return false
	case problem != nil:
		refuse(w, problem.status, problem.code, problem.message)
	default:
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<%[1]sResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>%[3]s</RequestId></ResponseMetadata></%[1]sResponse>`, action, answer, newId())
	}
	return true
}

// autoScalingCall does what the EC2 Auto Scaling API Reference says of an action.
func (s *Stack) autoScalingCall(action string, form url.Values) (answer string, problem *fault, known bool) {
	switch action {
	case "CompleteLifecycleAction", "RecordLifecycleActionHeartbeat":
		return "", s.lifecycleCall(action, form), true
	case "DescribeAutoScalingInstances":
		return s.describeInstances(listed(form, "InstanceIds")), nil, true
	case "DescribeAutoScalingGroups":
		return s.describeGroups(listed(form, "AutoScalingGroupNames")), nil, true
	case "DescribeScalingActivities":
		return s.describeActivities(form), nil, true
	case "SetInstanceHealth":
		return "", s.setInstanceHealth(form), true
	case "TerminateInstanceInAutoScalingGroup":
		answer, problem = s.terminateInstance(form)
		return answer, problem, true
	}
	name := form.Get("AutoScalingGroupName")
	g := s.scalingGroupNamed(name)
	if g == nil && slices.Contains([]string{"SetDesiredCapacity", "EnterStandby", "ExitStandby", "DetachInstances", "SetInstanceProtection", "StartInstanceRefresh",
		"CancelInstanceRefresh", "DescribeInstanceRefreshes", "DescribeLifecycleHooks", "DescribeWarmPool", "SuspendProcesses", "ResumeProcesses"}, action) {
		return "", invalid("AutoScalingGroup name not found - AutoScalingGroup '%s' not found", name), true
	}
	switch action {
	case "SetDesiredCapacity":
		return "", s.setDesiredCapacity(g, form), true
	case "EnterStandby", "ExitStandby", "DetachInstances":
		answer, problem = s.moveInstances(action, g, form)
		return answer, problem, true
	case "SetInstanceProtection":
		return "", s.setInstanceProtection(g, form), true
	case "StartInstanceRefresh", "CancelInstanceRefresh":
		answer, problem = s.changeRefresh(action, g, form)
		return answer, problem, true
	case "DescribeInstanceRefreshes":
		return s.describeRefreshes(g), nil, true
	case "DescribeLifecycleHooks":
		return s.describeHooks(g), nil, true
	case "DescribeWarmPool":
		return s.describePool(g), nil, true
	case "SuspendProcesses", "ResumeProcesses":
		s.suspend(action == "SuspendProcesses", g, listed(form, "ScalingProcesses"))
		return "", nil, true
	}
	return "", nil, false
}

// suspend suspends or resumes processes: EC2 Auto Scaling User Guide, "Suspend and resume Amazon EC2 Auto Scaling processes".
func (s *Stack) suspend(on bool, g *scalingGroup, processes []string) {
	if len(processes) == 0 {
		processes = []string{"Launch", "Terminate", "AddToLoadBalancer", "AlarmNotification", "AZRebalance", "HealthCheck", "InstanceRefresh", "ReplaceUnhealthy", "ScheduledActions"}
	}
	s.mu.Lock()
	g.suspended = slices.DeleteFunc(g.suspended, func(process string) bool { return slices.Contains(processes, process) })
	if on {
		g.suspended = append(g.suspended, processes...)
	}
	s.mu.Unlock()
	if !on {
		s.reconcile(g, s.lacking(g))
	}
}

// setDesiredCapacity changes the size of a group; its termination policy chooses what goes.
func (s *Stack) setDesiredCapacity(g *scalingGroup, form url.Values) *fault {
	size, err := strconv.Atoi(form.Get("DesiredCapacity"))
	if err != nil {
		return invalid("DesiredCapacity must be a number")
	}
	s.mu.Lock()
	before := g.desired
	switch {
	case size > g.maximum:
		s.mu.Unlock()
		return invalid("New SetDesiredCapacity value %d is above max value %d for the AutoScalingGroup.", size, g.maximum)
	case size < g.minimum:
		s.mu.Unlock()
		return invalid("New SetDesiredCapacity value %d is below min value %d for the AutoScalingGroup.", size, g.minimum)
	}
	g.desired = size
	s.mu.Unlock()
	cause := fmt.Sprintf("At %s a user request explicitly set group desired capacity changing the desired capacity from %d to %d.", stamp(), before, size)
	if size > before {
		cause += "  " + difference(before, size)
	} else {
		cause += fmt.Sprintf("  At %s an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity from %d to %d.", stamp(), before, size)
	}
	s.reconcile(g, cause)
	return nil
}

// setInstanceHealth is the custom health check of an instance.
//
// EC2 Auto Scaling API Reference, SetInstanceHealth: it respects the group's grace period unless told not to. User Guide, "Health
// checks for instances in an Auto Scaling group": an instance in service that is unhealthy is replaced.
func (s *Stack) setInstanceHealth(form url.Values) *fault {
	id, status := form.Get("InstanceId"), form.Get("HealthStatus")
	if status != "Healthy" && status != "Unhealthy" {
		return invalid("Invalid HealthStatus: %s. Valid values are Healthy or Unhealthy", status)
	}
	s.mu.Lock()
	i := s.instances[id]
	if i == nil || leaving(i.state) && !strings.HasPrefix(i.state, terminating) {
		s.mu.Unlock()
		return invalid("Instance Id not found - No managed instance found for instance ID %s", id)
	}
	grace := s.scaled(time.Duration(number(i.group.properties["HealthCheckGracePeriod"])) * time.Second)
	if form.Get("ShouldRespectGracePeriod") != "false" && i.state == inService && time.Since(i.inService) < grace {
		s.mu.Unlock()
		return nil
	}
	i.unhealthy = status == "Unhealthy"
	s.sick[id] = i.unhealthy
	sick := i.unhealthy && i.state == inService
	s.mu.Unlock()
	if sick {
		s.replaceUnhealthy(i)
	}
	return nil
}

// terminateInstance terminates an instance of a group, not of its warm pool; scale-in protection does not hold it.
func (s *Stack) terminateInstance(form url.Values) (string, *fault) {
	id, decrement := form.Get("InstanceId"), form.Get("ShouldDecrementDesiredCapacity") == "true"
	s.mu.Lock()
	i := s.instances[id]
	switch {
	case i == nil || i.state == terminated || i.state == detached:
		s.mu.Unlock()
		return "", invalid("Instance Id not found - No managed instance found for instance ID: %s", id)
	case warm(i.state):
		s.mu.Unlock()
		return "", invalid("The instance %s is in the warm pool", id)
	}
	g := i.group
	size := g.desired
	decrement = decrement && counts(i.state)
	if decrement && size-1 < g.minimum {
		s.mu.Unlock()
		return "", invalid("Currently, desiredSize equals minSize (%d). Terminating instance without replacement will violate group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size.", size)
	}
	if decrement {
		g.desired--
	}
	s.mu.Unlock()
	cause := fmt.Sprintf("At %s instance %s was taken out of service in response to a user request", stamp(), id)
	if decrement {
		cause += fmt.Sprintf(", shrinking the capacity from %d to %d", size, size-1)
	}
	s.end(i, ending{cause: cause + "."})
	s.reconcile(g, s.lacking(g))
	return element("Activity", s.activityOf(g, id)), nil
}

// activityOf an instance, the newest, in XML.
func (s *Stack) activityOf(g *scalingGroup, id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range slices.Backward(g.activities) {
		if a.instance == id {
			return a.xml()
		}
	}
	return ""
}

// moveInstances puts instances on standby, back in service, or out of their group.
//
// EC2 Auto Scaling User Guide, "Temporarily remove instances from your Auto Scaling group" and "Detach or attach instances": on
// standby and detached they are deregistered, and a replacement is launched unless the desired capacity is decremented, which may
// not fall below the minimum; back in service they are registered, and it is incremented.
func (s *Stack) moveInstances(action string, g *scalingGroup, form url.Values) (string, *fault) {
	ids := listed(form, "InstanceIds")
	decrement := form.Get("ShouldDecrementDesiredCapacity") == "true"
	s.mu.Lock()
	wanted := inService
	if action == "ExitStandby" {
		wanted = standby
	}
	var list []*instance
	for _, id := range ids {
		i := s.instances[id]
		if i == nil || i.group != g || i.state != wanted && (action != "DetachInstances" || i.state != standby) {
			s.mu.Unlock()
			return "", invalid("The instance %s is not in %s.", id, wanted)
		}
		list = append(list, i)
	}
	size := g.desired
	if decrement && action != "ExitStandby" {
		if size-len(ids) < g.minimum {
			s.mu.Unlock()
			return "", invalid("AutoScalingGroup %s has min-size=%d, max-size=%d, and desired-size=%d. To place into standby %d instance, please update the AutoScalingGroup sizes appropriately.", g.name, g.minimum, g.maximum, size, len(ids))
		}
		g.desired -= len(ids)
	}
	if action == "ExitStandby" {
		if size+len(ids) > g.maximum {
			s.mu.Unlock()
			return "", invalid("AutoScalingGroup %s has min-size=%d, max-size=%d, and desired-size=%d. To exit %d instance from standby, please update the AutoScalingGroup sizes appropriately.", g.name, g.minimum, g.maximum, size, len(ids))
		}
		g.desired += len(ids)
	}
	turns := map[*instance]chan struct{}{}
	for _, i := range list {
		turns[i] = s.moveLocked(i, map[string]string{"EnterStandby": enteringStandby, "ExitStandby": pending, "DetachInstances": detaching}[action])
	}
	after := g.desired
	s.mu.Unlock()
	var activities []*activity
	for _, i := range list {
		a := s.activity(g, i.machine, map[string]string{"EnterStandby": "Moving EC2 instance to Standby", "ExitStandby": "Moving EC2 instance out of Standby", "DetachInstances": "Detaching EC2 instance"}[action],
			fmt.Sprintf("At %s instance %s was %s in response to a user request, changing the capacity from %d to %d.", stamp(), i.machine.Id,
				map[string]string{"EnterStandby": "moved to standby", "ExitStandby": "moved out of standby", "DetachInstances": "detached"}[action], size, after))
		activities = append(activities, a)
		turn := turns[i]
		switch action {
		case "ExitStandby": // whether launching hooks run again AWS does not say: here they do not
			s.tell(i.machine, inService)
			go s.enterService(i, turn, a, nil)
		case "EnterStandby":
			s.tell(i.machine, standby)
			go func() {
				if s.deregister(i, turn, false) && s.stays(i, turn, standby) {
					s.finish(a, "Successful", "")
				}
			}()
		case "DetachInstances":
			s.tell(i.machine, detached)
			go func() {
				if s.deregister(i, turn, false) && s.stays(i, turn, detached) {
					s.mu.Lock()
					g.members = slices.DeleteFunc(g.members, func(other *instance) bool { return other == i })
					s.mu.Unlock()
					s.forget(i)
					s.finish(a, "Successful", "")
					close(i.ended)
				}
			}()
		}
	}
	if action != "ExitStandby" {
		s.reconcile(g, s.lacking(g))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return members("Activities", activities, (*activity).xml), nil
}

func (s *Stack) setInstanceProtection(g *scalingGroup, form url.Values) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range listed(form, "InstanceIds") {
		i := s.instances[id]
		if i == nil || i.group != g || leaving(i.state) {
			return invalid("The instance %s is not part of Auto Scaling group %s.", id, g.name)
		}
		i.protected = form.Get("ProtectedFromScaleIn") == "true"
	}
	return nil
}

// changeRefresh starts or cancels an instance refresh: StartInstanceRefresh and RefreshPreferences name the defaults.
func (s *Stack) changeRefresh(action string, g *scalingGroup, form url.Values) (string, *fault) {
	if action == "CancelInstanceRefresh" {
		r, problem := s.cancelRefresh(g)
		if problem != nil {
			return "", problem
		}
		return leaf("InstanceRefreshId", r.id), nil
	}
	s.mu.Lock()
	policy := cfn.At(g.properties, "InstanceMaintenancePolicy")
	given := func(name string, fallbacks ...any) int {
		for _, value := range append([]any{form.Get("Preferences." + name)}, fallbacks...) {
			if value != nil && value != "" {
				return int(number(value))
			}
		}
		return 0
	}
	text := func(name string) string {
		if value := form.Get("Preferences." + name); value != "" {
			return value
		}
		return "Wait"
	}
	p := refreshPreferences{
		minimum:      given("MinHealthyPercentage", cfn.At(policy, "MinHealthyPercentage"), 90),
		maximum:      given("MaxHealthyPercentage", cfn.At(policy, "MaxHealthyPercentage"), 100),
		warmup:       time.Duration(given("InstanceWarmup", g.properties["DefaultInstanceWarmup"], g.properties["HealthCheckGracePeriod"])) * time.Second,
		skipMatching: form.Get("Preferences.SkipMatching") == "true",
		protected:    text("ScaleInProtectedInstances"), standby: text("StandbyInstances"),
	}
	s.mu.Unlock()
	if form.Get("Preferences.MaxHealthyPercentage") != "" && form.Get("Preferences.MinHealthyPercentage") == "" {
		return "", invalid("MinHealthyPercentage must be specified with MaxHealthyPercentage")
	}
	if p.maximum-p.minimum > 100 {
		return "", invalid("The difference between MaxHealthyPercentage and MinHealthyPercentage cannot be greater than 100")
	}
	for key := range form {
		if strings.HasPrefix(key, "DesiredConfiguration") || slices.Contains([]string{"Preferences.AutoRollback", "Preferences.BakeTime"}, key) || strings.HasPrefix(key, "Preferences.Checkpoint") || strings.HasPrefix(key, "Preferences.Alarm") {
			return "", invalid("the lab does not know %s", key)
		}
	}
	r, problem := s.startRefresh(g, p)
	if problem != nil {
		return "", problem
	}
	return leaf("InstanceRefreshId", r.id), nil
}

// Refresh is the status of a group's newest instance refresh.
func (s *Stack) Refresh(group string) string {
	g := s.scalingGroup(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(g.refreshes) == 0 {
		return ""
	}
	return g.refreshes[len(g.refreshes)-1].status
}

func (s *Stack) describeRefreshes(g *scalingGroup) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(g.refreshes)
	slices.Reverse(list)
	return members("InstanceRefreshes", list, func(r *refresh) string {
		ended := ""
		if !r.ended.IsZero() {
			ended = instant(r.ended)
		}
		text := leaf("InstanceRefreshId", r.id) + leaf("AutoScalingGroupName", g.name) + leaf("Status", r.status) + leaf("StatusReason", r.reason) +
			leaf("StartTime", instant(r.begun)) + leaf("EndTime", ended) + leaf("PercentageComplete", r.percentage()) +
			leaf("InstancesToUpdate", r.total-r.replaced+r.poolTotal-r.poolRenewed) +
			element("Preferences", leaf("MinHealthyPercentage", r.preferences.minimum), leaf("MaxHealthyPercentage", r.preferences.maximum),
				leaf("InstanceWarmup", int(r.preferences.warmup.Seconds())), leaf("SkipMatching", r.preferences.skipMatching))
		if r.poolTotal > 0 {
			progress := func(name string, done, total int) string {
				return element(name, leaf("PercentageComplete", 100*done/max(1, total)), leaf("InstancesToUpdate", total-done))
			}
			text += element("ProgressDetails", progress("LivePoolProgress", r.replaced, r.total), progress("WarmPoolProgress", r.poolRenewed, r.poolTotal))
		}
		return text
	})
}

// zones of subnets.
func (s *Stack) zones(subnets []any) map[string]string {
	zones := map[string]string{}
	for _, subnet := range subnets {
		zones[fmt.Sprint(subnet)] = s.Cloud.zone(fmt.Sprint(subnet))
	}
	return zones
}

// instanceXml is what DescribeAutoScalingGroups says of an instance; DescribeAutoScalingInstances shouts its health. The stack's
// mutex is held.
func (i *instance) instanceXml(zones map[string]string, shout bool) string {
	health := "Healthy"
	if i.unhealthy {
		health = "Unhealthy"
	}
	if shout {
		health = strings.ToUpper(health)
	}
	template := fmt.Sprint(cfn.At(i.group.properties, "LaunchTemplate", "LaunchTemplateId"))
	return leaf("InstanceId", i.machine.Id) + leaf("AvailabilityZone", zones[i.machine.subnet]) + leaf("LifecycleState", i.state) + leaf("HealthStatus", health) +
		element("LaunchTemplate", leaf("LaunchTemplateId", template), leaf("Version", i.machine.Version)) + leaf("ProtectedFromScaleIn", i.protected)
}

func (s *Stack) describeInstances(ids []string) string {
	var subnets []any
	s.mu.Lock()
	var list []*instance
	for _, g := range s.groups {
		for _, i := range g.members {
			if len(ids) == 0 || slices.Contains(ids, i.machine.Id) {
				list = append(list, i)
				subnets = append(subnets, i.machine.subnet)
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b *instance) int { return strings.Compare(a.machine.Id, b.machine.Id) })
	zones := s.zones(subnets)
	s.mu.Lock()
	defer s.mu.Unlock()
	return members("AutoScalingInstances", list, func(i *instance) string {
		return leaf("AutoScalingGroupName", i.group.name) + i.instanceXml(zones, true)
	})
}

func (s *Stack) describeGroups(names []string) string {
	var subnets []any
	s.mu.Lock()
	var list []*scalingGroup
	for _, g := range s.groups {
		if len(names) == 0 || slices.Contains(names, g.name) {
			list = append(list, g)
			subnets = append(subnets, cfn.List(g.properties["VPCZoneIdentifier"])...)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b *scalingGroup) int { return strings.Compare(a.name, b.name) })
	zones := s.zones(subnets)
	text := func(value any) string { return fmt.Sprint(value) }
	s.mu.Lock()
	defer s.mu.Unlock()
	return members("AutoScalingGroups", list, func(g *scalingGroup) string {
		var live []*instance
		for _, i := range g.members {
			if !warm(i.state) {
				live = append(live, i)
			}
		}
		var subnets, where []string
		for _, subnet := range cfn.List(g.properties["VPCZoneIdentifier"]) {
			subnets = append(subnets, text(subnet))
			if zone := zones[text(subnet)]; !slices.Contains(where, zone) {
				where = append(where, zone)
			}
		}
		status := ""
		if g.deleting {
			status = "Delete in progress"
		}
		answer := leaf("AutoScalingGroupName", g.name) + leaf("AutoScalingGroupARN", groupArn(g.name)) +
			element("LaunchTemplate", leaf("LaunchTemplateId", cfn.At(g.properties, "LaunchTemplate", "LaunchTemplateId")), leaf("Version", cfn.At(g.properties, "LaunchTemplate", "Version"))) +
			leaf("MinSize", g.minimum) + leaf("MaxSize", g.maximum) + leaf("DesiredCapacity", g.desired) + leaf("DefaultCooldown", 300) +
			members("AvailabilityZones", where, func(zone string) string { return zone }) + leaf("HealthCheckType", "EC2") +
			leaf("HealthCheckGracePeriod", int(number(g.properties["HealthCheckGracePeriod"]))) + leaf("CreatedTime", "2026-01-01T00:00:00.000Z") +
			members("TargetGroupARNs", cfn.List(g.properties["TargetGroupARNs"]), text) + leaf("VPCZoneIdentifier", strings.Join(subnets, ",")) + leaf("Status", status) +
			members("SuspendedProcesses", g.suspended, func(process string) string { return leaf("ProcessName", process) }) +
			members("Instances", live, func(i *instance) string { return i.instanceXml(zones, false) }) +
			members("Tags", cfn.List(g.properties["Tags"]), func(tag any) string {
				return leaf("ResourceId", g.name) + leaf("ResourceType", "auto-scaling-group") + leaf("Key", cfn.At(tag, "Key")) + leaf("Value", cfn.At(tag, "Value")) + leaf("PropagateAtLaunch", cfn.At(tag, "PropagateAtLaunch"))
			})
		if g.pool != nil {
			answer += g.pool.xml() + leaf("WarmPoolSize", len(g.pooled()))
		}
		return answer
	})
}

func (p *warmPool) xml() string {
	prepared := ""
	if p.prepared >= 0 {
		prepared = fmt.Sprint(p.prepared)
	}
	return element("WarmPoolConfiguration", leaf("MaxGroupPreparedCapacity", prepared), leaf("MinSize", p.minimum), leaf("PoolState", "Stopped"),
		element("InstanceReusePolicy", leaf("ReuseOnScaleIn", p.reuse)))
}

func (s *Stack) describePool(g *scalingGroup) string {
	s.mu.Lock()
	var list []*instance
	var subnets []any
	for _, i := range g.members {
		if warm(i.state) {
			list = append(list, i)
			subnets = append(subnets, i.machine.subnet)
		}
	}
	s.mu.Unlock()
	zones := s.zones(subnets)
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.pool == nil {
		return ""
	}
	return g.pool.xml() + members("Instances", list, func(i *instance) string { return i.instanceXml(zones, false) })
}

// xml of an activity. The stack's mutex is held.
func (a *activity) xml() string {
	ended, progress := "", 50
	if !a.ended.IsZero() {
		ended, progress = instant(a.ended), 100
	}
	return leaf("ActivityId", a.id) + leaf("AutoScalingGroupName", a.group) + leaf("AutoScalingGroupARN", groupArn(a.group)) + leaf("Description", a.description) +
		leaf("Cause", a.cause) + leaf("StartTime", instant(a.begun)) + leaf("EndTime", ended) + leaf("StatusCode", a.status) + leaf("StatusMessage", a.message) +
		leaf("Progress", progress) + leaf("Details", fmt.Sprintf(`{"Subnet ID":%q,"Availability Zone":%q}`, a.subnet, a.zone))
}

// describeActivities lists them, the newest first.
func (s *Stack) describeActivities(form url.Values) string {
	ids, name := listed(form, "ActivityIds"), form.Get("AutoScalingGroupName")
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*activity
	for _, g := range s.groups {
		for _, a := range g.activities {
			if (name == "" || a.group == name) && (len(ids) == 0 || slices.Contains(ids, a.id)) {
				list = append(list, a)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *activity) int { return b.begun.Compare(a.begun) })
	return members("Activities", list, (*activity).xml)
}

func (s *Stack) describeHooks(g *scalingGroup) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return members("LifecycleHooks", cfn.List(g.properties["LifecycleHookSpecificationList"]), func(hook any) string {
		return leaf("LifecycleHookName", cfn.At(hook, "LifecycleHookName")) + leaf("AutoScalingGroupName", g.name) + leaf("LifecycleTransition", cfn.At(hook, "LifecycleTransition")) +
			leaf("HeartbeatTimeout", cfn.At(hook, "HeartbeatTimeout")) + leaf("DefaultResult", cfn.At(hook, "DefaultResult"))
	})
}
