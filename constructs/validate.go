package constructs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/constructs-go/constructs/v10"
)

// or gives *p, or the default where the caller left it out.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// problems collects what is wrong with the props of one construct.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// required reports a prop that was left out; it tells whether the prop is there.
func (p *problems) required(prop string, missing bool, mend string) {
	if missing {
		p.add("%s is required: %s", prop, mend)
	}
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
