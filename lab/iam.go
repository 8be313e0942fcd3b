package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/lab/internal/iam"
)

// request is a call to AWS, as far as IAM looks at it.
type request struct {
	who             principal
	service, action string
	form            url.Values     // of a service that takes forms
	input           map[string]any // of a service that takes JSON
	from            string         // the address that the call came from
	behalf          map[string]any // context keys of a call that a service makes on behalf of the caller
}

// text is a parameter of the call, whichever way it came.
func (r request) text(key string) string {
	if value, ok := r.input[key].(string); ok {
		return value
	}
	return r.form.Get(key)
}

// list is a parameter of the call that may have several values: a list in JSON, numbered in a form.
func (r request) list(key string) (values []string) {
	for _, value := range cfn.List(r.input[key]) {
		values = append(values, fmt.Sprint(value))
	}
	for _, format := range []string{"%s.%d", "%s.member.%d"} {
		for i := 1; r.form.Has(fmt.Sprintf(format, key, i)); i++ {
			values = append(values, r.form.Get(fmt.Sprintf(format, key, i)))
		}
	}
	if values == nil && r.form.Has(key) {
		values = []string{r.form.Get(key)}
	}
	return values
}

func arn(service, resource string) string {
	return "arn:aws:" + service + ":" + region + ":" + account + ":" + resource
}

// called gives the ARNs that parameters of a call name.
type called func(s *Stack, r request) []string

// each value of the first parameter that the call has names a resource: the ARN is what comes before it, unless it is one.
func each(before string, parameters ...string) called {
	return func(_ *Stack, r request) (arns []string) {
		for _, parameter := range parameters {
			for _, value := range r.list(parameter) {
				if !strings.HasPrefix(value, "arn:") {
					value = before + value
				}
				arns = append(arns, value)
			}
			if arns != nil {
				break
			}
		}
		return arns
	}
}

func logs(stream func(r request) string) called {
	return func(_ *Stack, r request) []string {
		group := r.text("logGroupName")
		if group == "" {
			return nil
		}
		return []string{arn("logs", "log-group:"+group+":log-stream:"+stream(r))}
	}
}

// resources that calls name, by the service and its resource type in the Service Authorization Reference. Which of them an
// action needs follows from there; an action whose types are not here fails the scenario.
var resources = map[string]map[string]called{
	"acm": {"certificate": each("", "CertificateArn")},
	"autoscaling": {"autoScalingGroup": func(s *Stack, r request) (arns []string) {
		names := r.list("AutoScalingGroupName")
		if m := s.machineById(r.text("InstanceId")); names == nil && m != nil {
			names = []string{m.tags[groupTag]}
		}
		if names == nil && r.text("InstanceId") != "" {
			names = []string{"of-an-unknown-instance"}
		}
		for _, name := range names {
			arns = append(arns, arn("autoscaling", "autoScalingGroup:00000000-0000-0000-0000-000000000000:autoScalingGroupName/"+name))
		}
		return arns
	}},
	"cloudformation": {"stack": func(s *Stack, r request) []string {
		// By its name a stack has an ARN that no policy with its id fits: refusals quote stack/NAME/* (awslabs/ecs-refarch-continuous-deployment,
		// issue 21; aws-parallelcluster, issue 754).
		if name := r.text("StackName"); name != "" && !strings.HasPrefix(name, "arn:") {
			return []string{arn("cloudformation", "stack/"+name+"/*")}
		}
		return each("", "StackName")(s, r)
	}},
	"cloudwatch": {"alarm": each(arn("cloudwatch", "alarm:"), "AlarmName", "AlarmNames")},
	"ec2": {
		"instance":          each(arn("ec2", "instance/"), "InstanceId"),
		"network-interface": each(arn("ec2", "network-interface/"), "NetworkInterfaceId"),
		"volume":            each(arn("ec2", "volume/"), "VolumeId"),
	},
	"kms": {"key": each(arn("kms", "key/"), "KeyId")}, // an alias is not what IAM decides on: it fails the scenario
	"logs": {
		// An ARN of a group that authorizes calls has the separator of its streams: CloudWatch Logs User Guide, "Overview of
		// managing access permissions to your CloudWatch Logs resources".
		"log-group":  logs(func(r request) string { return "" }),
		"log-stream": logs(func(r request) string { return r.text("logStreamName") }),
	},
	"route53":        {"hostedzone": each("arn:aws:route53:::hostedzone/", "Id")},
	"s3":             {"bucket": each("arn:aws:s3:::", "Bucket")},
	"secretsmanager": {"Secret": each("", "SecretId")},
	"servicequotas": {"quota": func(_ *Stack, r request) []string {
		return []string{arn("servicequotas", r.text("ServiceCode")+"/"+r.text("QuotaCode"))}
	}},
	"ssm": {"parameter": func(s *Stack, r request) (arns []string) { // a name that is a path brings its slash
		for _, name := range each("", "Name", "Names")(s, r) {
			arns = append(arns, arn("ssm", "parameter/"+strings.TrimPrefix(name, "/")))
		}
		return arns
	}},
}

