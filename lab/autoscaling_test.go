package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// owner calls Auto Scaling as the account's owner; the call must succeed.
func owner(t testing.TB, s *Stack, action string, parameters ...string) string {
	t.Helper()
	answer, err := s.AutoScaling(action, parameters...)
	if err != nil {
		t.Fatalf("%s: %s", action, err)
	}
	return answer
}

// short deregistration of Media Nodes: what the scenario is about is something else.
var short = changed(func(resources map[string]any) { delays(resources, "30", "MainRtmp", "TurnTurn") })

// served waits until a Media Node other than some is ready and in service.
func served(t testing.TB, s *Stack, others ...*Machine) (m *Machine) {
	t.Helper()
	eventually(t, "a Media Node in service", func() bool {
		s.mu.Lock()
		machines := slices.Clone(s.machines[MediaGroup])
		s.mu.Unlock()
		for _, m = range machines {
			if !slices.Contains(others, m) && s.State(m) == "InService" && !s.readyAt(m).IsZero() {
				return true
			}
		}
		return false
	})
	m.Call("openvidu")
	return m
}

// idle takes a Media Node's calls away.
func idle(m *Machine) { m.HangUp() }

// TestAutoScalingCommands: nodes may ask, by the AWS CLI, what their roles let them ask.
func TestAutoScalingCommands(t *testing.T) {
	options := Options{Masters: 1, Media: 1, Scale: 60, Template: func(template cfn.Template) cfn.Template {
		return changed(func(resources map[string]any) {
			may(resources, "autoscaling:Describe*", "autoscaling:SetDesiredCapacity", "autoscaling:EnterStandby", "autoscaling:ExitStandby", "autoscaling:SetInstanceProtection", "autoscaling:TerminateInstanceInAutoScalingGroup")
		})(short(template))
	}}
	scenario(t, options, map[string]any{"MinNumberOfMediaNodes": 1, "MaxNumberOfMediaNodes": 3}, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		m := served(t, s)
		describe := "describe-auto-scaling-instances --instance-ids $ID --query 'AutoScalingInstances[0].[LifecycleState,HealthStatus,AutoScalingGroupName,LaunchTemplate.Version,ProtectedFromScaleIn]'"
		expect(t, "instance", call(m, describe), "InService\tHEALTHY\t"+m.tags[groupTag]+"\t1\tFalse")
		expect(t, "group", call(m, "describe-auto-scaling-groups --auto-scaling-group-names $GROUP --query 'AutoScalingGroups[0].[MinSize,MaxSize,DesiredCapacity,length(Instances),Instances[0].LifecycleState,length(AvailabilityZones),length(TargetGroupARNs)]'"),
			"1\t3\t1\t1\tInService\t3\t1")
		expect(t, "activity", call(m, "describe-scaling-activities --auto-scaling-group-name $GROUP --query 'Activities[0].[StatusCode,Description,Progress]'"), "Successful\tLaunching a new EC2 instance: "+m.Id+"\t100")
		expect(t, "hooks", call(m, "describe-lifecycle-hooks --auto-scaling-group-name $GROUP --query 'LifecycleHooks[].LifecycleHookName'"), "drain\tready")
		for command, says := range map[string]string{
			"set-desired-capacity --auto-scaling-group-name $GROUP --desired-capacity 4":                                  "New SetDesiredCapacity value 4 is above max value 3",
			"set-desired-capacity --auto-scaling-group-name $GROUP --desired-capacity 0":                                  "is below min value 1",
			"enter-standby --auto-scaling-group-name $GROUP --instance-ids $ID --should-decrement-desired-capacity":       "has min-size=1, max-size=3, and desired-size=1",
			"terminate-instance-in-auto-scaling-group --instance-id $ID --should-decrement-desired-capacity":              "Currently, desiredSize equals minSize (1)",
			"exit-standby --auto-scaling-group-name $GROUP --instance-ids $ID":                                            "is not in standby",
			"set-desired-capacity --auto-scaling-group-name nobody --desired-capacity 1":                                  "AutoScalingGroup name not found",
			"terminate-instance-in-auto-scaling-group --instance-id i-0123 --should-decrement-desired-capacity":           "No managed instance found",
			"set-instance-protection --auto-scaling-group-name $GROUP --instance-ids i-0123 --no-protected-from-scale-in": "is not part of Auto Scaling group",
		} {
			if got := call(m, command); !strings.Contains(strings.ToLower(got), strings.ToLower(says)) || !strings.Contains(got, "ValidationError") {
				t.Errorf("%s: %s", command, got)
			}
		}
		// Out and in again, the protected one stays.
		expect(t, "scale-out", call(m, "set-desired-capacity --auto-scaling-group-name $GROUP --desired-capacity 2"), "")
		other := served(t, s, m)
		expect(t, "protection", call(m, "set-instance-protection --auto-scaling-group-name $GROUP --instance-ids $ID --protected-from-scale-in"), "")
		idle(other)
		expect(t, "scale-in", call(m, "set-desired-capacity --auto-scaling-group-name $GROUP --desired-capacity 1"), "")
		eventually(t, "the end of the one that is not protected", is(s, other, "Terminated"))
		expect(t, "the protected one", call(m, describe), "InService\tHEALTHY\t"+m.tags[groupTag]+"\t1\tTrue")
		// On standby it is no target and does not count; back, it does.
		expect(t, "standby", call(m, "enter-standby --auto-scaling-group-name $GROUP --instance-ids $ID --no-should-decrement-desired-capacity --query 'Activities[0].Description'"), "Moving EC2 instance to Standby: "+m.Id)
		eventually(t, "standby", is(s, m, "Standby"))
		expect(t, "targets", fmt.Sprint(s.TargetStates(m)), "map[MainRtmp:gone]")
		second := served(t, s, m)
		expect(t, "back", call(m, "exit-standby --auto-scaling-group-name $GROUP --instance-ids $ID --query 'Activities[0].Description'"), "Moving EC2 instance out of Standby: "+m.Id)
		eventually(t, "service again", is(s, m, "InService"))
		expect(t, "targets", fmt.Sprint(s.TargetStates(m)), "map[MainRtmp:registered]")
		expect(t, "its way", strings.Join(s.Lifecycle(m)[4:], " "), "EnteringStandby Standby Pending Pending:Proceed InService")
		expect(t, "size", call(m, "describe-auto-scaling-groups --auto-scaling-group-names $GROUP --query 'AutoScalingGroups[0].DesiredCapacity'"), "2")
		// Terminated without decrement it is replaced, protected or not.
		idle(second)
		call(second, "terminate-instance-in-auto-scaling-group --instance-id $ID --no-should-decrement-desired-capacity")
		eventually(t, "its end", is(s, second, "Terminated"))
		third := served(t, s, m, second)
		idle(third)
		call(third, "terminate-instance-in-auto-scaling-group --instance-id $ID --should-decrement-desired-capacity")
		eventually(t, "its end", is(s, third, "Terminated"))
		time.Sleep(500 * time.Millisecond)
		s.mu.Lock()
		expect(t, "instances", fmt.Sprint(len(s.machines[MediaGroup])), "1")
		s.mu.Unlock()
	})
}

