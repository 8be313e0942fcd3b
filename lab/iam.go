package lab

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// request is a call to AWS, as far as IAM looks at it.
type request struct {
	who             principal
	service, action string
	form            url.Values     // of a service that takes forms
	input           map[string]any // of a service that takes JSON
}

// text is a parameter of the call, whichever way it came.
func (r request) text(key string) string {
	if value, ok := r.input[key].(string); ok {
		return value
	}
	return r.form.Get(key)
}

func arn(service, resource string) string {
	return "arn:aws:" + service + ":" + region + ":" + account + ":" + resource
}

// subject is a resource that a call is about, with its tags.
type subject struct {
	arn  string
	tags map[string]string
}

// subjects of a call: each must be allowed. "*" where the call names none, or the service does not look at it.
func (s *Stack) subjects(r request) []subject {
	text := r.text
	instance := func(id string) subject {
		if m := s.machineById(id); m != nil {
			return subject{arn("ec2", "instance/"+id), m.tags}
		}
		return subject{arn("ec2", "instance/"+id), nil}
	}
	switch r.service + ":" + r.action {
	case "ec2:AttachVolume":
		return []subject{{arn("ec2", "volume/"+r.form.Get("VolumeId")), nil}, instance(r.form.Get("InstanceId"))}
	case "ec2:AttachNetworkInterface":
		return []subject{{arn("ec2", "network-interface/"+r.form.Get("NetworkInterfaceId")), nil}, instance(r.form.Get("InstanceId"))}
	case "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage":
		return []subject{{text("SecretId"), nil}}
	case "servicequotas:GetServiceQuota":
		return []subject{{arn("servicequotas", "ec2/"+text("QuotaCode")), nil}}
	case "kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants":
		return []subject{{arn("kms", "key/"+text("KeyId")), nil}}
	case "acm:DescribeCertificate":
		return []subject{{text("CertificateArn"), nil}}
	case "s3:GetBucketLocation":
		return []subject{{"arn:aws:s3:::" + text("Bucket"), nil}}
	case "route53:GetHostedZone":
		return []subject{{"arn:aws:route53:::hostedzone/" + text("Id"), nil}}
	case "logs:CreateLogStream", "logs:PutLogEvents":
		return []subject{{arn("logs", "log-group:"+text("logGroupName")+":log-stream:"+text("logStreamName")), nil}}
	case "cloudformation:SignalResource", "cloudformation:DescribeStacks":
		if name := r.form.Get("StackName"); name == s.name || name == s.id {
			return []subject{{s.id, nil}}
		}
		return []subject{{arn("cloudformation", "stack/"+r.form.Get("StackName")), nil}}
	case "autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:SetInstanceHealth":
		name := r.form.Get("AutoScalingGroupName")
		if m := s.machineById(r.form.Get("InstanceId")); name == "" && m != nil {
			name = m.tags[groupTag]
		}
		return []subject{{arn("autoscaling", "autoScalingGroup:0:autoScalingGroupName/"+name), s.groupTags(name)}}
	}
	return []subject{{"*", nil}}
}

// denied gives the resource that the caller's role does not allow the call on; "" when all are allowed.
func (s *Stack) denied(r request) string {
	statements := s.statements(r.who.role)
	for _, about := range s.subjects(r) {
		if !slices.ContainsFunc(statements, func(statement any) bool { return s.allows(statement, r, about) }) {
			s.mu.Lock()
			s.refused = append(s.refused, fmt.Sprintf("%s: %s:%s on %s", r.who.name, r.service, r.action, about.arn))
			s.mu.Unlock()
			return about.arn
		}
	}
	return ""
}

// statements of a role's inline policies, and of policies that name the role.
func (s *Stack) statements(role string) (statements []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, policy := range cfn.List(s.applied[role]["Policies"]) {
		statements = append(statements, cfn.List(cfn.At(policy, "PolicyDocument", "Statement"))...)
	}
	for id, properties := range s.applied {
		switch s.kinds[id] {
		case "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy":
			if slices.Contains(cfn.List(properties["Roles"]), any(role)) || properties["RoleName"] == role ||
				slices.Contains(cfn.List(s.applied[role]["ManagedPolicyArns"]), s.attributes[id][""]) {
				statements = append(statements, cfn.List(cfn.At(properties, "PolicyDocument", "Statement"))...)
			}
		}
	}
	return statements
}

// allows reads a statement; what the lab cannot read fails the scenario rather than allow.
func (s *Stack) allows(statement any, r request, about subject) bool {
	if cfn.At(statement, "Effect") != "Allow" {
		s.complain("the lab does not know the effect of %v", statement)
		return false
	}
	matches := func(patterns any, value string, fold bool) bool {
		return slices.ContainsFunc(cfn.List(patterns), func(pattern any) bool {
			text := fmt.Sprint(pattern)
			if fold {
				text, value = strings.ToLower(text), strings.ToLower(value)
			}
			// path.Match keeps * within slashes; IAM does not.
			hidden := func(text string) string { return strings.ReplaceAll(text, "/", "\x00") }
			ok, _ := path.Match(hidden(text), hidden(value))
			return ok
		})
	}
	if !matches(cfn.At(statement, "Action"), r.service+":"+r.action, true) || !matches(cfn.At(statement, "Resource"), about.arn, false) {
		return false
	}
	conditions, _ := cfn.At(statement, "Condition").(map[string]any)
	for operator, wanted := range conditions {
		for key, values := range wanted.(map[string]any) {
			tag, ok := strings.CutPrefix(key, "aws:ResourceTag/")
			value := about.tags[tag]
			switch key {
			case "cloudwatch:namespace":
				value, ok = r.text("Namespace"), true
			case "s3:ResourceAccount": // all of the lab's buckets are of its one account
				value, ok = account, true
			}
			switch {
			case ok && operator == "StringEquals":
				ok = slices.Contains(cfn.List(values), any(value))
			case ok && operator == "Null":
				ok = (values == "true") == (value == "")
			default:
				s.complain("the lab does not know the condition %s %s", operator, key)
				ok = false
			}
			if !ok {
				return false
			}
		}
	}
	return true
}