// anything are calls that may name a resource, but never do so here: policies must allow them on "*".
var anything = []string{"cloudwatch:PutMetricData"}

// denied gives the resource that IAM does not allow the call on; "" when it allows all. Changes of roles, policies and instance
// profiles are visible after Options.IamDelay: IAM User Guide, "Troubleshoot IAM", changes that I make are not always
// immediately visible. What is refused because of that alone is no missing permission.
func (s *Stack) denied(r request) string {
	now := time.Now()
	for _, call := range append([]request{r}, s.implied(r)...) {
		resource, problem := s.decide(call, now.Add(-s.Options.IamDelay))
		if problem != "" {
			s.complain("IAM: %s: %s", r.who.name, problem)
			return "*"
		}
		if resource == "" {
			continue
		}
		refused := fmt.Sprintf("%s: %s:%s on %s", r.who.name, call.service, call.action, resource)
		later := resource
		if s.Options.IamDelay > 0 {
			later, _ = s.decide(call, now)
		}
		s.mu.Lock()
		if later == "" {
			s.early = append(s.early, refused)
		} else {
			s.refused = append(s.refused, refused)
		}
		s.mu.Unlock()
		return resource
	}
	return ""
}

// decide gives the resource that a call is denied on, by what IAM knew at a time, or why that cannot be told.
func (s *Stack) decide(r request, at time.Time) (denied, problem string) {
	s.mu.Lock()
	known := s.iam.at(at)
	s.mu.Unlock()
	role, name := known[r.who.role], s.nameOf(r.who.role)
	session := r.who.name
	if r.who.machine != nil {
		session = r.who.machine.Id // IAM User Guide, "IAM roles for Amazon EC2": the session of an instance has its id
	}
	call := iam.Call{Principal: "arn:aws:sts::" + account + ":assumed-role/" + name + "/" + session, Account: account,
		Action: r.service + ":" + r.action, Resources: map[string][]iam.Resource{}, Policies: []iam.Policy{}}
	call.Any = slices.Contains(anything, call.Action)
	call.Context, call.Absent = s.requestContext(r, role)
	for kind, arns := range resources[r.service] {
		for _, arn := range arns(s, r) {
			call.Resources[kind] = append(call.Resources[kind], s.resource(r, arn))
		}
	}
	// An instance whose profile is not there yet has no credentials: here it has no permissions.
	if role != nil && (r.who.machine == nil || known.hasProfile(name)) {
		var err error
		if call.Policies, call.Boundary, err = s.policies(known, name, role); err != nil {
			return "", err.Error()
		}
	}
	decision := s.Cloud.decider.Decide(call)
	return decision.Denied, decision.Problem
}

// implied are the calls that AWS makes on behalf of the caller, with the caller's permissions: to KMS, for what a customer
// managed key encrypts. AWS managed keys allow these to all callers of the account.
func (s *Stack) implied(r request) (calls []request) {
	via := func(service, parameter string, actions ...string) {
		if key := s.keyOf(r.text(parameter)); key != "" {
			for _, action := range actions {
				call := request{who: r.who, service: "kms", action: action, input: map[string]any{"KeyId": key}, from: r.from, behalf: map[string]any{
					"kms:ViaService": service + "." + region + ".amazonaws.com", "aws:ViaAWSService": "true"}}
				if service == "secretsmanager" { // AWS Secrets Manager User Guide, "Encryption context"
					call.behalf["kms:EncryptionContext:SecretARN"] = r.text(parameter)
				}
				if action == "CreateGrant" {
					call.behalf["kms:GrantIsForAWSResource"] = "true"
				}
				calls = append(calls, call)
			}
		}
	}
	switch r.service + ":" + r.action {
	case "ec2:AttachVolume": // Amazon EBS User Guide, "Requirements for Amazon EBS encryption"
		via("ec2", "VolumeId", "CreateGrant")
	case "secretsmanager:GetSecretValue": // AWS Secrets Manager User Guide, "Secret encryption and decryption in AWS Secrets Manager"
		via("secretsmanager", "SecretId", "Decrypt")
	case "secretsmanager:PutSecretValue":
		via("secretsmanager", "SecretId", "GenerateDataKey", "Decrypt")
	}
	return calls
}