// TestFailedLaunches: Auto Scaling tells why an instance does not come, and tries again.
func TestFailedLaunches(t *testing.T) {
	t.Parallel()
	// A rule and a function that writes what it gets into the log group of the functions.
	listening := func(template cfn.Template) cfn.Template {
		return changed(func(resources map[string]any) {
			resources["Listener"] = map[string]any{"Type": "AWS::Lambda::Function", "Properties": map[string]any{"Runtime": "nodejs22.x", "Handler": "index.handler",
				"Role": map[string]any{"Fn::GetAtt": []any{"PreflightFunctionRole", "Arn"}},
				"Code": map[string]any{"ZipFile": `let tries = 0;
exports.handler = async (event) => {
  const { detail } = event;
  console.log(['heard', event['detail-type'], detail.AutoScalingGroupName, detail.StatusCode, detail.StatusMessage, detail.Cause, typeof event.ResponseURL].join('|'));
};`}}}
			resources["LaunchFailed"] = map[string]any{"Type": "AWS::Events::Rule", "Properties": map[string]any{
				"EventPattern": map[string]any{"source": []any{"aws.autoscaling"}, "detail-type": []any{"EC2 Instance Launch Unsuccessful"},
					"detail": map[string]any{"AutoScalingGroupName": []any{map[string]any{"Ref": MediaGroup}}}},
				"Targets": []any{map[string]any{"Id": "function", "Arn": map[string]any{"Fn::GetAtt": []any{"Listener", "Arn"}}}}}}
			resources["ListenerPermission"] = map[string]any{"Type": "AWS::Lambda::Permission", "Properties": map[string]any{"Action": "lambda:InvokeFunction", "Principal": "events.amazonaws.com",
				"FunctionName": map[string]any{"Ref": "Listener"}, "SourceArn": map[string]any{"Fn::GetAtt": []any{"LaunchFailed", "Arn"}}}}
		})(short(template))
	}
	heard := func(s *Stack) (lines []string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, words := range s.words {
			for _, line := range strings.Split(words, "\n") {
				if strings.HasPrefix(line, "heard|") {
					lines = append(lines, line)
				}
			}
		}
		return lines
	}
	for name, message := range map[string]string{"vCPU quota": VcpuLimit, "capacity": NoCapacity, "key policy": KeyPolicy} {
		t.Run(name, func(t *testing.T) {
			scenario(t, Options{Masters: 1, Media: 1, Scale: 60, Template: listening}, nil, func(t testing.TB, s *Stack) {
				ready(t, s, 0)
				m := served(t, s)
				idle(m)
				s.FailLaunches(MediaGroup, message, 3)
				s.FailLaunches(Group(1), message, 1)
				begun := time.Now()
				s.Kill(MediaGroup, nil)
				s.Kill(Group(1), nil) // of which the rule wants to hear nothing
				fresh := served(t, s, m)
				if waited, least := fresh.Launched.Sub(begun), (15+30+60)*time.Second/60; waited < least {
					t.Errorf("it was launched after %s, without back-off", waited)
				}
				eventually(t, "three events", func() bool { return len(heard(s)) >= 3 })
				for _, line := range heard(s) {
					parts := strings.Split(line, "|")
					expect(t, "event", strings.Join(parts[1:5], "|"), "EC2 Instance Launch Unsuccessful|"+m.tags[groupTag]+"|Failed|"+message)
					if !strings.Contains(parts[5], "an instance was launched in response to an unhealthy instance needing to be replaced") || parts[6] != "undefined" {
						t.Errorf("the event: %s", line)
					}
				}
				expect(t, "events", fmt.Sprint(len(heard(s)), len(s.Published("EC2 Instance Launch Unsuccessful"))), "3 4")
				activities := owner(t, s, "DescribeScalingActivities", "AutoScalingGroupName", m.tags[groupTag])
				expect(t, "failed activities", fmt.Sprint(strings.Count(activities, "<StatusCode>Failed</StatusCode><StatusMessage>"+message)), "3")
				instances := fmt.Sprint(strings.Count(activities, "<Description>Launching a new EC2 instance: i-"))
				expect(t, "launches with an instance", instances, map[bool]string{true: "5", false: "2"}[name == "key policy"])
			})
		})
	}
	tags := map[string]string{"Cost Center": "42", "team": "video"}
	t.Run("tags that the metadata cannot show, were they asked to", func(t *testing.T) {
		shown := func(template cfn.Template) cfn.Template {
			return changed(func(resources map[string]any) {
				cfn.At(resources["OpenViduMediaNodeLaunchTemplate"], "Properties", "LaunchTemplateData", "MetadataOptions").(map[string]any)["InstanceMetadataTags"] = "enabled"
			})(listening(template))
		}
		scenario(t, Options{Masters: -1, Tags: tags, Scale: 60, Template: shown}, nil, func(t testing.TB, s *Stack) {
			go s.Launch(MediaGroup)
			eventually(t, "two events", func() bool { return len(heard(s)) >= 2 })
			says := `'Cost Center' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{1,255}), and must not be a reserved name ('.', '..', '_index'). Launching EC2 instance failed.`
			expect(t, "message", strings.Split(heard(s)[0], "|")[4], says)
			if s.Machine(MediaGroup) != nil {
				t.Error("an instance was launched")
			}
		})
	})
	t.Run("the same tags, as the template has it, fail nothing", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Tags: tags, Template: listening}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			expect(t, "tag", s.Machine(MediaGroup).tags["Cost Center"], "42")
			expect(t, "events", strings.Join(heard(s), "\n"), "")
		})
	})
	t.Run("a launch that is abandoned", func(t *testing.T) {
		scenario(t, Options{Masters: -1, Scale: 60, Files: map[string]string{"etc/lab/installer-fails": "99"}, Template: listening}, nil, func(t testing.TB, s *Stack) {
			m := s.Launch(MediaGroup)
			eventually(t, "its end", is(s, m, "Terminated"))
			eventually(t, "an event", func() bool { return len(heard(s)) > 0 })
			if says := strings.Split(heard(s)[0], "|")[4]; !strings.HasPrefix(says, "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token ") || !strings.HasSuffix(says, "was abandoned: Lifecycle Action Completed with ABANDON Result") {
				t.Errorf("the event says: %s", says)
			}
			expect(t, "its way", strings.Join(s.Lifecycle(m), " "), "Pending Pending:Wait Terminating Terminating:Proceed Terminated")
			eventually(t, "another one", func() bool { return s.Machine(MediaGroup) != nil && s.Machine(MediaGroup) != m })
		})
	})
}

