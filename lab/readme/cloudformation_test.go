package readme_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// inline is what CloudFormation takes of a template without a bucket, in bytes.
const inline = 51200

// cloudFormation stands in for the service, since moto cannot make this stack: it knows neither custom resources nor wait
// conditions. It takes a stack as the service does at its door, reads template and parameters, and calls the stack made.
// All other services are moto's.
type cloudFormation struct {
	mutex  sync.Mutex
	stacks map[string]*stack
}

type stack struct {
	template                           map[string]any
	parameters                         map[string]string
	change, status                     string
	keepsWhatFailed, inline, protected bool
	outputs                            map[string]string
}

type refusal struct{ code, message string }

func (r refusal) Error() string { return r.message }

func invalid(format string, args ...any) error {
	return refusal{"ValidationError", fmt.Sprintf(format, args...)}
}

// ServeHTTP answers what has an action of CloudFormation, and passes on what has not.
func (c *cloudFormation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	must(err)
	form, _ := url.ParseQuery(string(body))
	if form.Get("Version") != "2010-05-15" {
		pass(w, r, body)
		return
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	action := form.Get("Action")
	answer, err := c.answer(action, form)
	w.Header().Set("Content-Type", "text/xml")
	if err != nil {
		why, ok := err.(refusal)
		if !ok {
			why = refusal{"InternalFailure", err.Error()}
		}
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, why.code, escape(why.message))
		return
	}
	_, _ = fmt.Fprintf(w, `<%[1]sResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>`, action, answer)
}

func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

func id(name string) string {
	return "arn:aws:cloudformation:eu-west-1:123456789012:stack/" + name + "/11111111-2222-3333-4444-555555555555"
}

func (c *cloudFormation) answer(action string, form url.Values) (string, error) {
	name := form.Get("StackName")
	if _, after, ok := strings.Cut(name, ":stack/"); ok {
		name, _, _ = strings.Cut(after, "/")
	}
	s := c.stacks[name]
	if s == nil && action != "CreateChangeSet" {
		return "", invalid("Stack with id %s does not exist", name)
	}
	switch action {
	case "CreateChangeSet":
		if s != nil {
			return "", invalid("%s exists", name)
		}
		s = &stack{status: "REVIEW_IN_PROGRESS", change: form.Get("ChangeSetName")}
		if err := s.take(form); err != nil {
			return "", err
		}
		c.stacks[name] = s
		return "<Id>arn:aws:cloudformation:eu-west-1:123456789012:changeSet/" + s.change + "/1</Id><StackId>" + id(name) + "</StackId>", nil
	case "DescribeChangeSet":
		return "<StackName>" + name + "</StackName><StackId>" + id(name) + "</StackId><ChangeSetName>" + s.change + "</ChangeSetName>" +
			"<Status>CREATE_COMPLETE</Status><ExecutionStatus>AVAILABLE</ExecutionStatus><Changes><member><Type>Resource</Type><ResourceChange>" +
			"<Action>Add</Action><LogicalResourceId>MasterSG</LogicalResourceId><ResourceType>AWS::EC2::SecurityGroup</ResourceType></ResourceChange></member></Changes>", nil
	case "ExecuteChangeSet":
		s.status, s.keepsWhatFailed = "CREATE_COMPLETE", form.Get("DisableRollback") == "true"
		s.outputs = map[string]string{}
		for output := range s.template["Outputs"].(map[string]any) {
			s.outputs[output] = "value of " + output
		}
		return "", nil
	case "DescribeStacks":
		var out strings.Builder
		for key, value := range s.outputs {
			_, _ = fmt.Fprintf(&out, "<member><OutputKey>%s</OutputKey><OutputValue>%s</OutputValue></member>", key, escape(value))
		}
		return "<Stacks><member><StackName>" + name + "</StackName><StackId>" + id(name) + "</StackId><StackStatus>" + s.status +
			"</StackStatus><CreationTime>2026-01-01T00:00:00Z</CreationTime><Outputs>" + out.String() + "</Outputs></member></Stacks>", nil
	case "DescribeStackEvents":
		return "<StackEvents/>", nil
	case "DescribeStackResources":
		return "<StackResources/>", nil
	case "ListStackResources":
		return "<StackResourceSummaries/>", nil
	case "GetTemplate":
		return "<TemplateBody>{}</TemplateBody>", nil
	case "DeleteChangeSet":
		return "", nil
	case "UpdateTerminationProtection":
		s.protected = form.Get("EnableTerminationProtection") == "true"
		return "<StackId>" + id(name) + "</StackId>", nil
	}
	return "", refusal{"InvalidAction", action + " is not known here"}
}

