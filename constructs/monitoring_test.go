package constructs_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	core "github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

const cluster = `{"Fn::Sub":"${AWS::StackId}/Masters"}`

// alarmTable says when each alarm is raised: statistic of a metric, over a period, so many times in a row, and what missing
// data mean.
const alarmTable = `
CertificateExpires     AWS/CertificateManager DaysToExpiry    Minimum LessThanThreshold 30 86400 s x 1
DrainLong              OpenVidu DrainMinutes      Maximum GreaterThanThreshold 240 300 s x 1 notBreaching
InstallerChanged       OpenVidu InstallerChanged  Maximum GreaterThanOrEqualToThreshold 1 300 s x 1 notBreaching
MastersUnhealthy       AWS/NetworkELB HealthyHostCount  Maximum LessThanThreshold 4 60 s x 3 breaching
MediaNodesUnhealthy    AWS/NetworkELB HealthyHostCount  Maximum LessThanThreshold 2 60 s x 3 breaching
NodeRetained           AWS/AutoScaling GroupTerminatingRetainedInstances Maximum GreaterThanOrEqualToThreshold 1 300 s x 1 notBreaching
VolumeNearlyFull       OpenVidu disk_used_percent Maximum GreaterThanOrEqualToThreshold 85 300 s x 3
`

// alarmsOf gives the alarms by the ids of their constructs.
func alarmsOf(resources map[string]resource) map[string]resource {
	out := map[string]resource{}
	for id, r := range resources {
		if r.Type == "AWS::CloudWatch::Alarm" {
			out[strings.TrimPrefix(id[:len(id)-8], "Alarms")] = r
		}
	}
	return out
}

func describe(alarms map[string]resource) []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(alarms)) {
		p := alarms[id].Properties
		line := fmt.Sprint(id, " ", p["Namespace"], " ", p["MetricName"], " ", p["Statistic"], " ", p["ComparisonOperator"], " ", p["Threshold"], " ",
			p["Period"], " s x ", p["EvaluationPeriods"])
		if p["TreatMissingData"] != nil {
			line += fmt.Sprint(" ", p["TreatMissingData"])
		}
		out = append(out, line)
	}
	return out
}

func lines(text string) []string {
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return out
}