func TestEventPatterns(t *testing.T) {
	event := map[string]any{"source": "aws.autoscaling", "resources": []any{"a", "b"}, "detail": map[string]any{"StatusCode": "Failed", "Group": "x-Media-1", "Nothing": nil}}
	list := func(values ...any) []any { return values }
	op := func(operator string, operand any) []any { return list(map[string]any{operator: operand}) }
	for name, c := range map[string]struct {
		pattern map[string]any
		want    bool
	}{
		"equal":               {map[string]any{"source": list("other", "aws.autoscaling")}, true},
		"different":           {map[string]any{"source": list("aws.ec2")}, false},
		"absent":              {map[string]any{"version": list("0")}, false},
		"one of a list":       {map[string]any{"resources": list("b")}, true},
		"none of a list":      {map[string]any{"resources": list("c")}, false},
		"nested":              {map[string]any{"detail": map[string]any{"StatusCode": list("Failed")}}, true},
		"nested, different":   {map[string]any{"detail": map[string]any{"StatusCode": list("Failed"), "Group": list("y")}}, false},
		"prefix":              {map[string]any{"detail": map[string]any{"Group": op("prefix", "x-")}}, true},
		"suffix":              {map[string]any{"detail": map[string]any{"Group": op("suffix", "-2")}}, false},
		"wildcard":            {map[string]any{"detail": map[string]any{"Group": op("wildcard", "x-*-1")}}, true},
		"wildcard, too short": {map[string]any{"detail": map[string]any{"Group": op("wildcard", "x-*-1x")}}, false},
		"anything but":        {map[string]any{"detail": map[string]any{"StatusCode": op("anything-but", list("Failed"))}}, false},
		"exists":              {map[string]any{"detail": map[string]any{"StatusCode": op("exists", true)}}, true},
		"exists not":          {map[string]any{"detail": map[string]any{"Other": op("exists", false)}}, true},
		"null":                {map[string]any{"detail": map[string]any{"Nothing": list(nil)}}, true},
	} {
		if got, err := matchEvent(c.pattern, event); got != c.want || err != nil {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if _, err := matchEvent(map[string]any{"detail": map[string]any{"StatusCode": op("cidr", "10.0.0.0/8")}}, event); err == nil {
		t.Error("an unknown operator matched in silence")
	}
}

// TestInstanceRefresh replaces the fleet, which drains in turn, and its warm pool.
func TestInstanceRefresh(t *testing.T) {
	t.Parallel()
	group := func(s *Stack) string { return s.attribute(MediaGroup, "").(string) }
	// most and fewest instances that counted, and in service, until a state of the refresh.
	watched := func(t testing.TB, s *Stack, until string) (most, fewest int) {
		fewest = 99
		eventually(t, "the refresh: "+until, func() bool {
			s.mu.Lock()
			count, serving := 0, 0
			for _, i := range s.groups[MediaGroup].members {
				if counts(i.state) {
					count++
				}
				if i.state == inService {
					serving++
				}
				if i.state == terminating { // their calls end as they come
					go idle(i.machine)
				}
			}
			s.mu.Unlock()
			most, fewest = max(most, count), min(fewest, serving)
			return s.Refresh(MediaGroup) == until
		})
		return most, fewest
	}
	t.Run("launch before terminating", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 2, Scale: 120, Template: short}, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			eventually(t, "service", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return !slices.ContainsFunc(s.groups[MediaGroup].members, func(i *instance) bool { return i.state != inService && i.state != warmStopped }) && len(s.groups[MediaGroup].members) == 3
			})
			s.mu.Lock()
			old := slices.Clone(s.groups[MediaGroup].members)
			s.mu.Unlock()
			owner(t, s, "StartInstanceRefresh", "AutoScalingGroupName", group(s), "Preferences.MinHealthyPercentage", "100", "Preferences.MaxHealthyPercentage", "150", "Preferences.InstanceWarmup", "60")
			if _, err := s.AutoScaling("StartInstanceRefresh", "AutoScalingGroupName", group(s)); err == nil || !strings.Contains(err.Error(), "InstanceRefreshInProgress") {
				t.Errorf("a second refresh: %v", err)
			}
			most, fewest := watched(t, s, "Successful")
			expect(t, "most and fewest", fmt.Sprint(most, fewest), "3 2")
			for _, i := range old {
				way := s.Lifecycle(i.machine)
				if last := way[len(way)-1]; last != "Terminated" && last != "Warmed:Terminated" {
					t.Errorf("an old instance is %s", last)
				}
			}
			expect(t, "stopped instances", fmt.Sprint(len(s.Stopped())), "1")
			if progress := owner(t, s, "DescribeInstanceRefreshes", "AutoScalingGroupName", group(s)); !strings.Contains(progress, "<PercentageComplete>100</PercentageComplete><InstancesToUpdate>0</InstancesToUpdate>") || !strings.Contains(progress, "<WarmPoolProgress>") {
				t.Error(progress)
			}
			expect(t, "events", fmt.Sprint(len(s.Published("EC2 Auto Scaling Instance Refresh Started")), len(s.Published("EC2 Auto Scaling Instance Refresh Succeeded"))), "1 1")
		})
	})
	t.Run("terminate and launch, cancelled after the first, waiting for its hook", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 2, Scale: 120, Template: short}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1)
			first := served(t, s)
			second := served(t, s, first)
			owner(t, s, "SetInstanceProtection", "AutoScalingGroupName", group(s), "InstanceIds.member.1", second.Id, "ProtectedFromScaleIn", "true")
			owner(t, s, "StartInstanceRefresh", "AutoScalingGroupName", group(s), "Preferences.ScaleInProtectedInstances", "Ignore", "Preferences.InstanceWarmup", "0")
			eventually(t, "its hook", is(s, first, "Terminating:Wait"))
			served(t, s, first, second)
			expect(t, "refresh while the old one carries calls", s.Refresh(MediaGroup), "InProgress")
			owner(t, s, "CancelInstanceRefresh", "AutoScalingGroupName", group(s))
			expect(t, "refresh while the old one carries calls", s.Refresh(MediaGroup), "Cancelling")
			idle(first)
			eventually(t, "the end", func() bool { return s.Refresh(MediaGroup) == "Cancelled" })
			expect(t, "the replaced one", s.State(first), "Terminated")
			expect(t, "the protected one", s.State(second), "InService")
			if _, err := s.AutoScaling("CancelInstanceRefresh", "AutoScalingGroupName", group(s)); err == nil || !strings.Contains(err.Error(), "ActiveInstanceRefreshNotFound") {
				t.Errorf("another cancellation: %v", err)
			}
		})
	})
	t.Run("it waits an hour for a protected instance, and fails", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Media: 1, Scale: 600, Template: short}, nil, func(t testing.TB, s *Stack) {
			m := served(t, s)
			owner(t, s, "SetInstanceProtection", "AutoScalingGroupName", group(s), "InstanceIds.member.1", m.Id, "ProtectedFromScaleIn", "true")
			owner(t, s, "StartInstanceRefresh", "AutoScalingGroupName", group(s))
			eventually(t, "the end", func() bool { return s.Refresh(MediaGroup) == "Failed" })
			expect(t, "the protected one", s.State(m), "InService")
		})
	})
}