// take reads template and parameters, and refuses what CloudFormation refuses.
func (s *stack) take(form url.Values) error {
	text := form.Get("TemplateBody")
	s.inline = text != ""
	if len(text) > inline {
		return invalid("1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must have length less than or equal to %d", inline)
	}
	if address := form.Get("TemplateURL"); address != "" {
		var err error
		if text, err = fetch(address); err != nil {
			return err
		}
	}
	if err := json.Unmarshal([]byte(text), &s.template); err != nil {
		return invalid("Template format error: %v", err)
	}
	s.parameters = map[string]string{}
	for i := 1; form.Get(fmt.Sprintf("Parameters.member.%d.ParameterKey", i)) != ""; i++ {
		s.parameters[form.Get(fmt.Sprintf("Parameters.member.%d.ParameterKey", i))] = form.Get(fmt.Sprintf("Parameters.member.%d.ParameterValue", i))
	}
	declared := s.template["Parameters"].(map[string]any)
	for name := range s.parameters {
		if declared[name] == nil {
			return invalid("Parameters: [%s] do not exist in the template", name)
		}
	}
	for name, parameter := range declared {
		properties := parameter.(map[string]any)
		value, given := s.parameters[name]
		if !given {
			if properties["Default"] == nil {
				return invalid("Parameters: [%s] must have values", name)
			}
			continue
		}
		if pattern, ok := properties["AllowedPattern"].(string); ok && !regexp.MustCompile("^(?:"+pattern+")$").MatchString(value) {
			return invalid("Parameter %s failed to satisfy constraint: %v", name, properties["ConstraintDescription"])
		}
	}
	var capabilities []string
	for i := 1; form.Get(fmt.Sprintf("Capabilities.member.%d", i)) != ""; i++ {
		capabilities = append(capabilities, form.Get(fmt.Sprintf("Capabilities.member.%d", i)))
	}
	if !slices.Contains(capabilities, "CAPABILITY_IAM") && !slices.Contains(capabilities, "CAPABILITY_NAMED_IAM") {
		return refusal{"InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]"}
	}
	return nil
}

// fetch what was uploaded to moto, whatever host name the address has.
func fetch(address string) (string, error) {
	at, err := url.Parse(address)
	if err != nil {
		return "", invalid("TemplateURL: %v", err)
	}
	path := at.Path
	if bucket, _, ok := strings.Cut(at.Host, ".s3."); ok {
		path = "/" + bucket + path
	}
	request, err := http.NewRequest(http.MethodGet, server+path, nil)
	if err != nil {
		return "", err
	}
	// As the caller; moto looks at the region of a signature, not at the signature.
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20250101/eu-west-1/s3/aws4_request")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", invalid("S3 error: %s answers %s", address, response.Status)
	}
	return string(content), nil
}

// The stand-in is only worth something when it refuses.
func TestStandInRefusesWhatCloudFormationRefuses(t *testing.T) {
	template := `{"Parameters":{"Name":{"AllowedPattern":"[a-z]+","ConstraintDescription":"Letters."},"Size":{"Default":1}},"Outputs":{}}`
	good := map[string]string{"TemplateBody": template, "Capabilities.member.1": "CAPABILITY_IAM",
		"Parameters.member.1.ParameterKey": "Name", "Parameters.member.1.ParameterValue": "a"}
	for name, c := range map[string]struct {
		change map[string]string
		want   string
	}{
		"nothing wrong":       {nil, ""},
		"too large":           {map[string]string{"TemplateBody": template + strings.Repeat(" ", inline)}, "less than or equal to 51200"},
		"no template there":   {map[string]string{"TemplateURL": "https://none.s3.eu-west-1.amazonaws.com/x"}, "404"},
		"no value":            {map[string]string{"Parameters.member.1.ParameterKey": ""}, "[Name] must have values"},
		"unknown parameter":   {map[string]string{"Parameters.member.2.ParameterKey": "Nam"}, "[Nam] do not exist"},
		"wrong value":         {map[string]string{"Parameters.member.1.ParameterValue": "A"}, "Letters."},
		"no capability given": {map[string]string{"Capabilities.member.1": ""}, "CAPABILITY_IAM"},
	} {
		form := url.Values{}
		for _, from := range []map[string]string{good, c.change} {
			for key, value := range from {
				form.Set(key, value)
			}
		}
		err := new(stack).take(form)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