// keyOf is the customer managed key of a resource of the stack; "" when it has none.
func (s *Stack) keyOf(physical string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, properties := range s.applied {
		if s.attributes[id][""] == physical {
			key, _ := properties["KmsKeyId"].(string)
			if strings.Contains(key, "alias/aws/") {
				return ""
			}
			return key
		}
	}
	return ""
}

// version of an IAM resource: its properties, and since when.
type version struct {
	since      time.Time
	kind       string
	properties map[string]any
}

// history of IAM resources, by logical id.
type history map[string][]version

// view is what IAM knows at a time.
type view map[string]*version

// note keeps what an IAM resource became.
func (h history) note(id, kind string, properties map[string]any) {
	if strings.HasPrefix(kind, "AWS::IAM::") {
		h[id] = append(h[id], version{time.Now(), kind, properties})
	}
}

// at a time IAM knows the newest versions from before.
func (h history) at(t time.Time) view {
	known := view{}
	for id, versions := range h {
		for i := range versions {
			if !versions[i].since.After(t) {
				known[id] = &versions[i]
			}
		}
	}
	return known
}

func (v view) hasProfile(role string) bool {
	for _, resource := range v {
		if resource.kind == "AWS::IAM::InstanceProfile" && slices.Contains(cfn.List(resource.properties["Roles"]), any(role)) {
			return true
		}
	}
	return false
}

// iamAttributes are what Ref and Fn::GetAtt give for resources that policies name by their ARNs.
func iamAttributes(stack, id, kind string) map[string]any {
	name := stack + "-" + id
	switch kind {
	case "AWS::IAM::Role":
		return map[string]any{"": name, "Arn": "arn:aws:iam::" + account + ":role/" + name}
	case "AWS::IAM::ManagedPolicy":
		return map[string]any{"": "arn:aws:iam::" + account + ":policy/" + name}
	case "AWS::IAM::InstanceProfile":
		return map[string]any{"": name, "Arn": "arn:aws:iam::" + account + ":instance-profile/" + name}
	case "AWS::KMS::Key":
		return map[string]any{"": name, "Arn": arn("kms", "key/"+name)}
	}
	return map[string]any{"": id}
}

func (s *Stack) nameOf(id string) string { return fmt.Sprint(s.attribute(id, "")) }

// policies of a role: inline ones, managed ones, those that name the role, and its permissions boundary.
func (s *Stack) policies(known view, name string, role *version) (policies, boundary []iam.Policy, err error) {
	policies = []iam.Policy{}
	for _, policy := range cfn.List(role.properties["Policies"]) {
		policies = append(policies, iam.Policy{Name: fmt.Sprint(cfn.At(policy, "PolicyName")), Document: cfn.At(policy, "PolicyDocument")})
	}
	var ids []string
	for id := range known {
		ids = append(ids, id)
	}
	slices.Sort(ids) // the same policies in the same order are decided once
	for _, id := range ids {
		policy := known[id]
		switch policy.kind {
		case "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy":
			if slices.Contains(cfn.List(policy.properties["Roles"]), any(name)) || policy.properties["RoleName"] == name {
				policies = append(policies, iam.Policy{Name: id, Document: policy.properties["PolicyDocument"]})
			}
		}
	}
	for _, attached := range cfn.List(role.properties["ManagedPolicyArns"]) {
		document, err := s.managedPolicy(known, fmt.Sprint(attached))
		if err != nil {
			return nil, nil, err
		}
		if document != nil {
			policies = append(policies, iam.Policy{Name: fmt.Sprint(attached), Document: document})
		}
	}
	if attached, ok := role.properties["PermissionsBoundary"]; ok {
		document, err := s.managedPolicy(known, fmt.Sprint(attached))
		if err != nil {
			return nil, nil, err
		}
		boundary = []iam.Policy{{Name: fmt.Sprint(attached), Document: document}}
	}
	return policies, boundary, nil
}