// TestWarmPoolStates: what the metadata say of a started instance may be a moment old, and an instance may go back to the pool.
func TestWarmPoolStates(t *testing.T) {
	t.Parallel()
	t.Run("the metadata lag behind", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Scale: 120, StateLag: time.Second, Template: short}, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			eventually(t, "a stopped instance", func() bool { return len(s.Stopped()) == 1 })
			m := s.Stopped()[0]
			expect(t, "its way", strings.Join(s.Lifecycle(m), " "), "Warmed:Pending Warmed:Pending:Wait Warmed:Pending:Proceed Warmed:Stopped")
			target := func() string {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.state
			}
			s.ScaleOut()
			expect(t, "metadata right after the start", target(), "Warmed:Stopped")
			eventually(t, "new metadata", func() bool { return target() == "InService" })
			eventually(t, "service", is(s, m, "InService"))
			expect(t, "its way", strings.Join(s.Lifecycle(m)[4:], " "), "Pending Pending:Wait Pending:Proceed InService")
		})
	})
	t.Run("reuse on scale-in", func(t *testing.T) {
		options := Options{Masters: 1, Media: 2, Scale: 120, Template: func(template cfn.Template) cfn.Template {
			return changed(func(resources map[string]any) {
				pool := properties(resources, "MediaWarmPool")
				pool["InstanceReusePolicy"] = map[string]any{"ReuseOnScaleIn": true}
				pool["MinSize"], pool["MaxGroupPreparedCapacity"] = 0, 2
			})(short(template))
		}}
		scenario(t, options, map[string]any{"WarmPoolSize": 1}, func(t testing.TB, s *Stack) {
			ready(t, s, 0)
			m := served(t, s)
			idle(m)
			m.Shell("systemctl stop openvidu-drain")
			s.ScaleIn(m)
			eventually(t, "its hook", is(s, m, "Warmed:Pending:Wait"))
			owner(t, s, "CompleteLifecycleAction", "AutoScalingGroupName", m.tags[groupTag], "InstanceId", m.Id, "LifecycleHookName", "drain", "LifecycleActionResult", "CONTINUE")
			eventually(t, "the pool", is(s, m, "Warmed:Stopped"))
			expect(t, "its way", strings.Join(s.Lifecycle(m)[4:], " "), "Warmed:Pending Warmed:Pending:Wait Warmed:Pending:Proceed Warmed:Stopped")
			expect(t, "targets", fmt.Sprint(s.TargetStates(m)), "map[MainRtmp:gone]")
			expect(t, "the one that is started", s.ScaleOut().Id, m.Id)
			eventually(t, "service", is(s, m, "InService"))
		})
	})
}

