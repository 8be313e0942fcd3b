package constructs

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

const (
	// healthyMediaNodes are the fewest that survive the loss of one.
	healthyMediaNodes = 2
	// fullPercent of a data volume leaves time to enlarge it: databases stop on a full one.
	fullPercent = 85
	// longDrainMinutes is longer than most meetings. A drain may take 48 hours.
	longDrainMinutes = 4 * 60
	// expiryDays is half of the 60 days before expiry in which ACM tries to renew.
	expiryDays = 30

	// What the nodes publish (bootstrap's scripts have the same names), in this namespace and under this one dimension, which
	// has the value of their clusterTag.
	metricNamespace = "OpenVidu"
	metricDimension = "Cluster"
	metricDiskUsed  = "disk_used_percent" // of a data volume, or a root volume
	metricDrain     = "DrainMinutes"      // since a Media Node began to drain
	metricInstaller = "InstallerChanged"  // another SHA-256 than the first node of the release had

	// metricRetained is Auto Scaling's own: nodes that stay because their drain was abandoned.
	metricRetained = "GroupTerminatingRetainedInstances"
)

// ClusterAlarmsProps are the properties of ClusterAlarms.
type ClusterAlarmsProps struct {
	// Masters of the cluster, in the stack of the alarms. Required.
	Masters MasterCluster
	// Fleet of the cluster, in the stack of the alarms. Required.
	Fleet MediaFleet
	// LoadBalancer of the cluster, whose health checks tell which nodes serve, and whose certificate is watched. Required.
	LoadBalancer MainLoadBalancer
	// Turn is the endpoint whose certificate is watched too, under the endpoint's own condition. Default: none.
	Turn TurnTlsEndpoint
	// Topic that is told when an alarm begins. An encrypted topic needs a key that CloudWatch may use.
	// Default: nobody is told; the alarms show in the console.
	Topic awssns.ITopic
	// Condition under which the alarms exist, decided at deployment. Default: always.
	Condition awscdk.CfnCondition
}

// ClusterAlarms tell of what a cluster does not heal by itself: Master Nodes or Media Nodes that stay away, a data volume
// that is nearly full, a drain longer than 4 hours, a certificate that is not renewed. Each alarm's description says what it
// means and what to do.
//
// An update that replaces Master Nodes raises MastersUnhealthy until the last of them is back. After a creation it may be
// raised for minutes, until the load balancer has seen all of them healthy.
type ClusterAlarms interface {
	constructs.Construct
	// Alarms that were made; actions may be added to them.
	Alarms() *[]awscloudwatch.Alarm
}

type clusterAlarms struct {
	constructs.Construct
	topic  awssns.ITopic
	alarms []awscloudwatch.Alarm
}