func TestAlarmsByDefaultExistAlwaysAndTellNobody(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	masters, fleet, balancer := p.cluster(p.stack)
	made := constructs.NewClusterAlarms(p.stack, jsii.String("Alarms"), &constructs.ClusterAlarmsProps{
		Masters: masters, Fleet: fleet, LoadBalancer: balancer,
	})
	if got := len(*made.Alarms()); got != 7 {
		t.Errorf("%d alarms are handed out", got)
	}
	resources := p.resources()
	alarms := alarmsOf(resources)
	if got, want := describe(alarms), lines(alarmTable); !reflect.DeepEqual(got, want) {
		t.Errorf("alarms are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for id, alarm := range alarms {
		if alarm.Condition != "" || alarm.Properties["AlarmActions"] != nil || alarm.Properties["AlarmName"] != nil {
			t.Errorf("%s: %v", id, alarm)
		}
		if description := alarm.Properties["AlarmDescription"].(string); len(description) < 60 || len(description) > 1024 {
			t.Errorf("%s is described as %q", id, description)
		}
	}

	groups := map[float64]string{} // target groups by the port of the listener that leads to them
	for _, listener := range ofType(resources, "AWS::ElasticLoadBalancingV2::Listener") {
		groups[listener.Properties["Port"].(float64)] = listener.Properties["DefaultActions"].([]any)[0].(map[string]any)["TargetGroupArn"].(map[string]any)["Ref"].(string)
	}
	for id, want := range map[string]struct {
		listener float64
		after    string
	}{"MastersUnhealthy": {443, "Masters"}, "MediaNodesUnhealthy": {1935, "Fleet"}} {
		if got := text(alarms[id].Properties["Dimensions"]); !strings.Contains(got, `"TargetGroup","Value":{"Fn::GetAtt":["`+groups[want.listener]+`","TargetGroupFullName"]}`) {
			t.Errorf("%s watches %s, not %s", id, got, groups[want.listener])
		}
		// Before the nodes are ready it would be raised by every creation.
		if got := text(alarms[id].DependsOn); !strings.HasPrefix(got, `["`+want.after+`AllReady`) {
			t.Errorf("%s comes after %s, not after the first boot of the %s", id, got, want.after)
		}
	}
	for _, id := range []string{"VolumeNearlyFull", "DrainLong"} {
		if got, want := text(alarms[id].Properties["Dimensions"]), `[{"Name":"Cluster","Value":`+cluster+`}]`; got != want {
			t.Errorf("%s watches %s, want %s", id, got, want)
		}
		// The nodes read the value from their tag, so both must be one.
		if !strings.Contains(text(resources), `{"Key":"OpenViduCluster","PropagateAtLaunch":true,"Value":`+cluster+`}`) {
			t.Error("no node has the tag " + cluster)
		}
	}
}

func TestAlarmsTellTheTopicWhereTheirConditionHolds(t *testing.T) {
	for _, c := range []struct {
		name           string
		alarms, turn   bool
		when, whenTurn string
	}{
		{"no condition", false, false, "", ""},
		{"condition of the alarms", true, false, "Wanted", "Wanted"},
		{"condition of TURN", false, true, "", "Turned"},
		{"both", true, true, "Wanted", `{"Fn::And":[{"Condition":"Wanted"},{"Condition":"Turned"}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newProgram(t, "a", "b", "c")
			p.turn = jsii.String("turn.example.com")
			masters, fleet, balancer := p.cluster(p.stack)
			condition := func(id string, wanted bool) awscdk.CfnCondition {
				if !wanted {
					return nil
				}
				return awscdk.NewCfnCondition(p.stack, &id, &awscdk.CfnConditionProps{Expression: awscdk.Fn_ConditionEquals(awscdk.Aws_REGION(), "eu-west-1")})
			}
			turn := constructs.NewTurnTlsEndpoint(p.stack, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{
				LoadBalancerProps: p.reached("TurnC"), Fleet: fleet, Condition: condition("Turned", c.turn),
			})
			constructs.NewClusterAlarms(p.stack, jsii.String("Alarms"), &constructs.ClusterAlarmsProps{
				Masters: masters, Fleet: fleet, LoadBalancer: balancer, Turn: turn, Condition: condition("Wanted", c.alarms),
				Topic: awssns.Topic_FromTopicArn(p.stack, jsii.String("Topic"), jsii.String("arn:aws:sns:eu-west-1:123456789012:alarms")),
			})
			template := p.template("Own")
			alarms := alarmsOf(template.Resources)
			if len(alarms) != 8 {
				t.Errorf("alarms: %v", slices.Sorted(maps.Keys(alarms)))
			}
			for id, alarm := range alarms {
				if got := text(alarm.Properties["AlarmActions"]); got != `["arn:aws:sns:eu-west-1:123456789012:alarms"]` {
					t.Errorf("%s tells %s", id, got)
				}
				want, got := c.when, alarm.Condition
				if id == "TurnCertificateExpires" {
					want = c.whenTurn
					if strings.HasPrefix(want, "{") {
						got = text(template.Conditions[got])
					}
				}
				if got != want {
					t.Errorf("%s exists under %q, want %q", id, got, want)
				}
			}
			for id, certificate := range map[string]string{"CertificateExpires": "OwnCertificate", "TurnCertificateExpires": "TurnC"} {
				if got := text(alarms[id].Properties["Dimensions"]); !strings.HasSuffix(got, `certificate/`+certificate+`"}]`) {
					t.Errorf("%s watches %s", id, got)
				}
			}
		})
	}
}

