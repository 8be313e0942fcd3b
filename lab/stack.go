package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// Options of a deployment that no template knows.
type Options struct {
	Distribution Distribution
	Scale        int               // of time: a second in a script lasts 1/Scale
	Files        map[string]string // put into every node before it boots
	Delay        func(group string) time.Duration
	Media        int // Media Nodes to begin with; 0: none
	Masters      int // slots that are launched at creation; 0: all four, -1: none
}

// Stack is a deployment of a template.
type Stack struct {
	*cfn.Deployment
	Cloud   *Cloud
	Options Options

	mu         sync.Mutex
	attributes map[string]map[string]any
	machines   map[string][]*Machine // by group
	problems   []string
}

const stackId = "arn:aws:cloudformation:eu-west-1:123456789012:stack/openvidu/11111111-2222-3333-4444-555555555555"

// Deploy creates the resources of a template in the order of their dependencies.
func Deploy(cloud *Cloud, template cfn.Template, parameters map[string]any, options Options) (*Stack, error) {
	s := &Stack{Cloud: cloud, Options: options, attributes: map[string]map[string]any{}, machines: map[string][]*Machine{}}
	s.Deployment = cfn.Deploy(template, parameters, s.attribute, func(format string, args ...any) {
		s.problems = append(s.problems, fmt.Sprintf(format, args...))
	})
	for _, id := range s.order() {
		if err := s.create(id); err != nil {
			return s, fmt.Errorf("%s: %w", id, err)
		}
	}
	if len(s.problems) > 0 {
		return s, fmt.Errorf("%s", strings.Join(s.problems, "; "))
	}
	return s, nil
}

func (s *Stack) attribute(id, attribute string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := s.attributes[id][attribute]; ok {
		return value
	}
	return id + "." + attribute
}

func (s *Stack) set(id, attribute string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attributes[id] == nil {
		s.attributes[id] = map[string]any{}
	}
	s.attributes[id][attribute] = value
}

// order of creation: what others refer to comes first.
func (s *Stack) order() []string {
	var order []string
	seen := map[string]bool{}
	var visit func(id string)
	visit = func(id string) {
		if _, ok := s.Resources[id]; !ok || seen[id] {
			return
		}
		seen[id] = true
		found := map[string]bool{}
		cfn.References(s.Resources[id], found)
		for _, other := range slices.Sorted(maps.Keys(found)) {
			visit(other)
		}
		order = append(order, id)
	}
	for _, id := range slices.Sorted(maps.Keys(s.Resources)) {
		visit(id)
	}
	return order
}

func (s *Stack) create(id string) error {
	resource := s.Resources[id]
	kind := cfn.At(resource, "Type").(string)
	properties, _ := s.Resolve(cfn.At(resource, "Properties")).(map[string]any)
	switch kind {
	case "AWS::EC2::NetworkInterface":
		e := s.Cloud.newInterface(properties["SubnetId"].(string))
		s.set(id, "", e.id)
		s.set(id, "PrimaryPrivateIpAddress", e.ip)
	case "AWS::EC2::Volume":
		v := s.Cloud.newVolume(properties["AvailabilityZone"].(string), int(properties["Size"].(float64)))
		s.set(id, "", v.id)
	case "AWS::SecretsManager::Secret":
		answer := s.Cloud.call("secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": fmt.Sprint(id, "-", serial.Add(1))})
		s.set(id, "", answer["ARN"])
	case "AWS::Logs::LogGroup":
		name := fmt.Sprint("openvidu-", id, "-", serial.Add(1))
		s.Cloud.call("logs", "Logs_20140328.CreateLogGroup", map[string]any{"logGroupName": name})
		s.set(id, "", name)
	case "AWS::CloudFormation::WaitConditionHandle":
		s.set(id, "", fmt.Sprintf("%s/wait/%s-%d?Expires=43200&Signature=abc%%2B", endpoint, id, serial.Add(1)))
	case "AWS::AutoScaling::AutoScalingGroup":
		count := 1
		if properties["LifecycleHookSpecificationList"] != nil {
			count = s.Options.Media
		} else if s.Options.Masters != 0 && id > Group(s.Options.Masters) {
			count = 0
		}
		for range count {
			go s.Launch(id)
		}
	}
	if strings.HasPrefix(kind, "Custom::") {
		return s.invoke(id, kind, "Create", properties, nil)
	}
	return nil
}

// Launch adds an instance to a group, as Auto Scaling does.
func (s *Stack) Launch(group string) *Machine {
	if s.Options.Delay != nil {
		time.Sleep(s.Options.Delay(group))
	}
	properties := s.Resolve(cfn.At(s.Resources[group], "Properties")).(map[string]any)
	template := cfn.At(s.Resources[group], "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref").(string)
	userData := s.Resolve(cfn.At(s.Resources[template], "Properties", "LaunchTemplateData", "UserData")).(string)
	tags := map[string]string{"aws:autoscaling:groupName": group}
	for _, tag := range cfn.List(properties["Tags"]) {
		tag := tag.(map[string]any)
		if key := tag["Key"].(string); key == "OpenViduMasterSlot" {
			tags[key] = tag["Value"].(string)
		}
	}
	subnet := cfn.List(properties["VPCZoneIdentifier"])[0].(string)
	m := s.Cloud.Launch(group, subnet, tags, s.Options.Distribution, userData, s.Options.Scale, s.Options.Files)
	s.mu.Lock()
	s.machines[group] = append(s.machines[group], m)
	s.mu.Unlock()
	return m
}

