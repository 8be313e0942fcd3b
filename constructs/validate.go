package constructs

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/constructs-go/constructs/v10"
)

// or gives *p, or the default where the caller left it out.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// orNew gives the props, or empty ones where the caller gave none: what is required is then reported as missing.
func orNew[T any](props *T) *T {
	if props == nil {
		return new(T)
	}
	return props
}

// problems collects what is wrong with the props of one construct.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// required reports a prop that was left out; it tells whether the prop is there.
func (p *problems) required(prop string, missing bool, fix string) {
	if missing {
		p.add("%s is required: %s", prop, fix)
	}
}

// elements reports those of a list that are nil.
func (p *problems) elements(prop string, list *[]*string) {
	for i, element := range or(list, nil) {
		if element == nil {
			p.add("%s[%d] is nil: give a text", prop, i)
		}
	}
}

// credential reports a known credential that does not match, without repeating it.
func (p *problems) credential(prop string, value *string, pattern *regexp.Regexp, wanted string) {
	if value != nil && !*awscdk.Token_IsUnresolved(value) && !pattern.MatchString(*value) {
		p.add("%s %s", prop, wanted)
	}
}

// isolated reports subnets without a way out.
func (p *problems) isolated(vpc awsec2.IVpc, subnets []awsec2.ISubnet) {
	known := map[string]bool{}
	for _, subnet := range *vpc.IsolatedSubnets() {
		known[*subnet.Node().Path()] = true
	}
	var found []string
	for _, subnet := range subnets {
		if id := *subnet.SubnetId(); known[*subnet.Node().Path()] && !slices.Contains(found, id) {
			if *awscdk.Token_IsUnresolved(id) {
				id = *subnet.Node().Path()
			}
			found = append(found, id)
		}
	}
	if len(found) > 0 {
		p.add("VpcSubnets selects isolated subnets (%s): nodes need a route to AWS and to OpenVidu; give public subnets, or private ones with NAT",
			strings.Join(found, ", "))
	}
}

// otherVpc reports a VPC that is known not to be the masters'.
func (p *problems) otherVpc(vpc awsec2.IVpc, masters MasterCluster) {
	if vpc == nil || masters == nil {
		return
	}
	given, theirs := *vpc.VpcId(), *masters.vpc().VpcId()
	switch {
	case *vpc.Node().Path() == *masters.vpc().Node().Path() || given == theirs:
	case *awscdk.Token_IsUnresolved(given) || *awscdk.Token_IsUnresolved(theirs): // both may be the same parameter
	default:
		p.add("Vpc is %s, the masters are in %s: give the VPC of the masters", given, theirs)
	}
}

// image reports an image that is known to run no node: by its operating system, or by the name of its parameter of Systems Manager.
func (p *problems) image(scope constructs.Construct, props InstanceProps) {
	if props.MachineImage == nil {
		return
	}
	config := props.MachineImage.GetImage(scope)
	if config.OsType == awsec2.OperatingSystemType_WINDOWS {
		p.add("MachineImage is Windows: give Amazon Linux 2023, Ubuntu 22.04 or 24.04")
		return
	}
	name := parameterOf(scope, config.ImageId)
	if strings.Contains(name, "/amzn2-ami-") {
		p.add("MachineImage is Amazon Linux 2: give Amazon Linux 2023, Ubuntu 22.04 or 24.04")
	}
	if strings.Contains(name, "/canonical/ubuntu/") && props.RootDeviceName == nil {
		p.add("RootDeviceName is required: Ubuntu's root device is /dev/sda1")
	}
	instanceType := props.instanceType()
	if *awscdk.Token_IsUnresolved(instanceType.ToString()) {
		return
	}
	wanted := "x86_64"
	if instanceType.Architecture() == awsec2.InstanceArchitecture_ARM_64 {
		wanted = "arm64"
	}
	for word, architecture := range map[string]string{"x86_64": "x86_64", "/amd64/": "x86_64", "arm64": "arm64"} {
		if strings.Contains(name, word) && architecture != wanted {
			p.add("MachineImage is for %s, InstanceType %s for %s: give an image and a type of one architecture", architecture, *instanceType.ToString(), wanted)
		}
	}
}

// parameterOf an image: the name in Systems Manager that the CDK looks the image up by at deployment; "" if it has none.
func parameterOf(scope constructs.Construct, image *string) string {
	stack := awscdk.Stack_Of(scope)
	resolved, _ := stack.Resolve(image).(map[string]any)
	for _, child := range *stack.Node().Children() {
		for _, inside := range append(*child.Node().Children(), child) {
			parameter, ok := inside.(awscdk.CfnParameter)
			if !ok || !strings.HasPrefix(*child.Node().Id(), "SsmParameterValue:") {
				continue
			}
			if logical, _ := stack.Resolve(parameter.LogicalId()).(string); resolved["Ref"] == logical {
				name, _ := parameter.Default().(string)
				return name
			}
		}
	}
	return ""
}