func TestDashboardShowsTheClusterInAnyRegion(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), p.masterProps())
	fleet := constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc, TargetCpuUtilization: jsii.Number(70)})
	balancer := constructs.NewMainLoadBalancer(p.stack, jsii.String("Balancer"), &constructs.MainLoadBalancerProps{
		LoadBalancerProps: p.reached("C"), Masters: masters, Fleet: fleet,
	})
	made := constructs.NewClusterDashboard(p.stack, jsii.String("Dashboard"), &constructs.ClusterDashboardProps{
		Masters: masters, Fleet: fleet, LoadBalancer: balancer,
	})
	if made.DashboardName() == nil {
		t.Error("the dashboard's name is not handed out")
	}
	dashboards := ofType(p.resources(), "AWS::CloudWatch::Dashboard")
	if len(dashboards) != 1 || dashboards[0].Properties["DashboardName"] != nil {
		t.Fatalf("dashboards: %v", dashboards)
	}
	sub := dashboards[0].Properties["DashboardBody"].(map[string]any)["Fn::Sub"].([]any)
	body := sub[0].(string)
	for name, value := range sub[1].(map[string]any) {
		value := text(value)
		// The references themselves, as texts.
		value = strings.Trim(strings.ReplaceAll(value, `"`, "'"), "'")
		if !strings.Contains(body, "${"+name+"}") {
			t.Errorf("nothing shows %s", name)
		}
		body = strings.ReplaceAll(body, "${"+name+"}", value)
	}
	var dashboard struct {
		Widgets []struct {
			Type       string
			Properties struct {
				Region, Title, Stat string
				Metrics             [][]any
				Annotations         struct{ Horizontal []struct{ Value float64 } }
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &dashboard); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	var got []string
	for _, widget := range dashboard.Widgets {
		if widget.Type != "metric" || widget.Properties.Region != "${AWS::Region}" {
			t.Errorf("%v", widget)
		}
		var above []any
		for _, metric := range widget.Properties.Metrics {
			stat := widget.Properties.Stat
			if options, ok := metric[len(metric)-1].(map[string]any); ok {
				metric = metric[:len(metric)-1]
				if options["stat"] != nil {
					stat = options["stat"].(string)
				}
			}
			var names []string
			for i, name := range metric {
				if name == "." {
					metric[i] = above[i]
				}
				names = append(names, metric[i].(string))
			}
			above = metric
			got = append(got, strings.TrimSpace(strings.Join(names, " ")+" "+stat))
		}
	}
	if target := dashboard.Widgets[0].Properties.Annotations.Horizontal; len(target) != 1 || target[0].Value != 70 {
		t.Errorf("target of CPU: %v", target)
	}
	resources := p.resources()
	id := func(resourceType, part string) string {
		for id, r := range resources {
			if r.Type == resourceType && strings.HasPrefix(id, part) {
				return id
			}
		}
		return part + " is missing"
	}
	full := func(id, attribute string) string { return "{'Fn::GetAtt':['" + id + "','" + attribute + "']}" }
	main := full(id("AWS::ElasticLoadBalancingV2::LoadBalancer", "Balancer"), "LoadBalancerFullName")
	group := func(part string) string {
		return full(id("AWS::ElasticLoadBalancingV2::TargetGroup", part), "TargetGroupFullName")
	}
	own := " Cluster " + strings.ReplaceAll(cluster, `"`, "'") + " Maximum"
	want := []string{
		"AWS/EC2 CPUUtilization AutoScalingGroupName {'Ref':'" + id("AWS::AutoScaling::AutoScalingGroup", "Fleet") + "'}",
		"AWS/NetworkELB HealthyHostCount LoadBalancer " + main + " TargetGroup " + group("BalancerMastersTls") + " Maximum",
		"AWS/NetworkELB HealthyHostCount LoadBalancer " + main + " TargetGroup " + group("BalancerRtmp") + " Maximum",
		"OpenVidu disk_used_percent" + own,
		"OpenVidu DrainMinutes" + own,
		"AWS/NetworkELB ActiveFlowCount LoadBalancer " + main + " Average",
		"AWS/NetworkELB NewFlowCount LoadBalancer " + main + " Sum",
		"AWS/NetworkELB ClientTLSNegotiationErrorCount LoadBalancer " + main + " Sum",
		"AWS/NetworkELB ProcessedBytes LoadBalancer " + main + " Sum",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the dashboard shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTwoClustersInOneStackHaveAlarmsOfTheirOwn(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	seen := map[string]int{}
	for _, name := range []string{"One", "Two"} {
		scope := core.NewConstruct(p.stack, &name)
		masters, fleet, balancer := p.cluster(scope)
		constructs.NewClusterAlarms(scope, jsii.String("Alarms"), &constructs.ClusterAlarmsProps{Masters: masters, Fleet: fleet, LoadBalancer: balancer})
	}
	for _, alarm := range ofType(p.resources(), "AWS::CloudWatch::Alarm") {
		seen[text([]any{alarm.Properties["MetricName"], alarm.Properties["Dimensions"]})]++
	}
	if len(seen) != 14 {
		t.Errorf("two clusters share what they watch: %v", seen)
	}
}