// managedPolicy is the document of a policy that AWS or the stack manages; nil when IAM does not know it yet.
func (s *Stack) managedPolicy(known view, arn string) (any, error) {
	if strings.HasPrefix(arn, "arn:aws:iam::aws:policy/") {
		return s.Cloud.managedPolicy(arn)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, kind := range s.kinds {
		if kind == "AWS::IAM::ManagedPolicy" && s.attributes[id][""] == arn {
			if known[id] == nil {
				return nil, nil
			}
			return known[id].properties["PolicyDocument"], nil
		}
	}
	return nil, fmt.Errorf("the lab does not know the managed policy %s", arn)
}

// managedPolicy is a policy that AWS manages, as moto has it from AWS (AWS Managed Policy Reference Guide).
func (c *Cloud) managedPolicy(arn string) (any, error) {
	if document, ok := c.managed.Load(arn); ok {
		return document, nil
	}
	ask := func(action string, more url.Values) (string, error) {
		form := url.Values{"Action": {action}, "PolicyArn": {arn}, "Version": {"2010-05-08"}}
		for key, values := range more {
			form[key] = values
		}
		return c.ask("iam", "application/x-www-form-urlencoded", "", []byte(form.Encode()))
	}
	answer, err := ask("GetPolicy", nil)
	if err != nil {
		return nil, fmt.Errorf("the managed policy %s: %w", arn, err)
	}
	if answer, err = ask("GetPolicyVersion", url.Values{"VersionId": {field(answer, "DefaultVersionId")}}); err != nil {
		return nil, fmt.Errorf("the managed policy %s: %w", arn, err)
	}
	text, err := url.QueryUnescape(field(answer, "Document"))
	if err != nil {
		return nil, fmt.Errorf("the managed policy %s: %w", arn, err)
	}
	var document any
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("the managed policy %s: %w", arn, err)
	}
	c.managed.Store(arn, document)
	return document, nil
}

// requestContext gives the context keys of a request, and those that it is known not to have: IAM User Guide, "AWS global
// condition context keys", and the keys of the services. A condition on any other key fails the scenario.
func (s *Stack) requestContext(r request, role *version) (present map[string]any, absent []string) {
	present = map[string]any{
		"aws:PrincipalArn":          "arn:aws:iam::" + account + ":role/" + s.nameOf(r.who.role),
		"aws:PrincipalAccount":      account,
		"aws:PrincipalType":         "AssumedRole",
		"aws:PrincipalIsAWSService": "false",
		"aws:RequestedRegion":       region,
		"aws:ResourceAccount":       account,
		"aws:SecureTransport":       "true", // the endpoints of AWS are; only the lab's is not
		"aws:ViaAWSService":         "false",
		"ec2:Region":                region,
		"s3:ResourceAccount":        account,
		"kms:CallerAccount":         account,
	}
	absent = []string{
		// Credentials of a role that a service assumed for an instance or a function.
		"aws:FederatedProvider", "aws:MultiFactorAuthAge", "aws:MultiFactorAuthPresent", "aws:SourceIdentity", "aws:username",
		"aws:AssumedRoot", "aws:PrincipalTag/",
		// No service calls in its own name.
		"aws:PrincipalServiceName", "aws:PrincipalServiceNamesList", "aws:SourceAccount", "aws:SourceArn", "aws:SourceOrgID", "aws:SourceOrgPaths",
		// The VPC has no endpoints.
		"aws:SourceVpc", "aws:SourceVpcArn", "aws:SourceVpce", "aws:VpceAccount", "aws:VpceOrgID", "aws:VpceOrgPaths", "aws:VpcSourceIp",
	}
	if role != nil {
		for _, tag := range cfn.List(role.properties["Tags"]) {
			present["aws:PrincipalTag/"+fmt.Sprint(cfn.At(tag, "Key"))] = fmt.Sprint(cfn.At(tag, "Value"))
		}
	}
	// The private address of a caller is not what AWS sees.
	if from, err := netip.ParseAddr(r.from); err == nil && !from.IsPrivate() && !from.IsLoopback() {
		present["aws:SourceIp"] = r.from
	}
	if m := r.who.machine; m != nil {
		present["ec2:SourceInstanceARN"] = arn("ec2", "instance/"+m.Id)
		present["ec2:RoleDelivery"] = "2.0" // by IMDSv2, which the nodes require
		present["aws:Ec2InstanceSourcePrivateIPv4"] = m.Ip
		absent = append(absent, "lambda:SourceFunctionArn")
	} else {
		present["lambda:SourceFunctionArn"] = arn("lambda", "function:"+s.nameOf(r.who.name))
		absent = append(absent, "ec2:SourceInstanceARN", "ec2:RoleDelivery", "aws:Ec2InstanceSourcePrivateIPv4", "aws:Ec2InstanceSourceVpc")
	}
	// Which tags a call gives a resource is not looked into: no node and no function makes such a call.
	tags := func(key string) bool { return strings.HasPrefix(strings.ToLower(key), "tag") }
	if !slices.ContainsFunc(keys(r.form), tags) && !slices.ContainsFunc(keys(r.input), tags) {
		absent = append(absent, "aws:RequestTag/", "aws:TagKeys")
	}
	for key, parameter := range map[string]string{
		"cloudwatch:namespace":        "Namespace",
		"secretsmanager:SecretId":     "SecretId",
		"secretsmanager:VersionId":    "VersionId",
		"secretsmanager:VersionStage": "VersionStage",
		"servicequotas:service":       "ServiceCode",
	} {
		if value := r.text(parameter); value != "" {
			present[key] = value
		} else {
			absent = append(absent, key)
		}
	}
	for key, value := range r.behalf {
		present[key] = value
	}
	if r.behalf == nil {
		absent = append(absent, "kms:ViaService", "kms:GrantIsForAWSResource", "aws:CalledVia", "aws:CalledViaFirst", "aws:CalledViaLast")
	}
	return present, absent
}