// match reports a known text that does not match; a token is known only to CloudFormation.
func (p *problems) match(prop string, value *string, pattern *regexp.Regexp, wanted string) {
	if value != nil && !*awscdk.Token_IsUnresolved(value) && !pattern.MatchString(*value) {
		p.add("%s is %q: %s", prop, *value, wanted)
	}
}

// within reports a known number outside of [low, high].
func (p *problems) within(prop string, value *float64, low, high float64) {
	if value != nil && !*awscdk.Token_IsUnresolved(value) && (*value < low || *value > high || *value != float64(int64(*value))) {
		p.add("%s is %v: give a whole number from %v to %v", prop, *value, low, high)
	}
}

// each reports a list that has not count elements.
func (p *problems) each(prop string, list *[]*string, count int) {
	if list != nil && len(*list) != count {
		p.add("%s has %d elements: give one for each of the %d slots", prop, len(*list), count)
	}
}

// otherStack reports a construct of another stack than the one that is being made: a cluster's id is its stack's.
func (p *problems) otherStack(scope constructs.Construct, prop string, given constructs.Construct) {
	if given == nil {
		return
	}
	theirs, own := *awscdk.Stack_Of(given).Node().Path(), *awscdk.Stack_Of(scope).Node().Path()
	if theirs != own {
		p.add("%s is in stack %s, not in %s: make both in one stack", prop, theirs, own)
	}
}

// cluster reports what is missing of what watches a whole cluster, and what is of another stack.
func (p *problems) cluster(scope constructs.Construct, masters MasterCluster, fleet MediaFleet, balancer MainLoadBalancer) {
	p.required("Masters", masters == nil, "give the MasterCluster")
	p.required("Fleet", fleet == nil, "give the MediaFleet")
	p.required("LoadBalancer", balancer == nil, "give the MainLoadBalancer")
	p.otherStack(scope, "Masters", masters)
	p.otherStack(scope, "Fleet", fleet)
}

// report panics once with all problems, named after the construct that is being made.
func (p *problems) report(scope constructs.IConstruct, id *string) {
	if len(*p) == 0 {
		return
	}
	path := *id
	if parent := *scope.Node().Path(); parent != "" {
		path = parent + "/" + path
	}
	panic(path + ":\n  - " + strings.Join(*p, "\n  - "))
}

var (
	domainPattern         = regexp.MustCompile(DomainPattern)
	optionalDomainPattern = regexp.MustCompile("^$|" + DomainPattern)
	enginePattern         = regexp.MustCompile("^(pion|mediasoup)$")
	versionPattern        = regexp.MustCompile(VersionPattern)
	installFlagsPattern   = regexp.MustCompile(InstallFlagsPattern)
	licensePattern        = regexp.MustCompile(LicensePattern)
	initialPattern        = regexp.MustCompile(InitialPattern)
	bucketPattern         = regexp.MustCompile(BucketPattern)
)

// Patterns of text that a template's parameters and the constructs' props accept alike.
const (
	// DomainPattern is a fully qualified domain name.
	DomainPattern = `^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])$`
	// BucketPattern is the name of an S3 bucket, or nothing.
	BucketPattern = `^$|^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`
	// InstallFlagsPattern is a list of installer flags, separated by commas; nothing in it means something to a shell.
	InstallFlagsPattern = `^$|^--[A-Za-z0-9][A-Za-z0-9_.:/@%+=-]*(,--[A-Za-z0-9][A-Za-z0-9_.:/@%+=-]*)*$`
	// LicensePattern is a license key.
	LicensePattern = `^\S+$`
	// InitialPattern is a first password or key of OpenVidu Meet, or nothing.
	InitialPattern = `^$|^[A-Za-z0-9_.,:@%+=-]{8,128}$`
	// VersionPattern is a release of OpenVidu, 3.8.0 or newer: Master Nodes of older ones do not listen on 443 and 80.
	VersionPattern = `^(3\.([89]|[1-9][0-9]+)|([4-9]|[1-9][0-9]+)\.[0-9]+)\.[0-9]+$`
)

// numberText writes a number, also one that only CloudFormation knows.
func numberText(number float64) *string {
	if *awscdk.Token_IsUnresolved(number) {
		return awscdk.Token_AsString(number, nil)
	}
	text := strconv.FormatFloat(number, 'f', -1, 64)
	return &text
}
