// Package compliance keeps, beside a resource, why it does not follow a rule of cdk-nag. The reasons are in the metadata of
// the construct tree, not in the template; the compliance test gives them to cdk-nag.
package compliance

import (
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

const metadataType = "openvidu:accepted"

// Accepted is one rule that a construct and all inside it do not follow.
type Accepted struct {
	// Rule like AwsSolutions-SMG4, or one finding of it, like AwsSolutions-IAM5[Resource::*], or those that a
	// regular expression of JavaScript matches, like AwsSolutions-IAM5[/^Resource::arn/].
	Rule string
	// Reason why the rule is not followed.
	Reason string
}

// Accept says why the construct, and all inside it, do not follow these rules.
func Accept(construct constructs.IConstruct, reason string, rules ...string) {
	for _, rule := range rules {
		construct.Node().AddMetadata(jsii.String(metadataType), map[string]string{"rule": rule, "reason": reason}, nil)
	}
}

// Of gives what was accepted of the construct itself.
func Of(construct constructs.IConstruct) []Accepted {
	var out []Accepted
	for _, entry := range *construct.Node().Metadata() {
		if *entry.Type == metadataType {
			data := entry.Data.(map[string]any)
			out = append(out, Accepted{Rule: data["rule"].(string), Reason: data["reason"].(string)})
		}
	}
	return out
}
