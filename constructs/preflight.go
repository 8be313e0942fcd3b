package constructs

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs/internal/functions"
	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// PreflightProps are the properties of Preflight: the parameters of a template, as only CloudFormation knows them. All are
// required.
type PreflightProps struct {
	// VpcId of the cluster.
	VpcId *string
	// MasterSubnetIds are 1 to 4 subnets, in a list that a parameter gives.
	MasterSubnetIds *[]*string
	// MediaSubnetIds are any number of subnets, in a list that a parameter gives.
	MediaSubnetIds *[]*string
	// ImageId of the nodes.
	ImageId *string
	// DiskSize of the data volumes, in GB.
	DiskSize *float64
	// RetainVolumes is true or false.
	RetainVolumes *string
}

// Preflight refuses in seconds what would fail after many minutes, or lose data, and looks up what CloudFormation cannot
// read off an id. It is for templates with parameters: a program that hands real subnets to the constructs needs none.
type Preflight interface {
	constructs.Construct
	// MasterSubnets are the subnets of the four slots, with their zones.
	MasterSubnets() *awsec2.SubnetSelection
	// MediaSubnets are the subnets of the fleet.
	MediaSubnets() *awsec2.SubnetSelection
	// LoadBalancerSubnets are one subnet for each zone of masters and fleet.
	LoadBalancerSubnets() *awsec2.SubnetSelection
	// TurnSubnets are one subnet for each zone of the fleet.
	TurnSubnets() *awsec2.SubnetSelection
	// RootDeviceName of the image.
	RootDeviceName() *string
}

type preflight struct {
	constructs.Construct
	props  *PreflightProps
	checks awscdk.CustomResource
	slots  awscdk.CustomResource
}

// NewPreflight makes the function and runs it at each creation and update.
func NewPreflight(scope constructs.Construct, id *string, props *PreflightProps) Preflight {
	p := &preflight{props: props}
	constructs.NewConstruct_Override(p, scope, id)
	function := newFunction(p, "Function", functions.Preflight,
		allow("*", "ec2:DescribeImages", "ec2:DescribeSubnets")) // neither can be limited to a resource
	compliance.Accept(function.Role(), "These Describe calls cannot be limited to a resource.", "AwsSolutions-IAM5[Resource::*]")
	p.checks = newCustomResource(p, "Checks", "Custom::OpenViduPreflight", function, map[string]any{
		"Vpc":           props.VpcId,
		"MasterSubnets": props.MasterSubnetIds,
		"MediaSubnets":  props.MediaSubnetIds,
		"ImageId":       props.ImageId,
		"DiskSize":      props.DiskSize,
		"RetainVolumes": props.RetainVolumes,
	})
	p.slots = newCustomResource(p, "Slots", "Custom::OpenViduSlots", function, map[string]any{
		"MasterSubnets": props.MasterSubnetIds,
	})
	// Interfaces and volumes take subnets and zones from here, all else depends on them: so nothing that costs or loses
	// something is made or changed before the checks.
	p.slots.Node().AddDependency(p.checks)
	return p
}

func (p *preflight) MasterSubnets() *awsec2.SubnetSelection {
	var subnets []awsec2.ISubnet
	for i := range MasterNodes {
		subnets = append(subnets, p.subnet(fmt.Sprint("Slot", i+1), &awsec2.SubnetAttributes{
			SubnetId:         p.slots.GetAttString(jsii.String(fmt.Sprint("Subnet", i+1))),
			AvailabilityZone: p.slots.GetAttString(jsii.String(fmt.Sprint("Zone", i+1))),
		}))
	}
	return &awsec2.SubnetSelection{Subnets: &subnets}
}

func (p *preflight) MediaSubnets() *awsec2.SubnetSelection {
	return p.selection("Media", p.props.MediaSubnetIds)
}

func (p *preflight) LoadBalancerSubnets() *awsec2.SubnetSelection {
	return p.selection("LoadBalancer", p.list("LoadBalancerSubnets"))
}

func (p *preflight) TurnSubnets() *awsec2.SubnetSelection {
	return p.selection("Turn", p.list("TurnSubnets"))
}

func (p *preflight) RootDeviceName() *string {
	return p.checks.GetAttString(jsii.String("RootDeviceName"))
}

// list makes a list of what the checks return as one text.
func (p *preflight) list(attribute string) *[]*string {
	return awscdk.Fn_Split(jsii.String(","), p.checks.GetAttString(&attribute), nil)
}

// selection of a list whose length only CloudFormation knows: its one element is a token that stands for the whole.
func (p *preflight) selection(id string, list *[]*string) *awsec2.SubnetSelection {
	subnet := p.subnet(id, &awsec2.SubnetAttributes{SubnetId: (*list)[0]})
	return &awsec2.SubnetSelection{Subnets: &[]awsec2.ISubnet{subnet}}
}

// subnet is known by its id; nothing here asks for its route table, of which the CDK would warn.
func (p *preflight) subnet(id string, attributes *awsec2.SubnetAttributes) awsec2.ISubnet {
	subnet := awsec2.Subnet_FromSubnetAttributes(p, &id, attributes)
	awscdk.Annotations_Of(subnet).AcknowledgeWarning(jsii.String("@aws-cdk/aws-ec2:noSubnetRouteTableId"), nil)
	return subnet
}

func (p *preflight) ToString() *string { return p.Node().Path() }