// TestTargetGroupsFollowTheUpdate: with the TURN domain the instances in service join its target group, without it they leave.
func TestTargetGroupsFollowTheUpdate(t *testing.T) {
	scenario(t, Options{Masters: -1, Media: 1, Scale: 200, Template: short}, nil, func(t testing.TB, s *Stack) {
		eventually(t, "a Media Node", func() bool { return s.Machine(MediaGroup) != nil })
		m := s.Machine(MediaGroup)
		taken(t, s, m)
		expect(t, "targets", fmt.Sprint(s.TargetStates(m)), "map[MainRtmp:registered]")
		if err := s.Update(map[string]any{"TurnDomainName": "turn.example.com", "TurnCertificateARN": importCertificate("turn.example.com")}); err != nil {
			t.Error(err)
		}
		expect(t, "targets with TURN", fmt.Sprint(s.TargetStates(m)), "map[MainRtmp:registered TurnTurn:registered]")
		if err := s.Update(map[string]any{"TurnDomainName": "", "TurnCertificateARN": ""}); err != nil {
			t.Error(err)
		}
		eventually(t, "the end of the TURN target", func() bool { return fmt.Sprint(s.TargetStates(m)) == "map[MainRtmp:registered TurnTurn:gone]" })
		expect(t, "the instance", s.State(m), "InService")
	})
}

// taken into service without waiting for what it installs.
func taken(t testing.TB, s *Stack, m *Machine) {
	t.Helper()
	eventually(t, "its hook", is(s, m, "Pending:Wait"))
	owner(t, s, "CompleteLifecycleAction", "AutoScalingGroupName", m.tags[groupTag], "InstanceId", m.Id, "LifecycleHookName", "ready", "LifecycleActionResult", "CONTINUE")
	eventually(t, "service", is(s, m, "InService"))
}