// Replace terminates a master, whose group launches another one at once.
func (s *Stack) Replace(group string, hold time.Duration) *Machine {
	s.mu.Lock()
	old := s.machines[group]
	s.machines[group] = nil
	s.mu.Unlock()
	for _, m := range old {
		m.Terminate(hold)
	}
	return s.Launch(group)
}

// Machine that is the only one of its group.
func (s *Stack) Machine(group string) *Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.machines[group]) == 0 {
		return nil
	}
	return s.machines[group][len(s.machines[group])-1]
}

// Group of a slot, 1 to 4.
func Group(slot int) string { return fmt.Sprint("OpenViduMasterNodeASG", slot) }

// MediaGroup is the fleet.
const MediaGroup = "OpenViduMediaNodeASG"

// Destroy ends all machines.
func (s *Stack) Destroy() {
	s.mu.Lock()
	var all []*Machine
	for _, list := range s.machines {
		all = append(all, list...)
	}
	s.machines = map[string][]*Machine{}
	s.mu.Unlock()
	for _, m := range all {
		m.Terminate(0)
		os.RemoveAll(m.dir)
	}
	s.Cloud.mu.Lock()
	defer s.Cloud.mu.Unlock()
	for _, v := range s.Cloud.volumes {
		v.unplug()
		os.Remove(v.file)
	}
}

// Signals that the wait condition of a handle got.
func (s *Stack) Signals(handle string) []Signal {
	address := s.attribute(handle, "").(string)
	name, _, _ := strings.Cut(address[strings.LastIndex(address, "/")+1:], "?")
	s.Cloud.mu.Lock()
	defer s.Cloud.mu.Unlock()
	return slices.Clone(s.Cloud.signals[name])
}

// Secret as it is now.
func (s *Stack) Secret() map[string]any {
	arn := s.attribute("OpenViduSharedInfo", "")
	answer := s.Cloud.call("secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": arn})
	var secret map[string]any
	json.Unmarshal([]byte(answer["SecretString"].(string)), &secret)
	return secret
}

// SetSecret is an edit by hand.
func (s *Stack) SetSecret(changes map[string]any) {
	secret := s.Secret()
	maps.Copy(secret, changes)
	content, _ := json.Marshal(secret)
	s.Cloud.call("secretsmanager", "secretsmanager.PutSecretValue", map[string]any{
		"SecretId": s.attribute("OpenViduSharedInfo", ""), "SecretString": string(content)})
}

// invoke runs the function of a custom resource: its real code, on Node.js, with the real SDK.
func (s *Stack) invoke(id, kind, request string, properties, old map[string]any) error {
	function := cfn.At(s.Resources[id], "Properties", "ServiceToken", "Fn::GetAtt").([]any)[0].(string)
	code := s.Resolve(cfn.At(s.Resources[function], "Properties", "Code", "ZipFile")).(string)
	dir := filepath.Join(s.Cloud.Dir, "functions")
	must(os.MkdirAll(dir, 0o700))
	number := serial.Add(1)
	file := filepath.Join(dir, fmt.Sprint("index-", number, ".js"))
	must(os.WriteFile(file, []byte(code), 0o600))
	event := map[string]any{
		"RequestType": request, "RequestId": fmt.Sprintf("00000000-0000-0000-0000-%012d", number), "StackId": stackId, "ResourceType": kind,
		"LogicalResourceId": id, "ResourceProperties": stringly(properties),
	}
	if old != nil {
		event["OldResourceProperties"] = stringly(old)
		event["PhysicalResourceId"] = s.attribute(id, "physical")
	}
	input, _ := json.Marshal(event)
	command := exec.Command("node", "-e", `
const http = require('http');
const event = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const server = http.createServer((request, response) => {
  let body = '';
  request.on('data', (part) => { body += part; });
  request.on('end', () => { response.end(); server.close(); server.closeAllConnections?.(); process.stdout.write('\n<<' + body + '>>\n'); });
});
server.listen(0, '127.0.0.1', () => {
  event.ResponseURL = 'http://127.0.0.1:' + server.address().port + '/';
  require(process.argv[1]).handler(event, { getRemainingTimeInMillis: () => 60000 }).catch((error) => { console.error(error); process.exit(1); });
});`, file)
	command.Stdin = strings.NewReader(string(input))
	command.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+endpoint, "AWS_REGION="+region, "AWS_ACCESS_KEY_ID=FUNCTION", "AWS_SECRET_ACCESS_KEY=x",
		"NODE_PATH="+modules)
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	_, text, _ := strings.Cut(string(output), "<<")
	text, _, _ = strings.Cut(text, ">>")
	var result struct {
		Status, Reason, PhysicalResourceId string
		Data                               map[string]any
	}
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		return fmt.Errorf("no answer: %s", output)
	}
	if result.Status != "SUCCESS" {
		return fmt.Errorf("%s", result.Reason)
	}
	s.set(id, "physical", result.PhysicalResourceId)
	for key, value := range result.Data {
		s.set(id, key, value)
	}
	return nil
}

// stringly is how CloudFormation hands numbers and truths to a function.
func stringly(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, element := range v {
			out[key] = stringly(element)
		}
		return out
	case []any:
		out := []any{}
		for _, element := range v {
			out = append(out, stringly(element))
		}
		return out
	case float64, bool:
		return fmt.Sprint(v)
	}
	return value
}