func keys[V any](m map[string]V) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// resource with its tags and its policy, as far as a stack of the lab knows it.
func (s *Stack) resource(r request, arn string) iam.Resource {
	resource := iam.Resource{ARN: arn, Policy: s.policyOf(arn)}
	tags, known := s.tagsOf(arn)
	if !known {
		return resource
	}
	own := r.service + ":ResourceTag/" // such as ec2:ResourceTag; services that have no such key ignore it
	resource.Context, resource.Absent = map[string]any{}, []string{"aws:ResourceTag/", own}
	for key, value := range tags {
		resource.Context["aws:ResourceTag/"+key] = value
		resource.Context[own+key] = value
	}
	return resource
}

// names tells whether an ARN is that of a resource with a physical id, which may be the ARN itself or part of it.
func names(arn, physical string) bool {
	if arn == physical {
		return true
	}
	_, resource, _ := strings.Cut(strings.TrimPrefix(arn, "arn:aws:"), ":")
	return slices.ContainsFunc(strings.FieldsFunc(resource, func(r rune) bool { return r == ':' || r == '/' }), func(part string) bool { return part == physical })
}

// tagsOf a resource of any stack in the lab, or of an instance; known is false for all others.
func (s *Stack) tagsOf(arn string) (tags map[string]string, known bool) {
	s.Cloud.mu.Lock()
	stacks := []*Stack{s}
	for _, other := range s.Cloud.stacks {
		if other != s {
			stacks = append(stacks, other)
		}
	}
	s.Cloud.mu.Unlock()
	for _, stack := range stacks {
		if arn == stack.id {
			return nil, true // stacks are deployed without tags
		}
		if _, id, ok := strings.Cut(arn, ":instance/"); ok {
			if m := stack.machineById(id); m != nil {
				return stack.withStackTags(m.tags, m.Group), true
			}
			continue
		}
		stack.mu.Lock()
		found := ""
		for id := range stack.applied {
			if physical, _ := stack.attributes[id][""].(string); physical != "" && names(arn, physical) {
				found = id
			}
		}
		stack.mu.Unlock()
		if found != "" {
			return stack.withStackTags(stack.groupTags(fmt.Sprint(stack.attribute(found, ""))), found), true
		}
	}
	return nil, false
}

// withStackTags adds the tags that CloudFormation gives a resource: AWS CloudFormation User Guide, "Resource tag". Auto Scaling
// gives those of a group to its instances.
func (s *Stack) withStackTags(tags map[string]string, id string) map[string]string {
	all := map[string]string{"aws:cloudformation:stack-name": s.name, "aws:cloudformation:stack-id": s.id, "aws:cloudformation:logical-id": id}
	for key, value := range tags {
		all[key] = value
	}
	return all
}

// policyOf a resource: that of the template for a bucket, a secret or a key. A key that the template does not have is taken to
// have the default key policy, which leaves the decision to IAM policies (AWS KMS Developer Guide, "Default key policy").
func (s *Stack) policyOf(arn string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, properties := range s.applied {
		var owner, policy any
		switch s.kinds[id] {
		case "AWS::S3::BucketPolicy":
			owner, policy = properties["Bucket"], properties["PolicyDocument"]
		case "AWS::SecretsManager::ResourcePolicy":
			owner, policy = properties["SecretId"], properties["ResourcePolicy"]
		case "AWS::KMS::Key":
			owner, policy = s.attributes[id][""], properties["KeyPolicy"]
		default:
			continue
		}
		if physical, ok := owner.(string); ok && names(arn, physical) {
			return policy
		}
	}
	if strings.HasPrefix(arn, "arn:aws:kms:") {
		return map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{"Effect": "Allow",
			"Principal": map[string]any{"AWS": "arn:aws:iam::" + account + ":root"}, "Action": "kms:*", "Resource": "*"}}}
	}
	return nil
}
