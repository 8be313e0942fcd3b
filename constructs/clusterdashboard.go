package constructs

import (
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// ClusterDashboardProps are the properties of ClusterDashboard.
type ClusterDashboardProps struct {
	// Masters of the cluster, in the stack of the dashboard. Required.
	Masters MasterCluster
	// Fleet of the cluster, in the stack of the dashboard. Required.
	Fleet MediaFleet
	// LoadBalancer of the cluster. Required.
	LoadBalancer MainLoadBalancer
}

// ClusterDashboard is a CloudWatch dashboard: CPU of the Media Nodes beside its target, healthy nodes, fullest volume,
// longest drain, and the traffic of the main load balancer.
type ClusterDashboard interface {
	constructs.Construct
	// DashboardName that CloudFormation gave.
	DashboardName() *string
}

type clusterDashboard struct {
	constructs.Construct
	name *string
}

// NewClusterDashboard makes the dashboard. It panics on wrong props, with all problems at once.
func NewClusterDashboard(scope constructs.Construct, id *string, props *ClusterDashboardProps) ClusterDashboard {
	props = orNew(props)
	var wrong problems
	wrong.cluster(scope, props.Masters, props.Fleet, props.LoadBalancer)
	wrong.report(scope, id)

	d := &clusterDashboard{}
	constructs.NewConstruct_Override(d, scope, id)
	// Not awscloudwatch.Dashboard: it writes every default and every name anew, which takes twice the bytes.
	dashboard := awscloudwatch.NewCfnDashboard(d, jsii.String("Dashboard"), &awscloudwatch.CfnDashboardProps{
		DashboardBody: awscdk.Fn_Sub(jsii.String(dashboardBody), &map[string]*string{
			"Fleet":    props.Fleet.Group().AutoScalingGroupName(),
			"Target":   numberText(*props.Fleet.targetCpu()),
			"Balancer": props.LoadBalancer.LoadBalancer().LoadBalancerFullName(),
			"Masters":  props.LoadBalancer.masterTargets(),
			"Media":    props.LoadBalancer.mediaTargets(),
			"Cluster":  props.Masters.clusterId(),
		}),
	})
	d.name = dashboard.Ref()
	return d
}

func (d *clusterDashboard) DashboardName() *string { return d.name }
func (d *clusterDashboard) ToString() *string      { return d.Node().Path() }

// dashboardBody is for Fn::Sub. In a list of metrics, "." is what stands above it. Widgets without a place fill the rows.
var dashboardBody = `{"widgets":[` + strings.Join([]string{
	widget("Media Nodes: CPU (%)", `["AWS/EC2","CPUUtilization","AutoScalingGroupName","${Fleet}"]`,
		`"annotations":{"horizontal":[{"label":"Target","value":${Target}}]}`),
	widget("Healthy nodes", `["AWS/NetworkELB","HealthyHostCount","LoadBalancer","${Balancer}","TargetGroup","${Masters}",{"label":"Master Nodes"}],`+
		`[".",".",".",".",".","${Media}",{"label":"Media Nodes"}]`, `"stat":"Maximum"`),
	widget("Fullest volume (%), longest drain (minutes, right)", `["`+metricNamespace+`","`+metricDiskUsed+`","`+metricDimension+`","${Cluster}"],`+
		`[".","`+metricDrain+`",".",".",{"yAxis":"right"}]`, `"stat":"Maximum"`),
	widget("Connections, bytes (right)", `["AWS/NetworkELB","ActiveFlowCount","LoadBalancer","${Balancer}",{"stat":"Average"}],`+
		`[".","NewFlowCount",".","."],[".","ClientTLSNegotiationErrorCount",".","."],[".","ProcessedBytes",".",".",{"yAxis":"right"}]`, `"stat":"Sum"`),
}, ",") + "]}"

func widget(title, metrics, more string) string {
	return `{"type":"metric","properties":{"region":"${AWS::Region}","title":"` + title + `","metrics":[` + metrics + `],` + more + `}}`
}
