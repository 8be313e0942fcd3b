package lab

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// Messages of launches that fail, in the words of Auto Scaling: EC2 Auto Scaling User Guide, "Troubleshoot Amazon EC2 Auto Scaling:
// EC2 instance launch failures", and what users' activities show.
const (
	// VcpuLimit is exceeded: EC2 refuses the launch.
	VcpuLimit = "You have requested more vCPU capacity than your current vCPU limit of 32 allows for the instance bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit. Launching EC2 instance failed."
	// NoCapacity is InsufficientInstanceCapacity: EC2 refuses the launch.
	NoCapacity = "We currently do not have sufficient c6a.xlarge capacity in the Availability Zone you requested (us-east-1a). Our system will be working on provisioning additional capacity. You can currently get c6a.xlarge capacity by not specifying an Availability Zone in your request or choosing us-east-1b, us-east-1c. Launching EC2 instance failed."
	// KeyPolicy of an EBS key that leaves Auto Scaling out: the instance is launched and ends at once.
	KeyPolicy = unhealthyLaunch + " while waiting for instance to be in InService state. Termination Reason: Client.InternalError: Client error on launch"

	unhealthyLaunch = "Instance became unhealthy"
)

// activity is a scaling activity. Its fields are guarded by the stack's mutex.
type activity struct {
	id, group, description, cause, status, message string
	instance, zone, subnet                         string
	begun, ended                                   time.Time
}

// stamp is a time as causes have it.
func stamp() string { return time.Now().UTC().Format("2006-01-02T15:04:05Z") }

// difference is the cause of a launch that a new desired capacity brings.
func difference(from, to int) string {
	return fmt.Sprintf("At %s an instance was started in response to a difference between desired and actual capacity, increasing the capacity from %d to %d.", stamp(), from, to)
}

// lacking is the cause of a launch that brings a group back to its desired capacity.
func (s *Stack) lacking(g *scalingGroup) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return difference(min(g.capacity(), g.desired), g.desired)
}

// activity begins one.
func (s *Stack) activity(g *scalingGroup, m *Machine, description, cause string) *activity {
	a := &activity{id: newId(), group: g.name, description: description, cause: cause, status: "InProgress", begun: time.Now()}
	s.mu.Lock()
	zones := cfn.List(g.properties["VPCZoneIdentifier"])
	if len(zones) > 0 {
		a.subnet = fmt.Sprint(zones[len(s.all)%len(zones)])
	}
	g.activities = append(g.activities, a)
	s.mu.Unlock()
	a.zone = s.Cloud.zone(a.subnet)
	if m != nil {
		s.describe(a, m)
	}
	return a
}

// describe notes the instance that an activity is about.
func (s *Stack) describe(a *activity, m *Machine) {
	zone := s.Cloud.zone(m.subnet)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.instance, a.subnet, a.zone = m.Id, m.subnet, zone
	a.description += ": " + m.Id
}

// progress notes what an activity waits for.
func (s *Stack) progress(a *activity, status string) {
	if a == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.status = status
}

// finish ends an activity. A message becomes part of its description, as Auto Scaling has it.
func (s *Stack) finish(a *activity, status, message string) {
	if a == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.status, a.message, a.ended = status, message, time.Now()
	if message != "" {
		a.description += ".  Status Reason: " + message
	}
}

// launchFailed ends the activity of a launch that failed, and tells EventBridge.
//
// EC2 Auto Scaling API Reference, DescribeScalingActivities: StatusMessage is the cause of a launch's failure. EC2 Auto Scaling User
// Guide, "Amazon EC2 Auto Scaling event reference": EC2 Instance Launch Unsuccessful.
func (s *Stack) launchFailed(g *scalingGroup, a *activity, instance, message string) {
	s.mu.Lock()
	g.failed++
	a.instance = instance
	s.mu.Unlock()
	s.finish(a, "Failed", message)
	s.publishActivity("EC2 Instance Launch Unsuccessful", a, "EC2", "AutoScalingGroup")
}