// NewClusterAlarms makes the alarms. It panics on wrong props, with all problems at once.
func NewClusterAlarms(scope constructs.Construct, id *string, props *ClusterAlarmsProps) ClusterAlarms {
	props = orNew(props)
	var wrong problems
	wrong.cluster(scope, props.Masters, props.Fleet, props.LoadBalancer)
	wrong.report(scope, id)

	a := &clusterAlarms{topic: props.Topic}
	constructs.NewConstruct_Override(a, scope, id)

	a.add("MastersUnhealthy", props.Condition, &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String("Fewer than 4 healthy Master Nodes: with 2, recordings are not stored; with 1, service stops. " +
			"Expected while an update replaces them. Otherwise see the activity of their Auto Scaling groups and the nodes' log."),
		Metric:             healthyHosts(props.LoadBalancer, props.LoadBalancer.masterTargets()),
		ComparisonOperator: awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD,
		Threshold:          jsii.Number(MasterNodes),
		EvaluationPeriods:  jsii.Number(3),
		TreatMissingData:   awscloudwatch.TreatMissingData_BREACHING, // no target is registered
	}, props.Masters)
	a.add("MediaNodesUnhealthy", props.Condition, &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String("Fewer than 2 healthy Media Nodes: nothing takes over the rooms of a lost one. " +
			"See the activity of their Auto Scaling group and the nodes' log."),
		Metric:             healthyHosts(props.LoadBalancer, props.LoadBalancer.mediaTargets()),
		ComparisonOperator: awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD,
		Threshold:          jsii.Number(healthyMediaNodes),
		EvaluationPeriods:  jsii.Number(3),
		TreatMissingData:   awscloudwatch.TreatMissingData_BREACHING,
	}, props.Fleet)
	a.add("VolumeNearlyFull", props.Condition, &awscloudwatch.AlarmProps{
		AlarmDescription:  jsii.String("A node's volume is 85% full or more. Delete recordings, or enlarge the volumes (DiskSize; a root volume: RootVolumeSize)."),
		Metric:            clusterMetric(props.Masters, metricDiskUsed),
		Threshold:         jsii.Number(fullPercent),
		EvaluationPeriods: jsii.Number(3), // a quarter of an hour: an upload may pass
	})
	a.add("DrainLong", props.Condition, &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String("A Media Node drains for more than 4 hours: a room, stream or recording on it goes on. " +
			"End it if it was forgotten; the node ends after 48 hours."),
		Metric:             clusterMetric(props.Masters, metricDrain),
		ComparisonOperator: awscloudwatch.ComparisonOperator_GREATER_THAN_THRESHOLD,
		Threshold:          jsii.Number(longDrainMinutes),
		EvaluationPeriods:  jsii.Number(1),
		TreatMissingData:   awscloudwatch.TreatMissingData_NOT_BREACHING, // nothing drains
	})
	a.add("InstallerChanged", props.Condition, &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String("A node met another installer than the first node of the same release: see its log. OpenVidu may have published the release anew; " +
			"if it did not, somebody else may have."),
		Metric:            clusterMetric(props.Masters, metricInstaller),
		Threshold:         jsii.Number(1),
		EvaluationPeriods: jsii.Number(1),
		TreatMissingData:  awscloudwatch.TreatMissingData_NOT_BREACHING, // only a difference is reported
	})
	a.add("NodeRetained", props.Condition, &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String("A Media Node still carried calls after 48 hours of draining. Auto Scaling keeps it running, and you pay for it, until you end it: " +
			"see docs/recovery.md, Retained Media Nodes."),
		Metric: awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
			Namespace:     jsii.String("AWS/AutoScaling"),
			MetricName:    jsii.String(metricRetained),
			DimensionsMap: &map[string]*string{"AutoScalingGroupName": props.Fleet.Group().AutoScalingGroupName()},
			Statistic:     awscloudwatch.Stats_MAXIMUM(),
		}),
		Threshold:         jsii.Number(1),
		EvaluationPeriods: jsii.Number(1),
		TreatMissingData:  awscloudwatch.TreatMissingData_NOT_BREACHING,
	})
	a.addExpiry("CertificateExpires", props.Condition, props.LoadBalancer.certificate())
	if props.Turn != nil {
		when := props.Condition
		switch turn := props.Turn.condition(); {
		case when == nil:
			when = turn
		case turn != nil:
			when = awscdk.NewCfnCondition(a, jsii.String("WithTurn"), &awscdk.CfnConditionProps{
				Expression: awscdk.Fn_ConditionAnd(when, turn),
			})
		}
		a.addExpiry("TurnCertificateExpires", when, props.Turn.certificate())
	}
	return a
}

// add makes an alarm, where the condition holds, and after these nodes are ready: a creation is no failure of theirs.
func (a *clusterAlarms) add(id string, when awscdk.CfnCondition, props *awscloudwatch.AlarmProps, nodes ...constructs.Construct) {
	made := awscloudwatch.NewAlarm(a, &id, props)
	if a.topic != nil {
		made.AddAlarmAction(awscloudwatchactions.NewSnsAction(a.topic))
	}
	resource := made.Node().DefaultChild().(awscdk.CfnResource)
	if when != nil {
		resource.CfnOptions().SetCondition(when)
	}
	for _, n := range nodes {
		resource.AddResourceDependency(allReady(n), nil)
	}
	a.alarms = append(a.alarms, made)
}

func (a *clusterAlarms) addExpiry(id string, when awscdk.CfnCondition, certificate awscertificatemanager.ICertificate) {
	a.add(id, when, &awscloudwatch.AlarmProps{
		AlarmDescription:   jsii.String("This certificate expires within 30 days. Repair its DNS validation record, or import a new one."),
		Metric:             certificate.MetricDaysToExpiry(nil),
		ComparisonOperator: awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD,
		Threshold:          jsii.Number(expiryDays),
		EvaluationPeriods:  jsii.Number(1),
	})
}

func (a *clusterAlarms) Alarms() *[]awscloudwatch.Alarm { return &a.alarms }
func (a *clusterAlarms) ToString() *string              { return a.Node().Path() }

// healthyHosts is the largest number that a node of the load balancer counts, as AWS advises: one that has just started
// counts too few. Nothing is reported while no target is registered.
func healthyHosts(balancer MainLoadBalancer, targets *string) awscloudwatch.Metric {
	// Not targets.Metrics(): that picks the load balancer's name out of a listener's ARN, in many more bytes.
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace:  jsii.String("AWS/NetworkELB"),
		MetricName: jsii.String("HealthyHostCount"),
		DimensionsMap: &map[string]*string{
			"LoadBalancer": balancer.LoadBalancer().LoadBalancerFullName(),
			"TargetGroup":  targets,
		},
		Statistic: awscloudwatch.Stats_MAXIMUM(),
		Period:    awscdk.Duration_Minutes(jsii.Number(1)),
	})
}

// clusterMetric is the largest value that any node of the cluster publishes, in five minutes.
func clusterMetric(masters MasterCluster, name string) awscloudwatch.Metric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace:     jsii.String(metricNamespace),
		MetricName:    &name,
		DimensionsMap: &map[string]*string{metricDimension: masters.clusterId()},
		Statistic:     awscloudwatch.Stats_MAXIMUM(),
	})
}