// FailLaunches makes the next launches of a group fail with a status message.
func (s *Stack) FailLaunches(group, message string, times int) {
	g := s.scalingGroup(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	g.failures = append(g.failures, slices.Repeat([]string{message}, times)...)
}

var metadataTag = regexp.MustCompile(`^[0-9a-zA-Z\-_+=,.@:]{1,255}$`)

// refusedTag is what EC2 says of tags that the metadata cannot show; "" where they can.
//
// EC2 User Guide, "View tags for your EC2 instances using instance metadata": with tags in the metadata, a key holds letters,
// digits and + - = . , _ : @ only, no space and no slash, and is not ".", ".." or "_index"; else the launch fails.
func refusedTag(tags map[string]string) string {
	var bad []string
	for key := range tags {
		if !metadataTag.MatchString(key) || slices.Contains([]string{".", "..", "_index"}, key) {
			bad = append(bad, key)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf(`'%s' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{1,255}), and must not be a reserved name ('.', '..', '_index'). Launching EC2 instance failed.`, slices.Min(bad))
}

// publishActivity sends the event of a scaling activity.
//
// EC2 Auto Scaling User Guide, "Amazon EC2 Auto Scaling event reference", successful and unsuccessful scaling events.
func (s *Stack) publishActivity(kind string, a *activity, origin, destination string) {
	if a == nil {
		return
	}
	s.mu.Lock()
	resources := []string{groupArn(a.group)}
	if a.instance != "" {
		resources = append(resources, arn("ec2", "instance/"+a.instance))
	}
	status := "InProgress"
	if strings.HasSuffix(kind, "Unsuccessful") {
		status = "Failed"
	}
	detail := map[string]any{
		"StatusCode": status, "Description": a.description, "AutoScalingGroupName": a.group, "ActivityId": a.id, "RequestId": a.id,
		"Details":       map[string]any{"Availability Zone": a.zone, "Subnet ID": a.subnet},
		"StatusMessage": a.message, "StartTime": instant(a.begun), "EndTime": instant(a.ended), "EC2InstanceId": a.instance, "Cause": a.cause,
		"Origin": origin, "Destination": destination,
	}
	s.mu.Unlock()
	s.publish(kind, resources, detail)
}

// publishLifecycle sends the event of a lifecycle action that begins: the same page, lifecycle action events.
func (s *Stack) publishLifecycle(i *instance, h *hook, transition, state string) {
	kind, origin, destination := "EC2 Instance-launch Lifecycle Action", "EC2", "AutoScalingGroup"
	if transition == terminatingTransition {
		kind, origin, destination = "EC2 Instance-terminate Lifecycle Action", "AutoScalingGroup", "EC2"
	}
	switch {
	case warm(state) && transition == launchingTransition:
		destination = "WarmPool"
	case state == warmPending: // it returns
		destination = "WarmPool"
	case warm(state):
		origin = "WarmPool"
	}
	s.publish(kind, []string{groupArn(i.group.name)}, map[string]any{
		"LifecycleActionToken": h.token, "AutoScalingGroupName": i.group.name, "LifecycleHookName": h.name, "EC2InstanceId": i.machine.Id,
		"LifecycleTransition": transition, "Origin": origin, "Destination": destination,
	})
}

func groupArn(name string) string {
	return arn("autoscaling", "autoScalingGroup:0:autoScalingGroupName/"+name)
}

func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Published events of Auto Scaling with a detail-type, oldest first.
func (s *Stack) Published(kind string) (events []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range s.events {
		if event["detail-type"] == kind {
			events = append(events, event)
		}
	}
	return events
}

// publish hands an event to the rules of the stack whose pattern it matches.
func (s *Stack) publish(kind string, resources []string, detail map[string]any) {
	if s.over() {
		return
	}
	content, err := json.Marshal(map[string]any{"version": "0", "id": newId(), "detail-type": kind, "source": "aws.autoscaling", "account": account,
		"time": stamp(), "region": region, "resources": resources, "detail": detail})
	must(err)
	var event map[string]any
	must(json.Unmarshal(content, &event)) // as its receivers see it
	s.mu.Lock()
	s.events = append(s.events, event)
	s.mu.Unlock()
	s.deliver(event)
}

// zone of a subnet.
func (c *Cloud) zone(subnet string) string {
	if subnet == "" {
		return ""
	}
	return field(c.query("ec2", "Action", "DescribeSubnets", "SubnetId.1", subnet), "availabilityZone")
}
