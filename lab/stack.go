package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// Options of a deployment that no template knows.
type Options struct {
	Distribution  Distribution
	Scale         int                                // of time: a second in a script lasts 1/Scale; default 20
	Files         map[string]string                  // put into every node before it boots
	NodeFiles     func(m *Machine) map[string]string // more files, for some nodes
	Delay         func() time.Duration               // between an instance's launch and its first line of user data
	Hold          Hold                               // of instances that an update replaces
	LateMetadata  bool                               // the metadata service is absent at first, then slow
	Media         int                                // Media Nodes to begin with; 0: none
	Masters       int                                // slots that are launched at creation; 0: all four, -1: none
	Template      func(cfn.Template) cfn.Template    // spoils or changes a copy of the template before it is deployed
	Row           string                             // of the table, when several runs share one
	Outages       map[string]int                     // download servers that answer with an HTTP status from the beginning
	Hangs         []string                           // commands that hang in this scenario, whose limits are scaled therefore
	Refused       []string                           // calls that AWS is to refuse; any other refusal fails the scenario
	IamDelay      time.Duration                      // until a change of a role, a policy or an instance profile takes effect
	Tags          map[string]string                  // of the stack, which CloudFormation hands on
	LoadBalancers bool                               // run: without, targets have their states and delays, and no traffic
	Bridge        bool                               // containers get networks of their own: Docker sets up its bridge's rules
	BalancerScale int                                // of the load balancers' time, for what runs in real time through them; 0: as Scale
	Eager         bool                               // what looks every few seconds does so at the scenario's scale, however short that is
	StateLag      time.Duration                      // how long the metadata name the old state after a start from the warm pool
}

// Stack is a deployment of a template, with all that AWS knows of it.
type Stack struct {
	Cloud   *Cloud
	Options Options

	name, id string

	mu         sync.Mutex
	deployment *cfn.Deployment
	status     string                    // of the stack
	attributes map[string]map[string]any // what Ref ("") and Fn::GetAtt give
	applied    map[string]map[string]any // properties, resolved, as they were last created or updated
	kinds      map[string]string         // types of what exists
	versions   map[string][]any          // of launch templates: their data
	machines   map[string][]*Machine     // by group; those that run
	all        []*Machine                // and those that are gone
	enis       map[string]*eni
	volumes    map[string]*volume
	calls      map[string]int      // by "who action"
	signals    map[string][]Signal // by wait condition handle
	updates    map[string][]Signal // by group
	rolling    map[string]bool     // groups that wait for signals
	groups     map[string]*scalingGroup
	instances  map[string]*instance // by id, those that are gone too
	events     []map[string]any     // of Auto Scaling, as EventBridge got them
	deleted    []Gone
	targets    func(targetGroup string, m *Machine, state string) // observes registered, draining and gone targets; nil: nobody does
	cuts       []string                                           // calls of users that were cut
	sick       map[string]bool                                    // instances that called themselves unhealthy
	refused    []string                                           // calls that IAM refused
	early      []string                                           // calls that IAM refused because of IamDelay alone
	iam        history                                            // of IAM resources
	replaced   []string                                           // parameters of Systems Manager
	metrics    map[string][]any                                   // by name: what nodes told CloudWatch
	problems   []string                                           // what the lab could not make sense of
	secrets    map[string]bool                                    // every credential that the secret ever held
	words      []string                                           // what functions and consoles printed
	figures    string                                             // of the scenario, for the table
	expired    bool                                               // the addresses of wait conditions, after 12 hours
	fault      func(who, action string) (int, string)
	serve      func(w http.ResponseWriter, installer []byte)
	outages    map[string]int // status codes of download servers
	done       chan bool      // closed when the stack is gone
}

// Deploy creates the resources of a template in the order of their dependencies. Groups launch their instances; waiting for
// them is the scenario's business.
func Deploy(cloud *Cloud, template cfn.Template, parameters map[string]any, options Options) (*Stack, error) {
	number := serial.Add(1)
	s := &Stack{Cloud: cloud, Options: options, name: fmt.Sprint("openvidu-", number), status: "CREATE_IN_PROGRESS",
		attributes: map[string]map[string]any{}, applied: map[string]map[string]any{}, kinds: map[string]string{}, versions: map[string][]any{},
		machines: map[string][]*Machine{}, enis: map[string]*eni{}, volumes: map[string]*volume{}, calls: map[string]int{},
		signals: map[string][]Signal{}, updates: map[string][]Signal{}, rolling: map[string]bool{}, groups: map[string]*scalingGroup{}, instances: map[string]*instance{}, metrics: map[string][]any{},
		sick: map[string]bool{}, iam: history{}, secrets: map[string]bool{}, outages: maps.Clone(options.Outages), done: make(chan bool)}
	s.id = arn("cloudformation", fmt.Sprintf("stack/%s/11111111-2222-3333-4444-%012d", s.name, number))
	cloud.mu.Lock()
	cloud.stacks[s.name] = s
	cloud.mu.Unlock()
	_, err := s.apply(template, parameters, nil)
	return s, err
}

// apply brings all resources to what template and parameters say, each after those that it depends on. Resources that do
// not depend on each other change side by side, as CloudFormation does it. A rollback is for those alone that were touched.
func (s *Stack) apply(template cfn.Template, parameters map[string]any, only map[string]bool) (touched map[string]bool, err error) {
	values := map[string]any{"AWS::Region": region, "AWS::AccountId": account, "AWS::StackName": s.name, "AWS::StackId": s.id}
	maps.Copy(values, parameters)
	d := cfn.Deploy(template, values, s.attribute, s.complain)
	s.mu.Lock()
	s.deployment = d
	s.mu.Unlock()
	finished := map[string]chan bool{}
	for id := range d.Resources {
		finished[id] = make(chan bool)
	}
	var mu sync.Mutex
	var failures []error
	touched = map[string]bool{}
	for id, resource := range d.Resources {
		go func() {
			defer close(finished[id])
			needs := map[string]bool{}
			cfn.References(resource, needs)
			for other := range needs {
				if wait := finished[other]; wait != nil && other != id {
					<-wait
				}
			}
			mu.Lock()
			idle := len(failures) > 0 || only != nil && !only[id]
			touched[id] = !idle
			mu.Unlock()
			if idle {
				return // CloudFormation starts nothing new after a failure
			}
			if err := s.applyResource(d, id); err != nil {
				mu.Lock()
				failures = append(failures, fmt.Errorf("%s: %w", id, err))
				mu.Unlock()
			}
		}()
	}
	for _, wait := range finished {
		<-wait
	}
	if len(failures) == 0 {
		s.cleanUp()
		return touched, s.removed(d)
	}
	return touched, errors.Join(failures...)
}

// cleanUp deletes what was replaced, when all resources are updated or rolled back (CloudFormation User Guide, Update behaviors of stack
// resources: Replacement).
func (s *Stack) cleanUp() {
	s.mu.Lock()
	kept := map[string]bool{}
	for id, properties := range s.applied {
		if s.kinds[id] == "AWS::SSM::Parameter" {
			kept[fmt.Sprint(properties["Name"])] = true
		}
	}
	replaced := s.replaced
	s.replaced = nil
	s.mu.Unlock()
	for _, name := range replaced {
		if !kept[name] {
			s.Cloud.call("ssm", "AmazonSSM.DeleteParameter", map[string]any{"Name": name})
		}
	}
}

func (s *Stack) applyResource(d *cfn.Deployment, id string) error {
	resource := d.Resources[id]
	kind := cfn.At(resource, "Type").(string)
	properties, _ := d.Resolve(cfn.At(resource, "Properties")).(map[string]any)
	s.mu.Lock()
	old, exists := s.applied[id]
	if s.attributes[id] == nil {
		s.attributes[id] = iamAttributes(s.name, id, kind)
	}
	s.kinds[id] = kind
	s.mu.Unlock()
	if exists && reflect.DeepEqual(old, properties) {
		return nil
	}
	if err := s.change(d, id, kind, properties, old, exists); err != nil {
		return err
	}
	s.mu.Lock()
	s.applied[id] = properties
	s.iam.note(id, kind, properties)
	s.mu.Unlock()
	return nil
}

func (s *Stack) change(d *cfn.Deployment, id, kind string, properties, old map[string]any, exists bool) error {
	switch kind {
	case "AWS::EC2::NetworkInterface":
		if exists && properties["SubnetId"] != old["SubnetId"] {
			return fmt.Errorf("another subnet would replace the network interface")
		} else if !exists {
			e := s.newInterface(properties["SubnetId"].(string), properties["PrivateIpAddress"])
			s.set(id, "", e.id)
			s.set(id, "PrimaryPrivateIpAddress", e.ip)
			return s.admitInterface(e, properties)
		}
		return vpc.SetGroups(netip.MustParseAddr(fmt.Sprint(s.attribute(id, "PrimaryPrivateIpAddress"))), texts(cfn.List(properties["GroupSet"]))...)
	case "AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress":
		return s.changeSecurityGroup(id, kind, properties, exists)
	case "AWS::ElasticLoadBalancingV2::TargetGroup", "AWS::ElasticLoadBalancingV2::LoadBalancer", "AWS::ElasticLoadBalancingV2::Listener":
		return s.changeLoadBalancing(id, kind, properties, old, exists)
	case "AWS::EC2::Volume":
		size := int(number(properties["Size"]))
		if exists {
			if properties["AvailabilityZone"] != old["AvailabilityZone"] || properties["SnapshotId"] != old["SnapshotId"] || size < int(number(old["Size"])) {
				return fmt.Errorf("the volume would be replaced")
			}
			return s.volumeOf(id).grow(size)
		}
		snapshot, _ := properties["SnapshotId"].(string)
		s.set(id, "", s.newVolume(properties["AvailabilityZone"].(string), size, snapshot).id)
	case "AWS::SecretsManager::Secret":
		if !exists {
			answer := s.Cloud.call("secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": s.name + "-" + id})
			s.set(id, "", answer["ARN"])
		}
	case "AWS::Logs::LogGroup":
		if !exists {
			name := s.name + "-" + id
			s.Cloud.call("logs", "Logs_20140328.CreateLogGroup", map[string]any{"logGroupName": name})
			s.set(id, "", name)
			s.set(id, "Arn", arn("logs", "log-group:"+name+":*"))
		}
	case "AWS::CloudFormation::WaitConditionHandle":
		s.set(id, "", fmt.Sprintf("%s/wait/%s/%s?Expires=43200&Signature=abc%%2B", endpoint, s.name, id))
	case "AWS::CloudFormation::WaitCondition":
		if exists {
			return fmt.Errorf("a WaitCondition cannot be updated")
		}
	case "AWS::EC2::LaunchTemplate":
		s.mu.Lock()
		s.versions[id] = append(s.versions[id], properties["LaunchTemplateData"])
		s.attributes[id]["LatestVersionNumber"] = fmt.Sprint(len(s.versions[id]))
		s.mu.Unlock()
	case "AWS::SSM::Parameter":
		if exists && properties["Name"] == old["Name"] {
			return fmt.Errorf("the value of a parameter changed under the same name: a node of the last release would load it")
		} else if exists {
			s.mu.Lock()
			s.replaced = append(s.replaced, fmt.Sprint(old["Name"]))
			s.mu.Unlock()
		}
		s.Cloud.call("ssm", "AmazonSSM.PutParameter", map[string]any{"Name": properties["Name"], "Type": properties["Type"], "Tier": properties["Tier"],
			"Value": properties["Value"], "Overwrite": true})
		s.set(id, "", properties["Name"])
	case "AWS::S3::Bucket":
		if !exists {
			name := strings.ToLower(s.name + "-" + id)
			s.set(id, "", name)
			s.set(id, "Arn", "arn:aws:s3:::"+name)
		}
	case "AWS::AutoScaling::AutoScalingGroup":
		return s.changeGroup(d, id, properties, old, exists)
	case "AWS::AutoScaling::WarmPool":
		return s.putWarmPool(properties)
	}
	if strings.HasPrefix(kind, "Custom::") {
		event := Event{RequestType: "Create", ResourceProperties: properties}
		if exists {
			event.RequestType, event.OldResourceProperties = "Update", old
		}
		answer := s.Invoke(id, event)
		if answer.Status != "SUCCESS" {
			return fmt.Errorf("%s", answer.Reason)
		}
		s.set(id, physical, answer.PhysicalResourceId)
		for key, value := range answer.Data {
			s.set(id, key, value)
		}
	}
	return nil
}

// Update changes parameters of the stack, or a fault of any resource rolls it back: then the error tells the first cause.
func (s *Stack) Update(changes map[string]any) error {
	return s.UpdateTemplate(s.template(), changes)
}

// UpdateTemplate is Update with another template.
func (s *Stack) UpdateTemplate(template cfn.Template, changes map[string]any) error {
	s.mu.Lock()
	before := s.deployment
	s.mu.Unlock()
	values := maps.Clone(before.Values)
	maps.Copy(values, changes)
	s.setStatus("UPDATE_IN_PROGRESS")
	touched, err := s.apply(template, values, nil)
	if err == nil {
		s.setStatus("UPDATE_COMPLETE")
		return nil
	}
	s.setStatus("UPDATE_ROLLBACK_IN_PROGRESS")
	if _, undo := s.apply(before.Template, before.Values, touched); undo != nil {
		s.setStatus("UPDATE_ROLLBACK_FAILED")
		return errors.Join(err, fmt.Errorf("rollback: %w", undo))
	}
	s.setStatus("UPDATE_ROLLBACK_COMPLETE")
	return err
}

// existing resources, with their types.
func (s *Stack) existing() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := map[string]string{}
	for id := range s.applied {
		kinds[id] = s.kinds[id]
	}
	return kinds
}

func (s *Stack) template() cfn.Template {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deployment.Template
}

func (s *Stack) setStatus(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// Status of the stack.
func (s *Stack) Status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
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
	s.attributes[id][attribute] = value
}

// complain notes what the lab cannot make sense of; it fails the scenario.
func (s *Stack) complain(format string, arguments ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, arguments...))
}

// Fault is asked before every call of the stack's nodes and functions: a code other than 0 answers it. It may take its time.
func (s *Stack) Fault(fault func(who, action string) (code int, body string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

func (s *Stack) faulting() func(who, action string) (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// Serve replaces the download of the installer.
func (s *Stack) Serve(serve func(w http.ResponseWriter, installer []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve = serve
}

func (s *Stack) serving() func(w http.ResponseWriter, installer []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serve
}

// now in the lab's time, which deadlines are measured in.
func (s *Stack) now() time.Time { return s.Cloud.clock.Now() }

// Outage makes a download server answer every node of the stack with an HTTP status; 0 ends it.
func (s *Stack) Outage(host string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outages == nil {
		s.outages = map[string]int{}
	}
	s.outages[host] = code
}

func (s *Stack) outage(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outages[host]
}

func (s *Stack) count(who, action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[who+" "+action]++
}

// Calls that a node (by the name of its group) made to an action; "" stands for all.
func (s *Stack) Calls(who, action string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for key, count := range s.calls {
		w, a, _ := strings.Cut(key, " ")
		if (who == "" || w == who) && (action == "" || a == action) {
			total += count
		}
	}
	return total
}

func (s *Stack) takeSignal(w http.ResponseWriter, r *http.Request, handle string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expired {
		http.Error(w, "Request has expired", http.StatusForbidden)
		return
	}
	var signal Signal
	if r.Method != http.MethodPut || r.Header.Get("Content-Type") != "" || json.Unmarshal(body, &signal) != nil {
		http.Error(w, "not a signal: "+string(body), http.StatusBadRequest)
		return
	}
	signal.At = time.Now()
	s.signals[handle] = append(s.signals[handle], signal)
}

// Expire makes the addresses of wait conditions older than 12 hours.
func (s *Stack) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expired = true
}

// answer does what moto lacks, or does not do by AWS's rules; it tells whether it answered.
func (s *Stack) answer(w http.ResponseWriter, r *http.Request, request request, body []byte) bool {
	form := request.form
	accept := func(result string) {
		fmt.Fprintf(w, "<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>", request.action, result)
	}
	if request.service == "autoscaling" {
		return s.answerAutoScaling(w, request.action, form)
	}
	instance := form.Get("InstanceId")
	switch request.action {
	case "AttachNetworkInterface":
		s.attachInterface(w, r, body, form.Get("NetworkInterfaceId"), s.machineById(instance))
	case "AttachVolume":
		s.attachVolume(w, r, body, form.Get("VolumeId"), s.machineById(instance))
	case "PutMetricData":
		data := cfn.List(request.input["MetricData"])
		for d := 1; form.Has(fmt.Sprintf("MetricData.member.%d.MetricName", d)); d++ {
			datum := fmt.Sprintf("MetricData.member.%d.", d)
			var dimensions []any
			for i := 1; form.Has(fmt.Sprintf("%sDimensions.member.%d.Name", datum, i)); i++ {
				dimension := fmt.Sprintf("%sDimensions.member.%d.", datum, i)
				dimensions = append(dimensions, map[string]any{"Name": form.Get(dimension + "Name"), "Value": form.Get(dimension + "Value")})
			}
			data = append(data, map[string]any{"MetricName": form.Get(datum + "MetricName"), "Value": form.Get(datum + "Value"), "Dimensions": dimensions})
		}
		s.mu.Lock()
		for _, datum := range data {
			s.metrics[fmt.Sprint(cfn.At(datum, "MetricName"))] = append(s.metrics[fmt.Sprint(cfn.At(datum, "MetricName"))], datum)
		}
		s.mu.Unlock()
		if request.input["MetricData"] == nil {
			accept("")
			return true
		}
		w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
		w.Header().Set("Content-Type", "application/cbor")
		w.Write([]byte{0xa0})
	case "SignalResource":
		id := form.Get("LogicalResourceId")
		s.mu.Lock()
		rolling, status := s.rolling[id], s.status
		if rolling {
			s.updates[id] = append(s.updates[id], Signal{Status: form.Get("Status"), UniqueId: form.Get("UniqueId"), At: time.Now()})
		}
		s.mu.Unlock()
		if !rolling {
			refuse(w, http.StatusBadRequest, "ValidationError", fmt.Sprintf("Resource %s waits for no signal, stack is in %s state", id, status))
			return true
		}
		accept("")
	case "UpdateSecretVersionStage":
		s.moveCurrent(w, request)
	case "GetEbsDefaultKmsKeyId": // moto does not know it
		io.WriteString(w, `<GetEbsDefaultKmsKeyIdResponse><kmsKeyId>alias/aws/ebs</kmsKeyId></GetEbsDefaultKmsKeyIdResponse>`)
	case "GetServiceQuota": // moto knows the quotas of VPC alone
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		io.WriteString(w, `{"Quota":{"QuotaCode":"L-1216C47A","Value":1152}}`)
	case "DescribeStacks":
		accept("<Stacks><member><StackName>" + s.name + "</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>" + s.Status() + "</StackStatus></member></Stacks>")
	default:
		return false
	}
	return true
}

// moveCurrent makes a version of a secret the current one if RemoveFromVersionId still is (Secrets Manager API Reference,
// UpdateSecretVersionStage). moto moves the label, and goes on to answer with the version that was written last: so the content is
// written again.
func (s *Stack) moveCurrent(w http.ResponseWriter, r request) {
	s.Cloud.labels.Lock()
	defer s.Cloud.labels.Unlock()
	id := r.text("SecretId")
	read := func(input map[string]any) map[string]any {
		input["SecretId"] = id
		return s.Cloud.call("secretsmanager", "secretsmanager.GetSecretValue", input)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if current := fmt.Sprint(read(map[string]any{})["VersionId"]); r.text("VersionStage") != "AWSCURRENT" || current != r.text("RemoveFromVersionId") {
		w.WriteHeader(http.StatusBadRequest)
		must(json.NewEncoder(w).Encode(map[string]string{"__type": "InvalidParameterException",
			"Message": "Staging label AWSCURRENT is currently attached to version " + current}))
		return
	}
	content := read(map[string]any{"VersionId": r.text("MoveToVersionId")})["SecretString"]
	s.Cloud.call("secretsmanager", "secretsmanager.PutSecretValue", map[string]any{"SecretId": id, "SecretString": content})
	io.WriteString(w, "{}")
}

// Destroy ends all machines.
func (s *Stack) Destroy() {
	s.mu.Lock()
	select {
	case <-s.done: // a scenario destroyed it before its end
		s.mu.Unlock()
		return
	default:
		close(s.done)
	}
	all := slices.Clone(s.all)
	volumes := maps.Clone(s.volumes)
	interfaces := maps.Clone(s.enis)
	s.machines = map[string][]*Machine{}
	s.mu.Unlock()
	for _, m := range all {
		m.Terminate(nil)
		os.RemoveAll(m.dir)
	}
	for id := range interfaces { // so that their addresses are free
		_, err := s.Cloud.ask("ec2", "application/x-www-form-urlencoded", "", []byte("Action=DeleteNetworkInterface&Version=2016-11-15&NetworkInterfaceId="+id))
		must(err)
	}
	for _, v := range volumes {
		v.unplug()
		os.Remove(v.file)
	}
	must(vpc.RemoveStack(s.name))
}

// Signals that the wait condition of a handle got.
func (s *Stack) Signals(handle string) []Signal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.signals[handle])
}

// Secret as it is now.
func (s *Stack) Secret() map[string]any {
	secret, err := s.readSecret()
	must(err)
	return secret
}

func (s *Stack) readSecret() (map[string]any, error) {
	content, _ := json.Marshal(map[string]any{"SecretId": s.attribute("OpenViduSharedInfo", "")})
	answer, err := s.Cloud.ask("secretsmanager", "application/x-amz-json-1.1", "secretsmanager.GetSecretValue", content)
	if err != nil {
		return nil, err
	}
	var value, secret map[string]any
	if err = json.Unmarshal([]byte(answer), &value); err == nil {
		err = json.Unmarshal([]byte(fmt.Sprint(value["SecretString"])), &secret)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, value := range secret {
		if text, _ := value.(string); confidential.MatchString(key) && len(text) > 5 {
			s.secrets[text] = true
		}
	}
	return secret, err
}

// SetSecret is an edit by hand.
func (s *Stack) SetSecret(changes map[string]any) {
	secret := s.Secret()
	maps.Copy(secret, changes)
	content, _ := json.Marshal(secret)
	s.Cloud.call("secretsmanager", "secretsmanager.PutSecretValue", map[string]any{
		"SecretId": s.attribute("OpenViduSharedInfo", ""), "SecretString": string(content)})
	s.Secret()
}

func number(value any) float64 {
	if value == nil {
		return 0
	}
	n, err := strconv.ParseFloat(fmt.Sprint(value), 64)
	must(err)
	return n
}

// newInterface has the wanted address; nil stands for any.
func (s *Stack) newInterface(subnet string, wanted any) *eni {
	ip, ok := wanted.(string)
	if !ok {
		ip = s.Cloud.address(subnet)
	}
	answer := s.Cloud.query("ec2", "Action", "CreateNetworkInterface", "SubnetId", subnet, "PrivateIpAddress", ip)
	e := &eni{id: field(answer, "networkInterfaceId"), ip: field(answer, "privateIpAddress"), mac: field(answer, "macAddress")}
	s.mu.Lock()
	s.enis[e.id] = e
	s.mu.Unlock()
	return e
}

// newVolume is blank, or holds what the snapshot does.
func (s *Stack) newVolume(zone string, gibibytes int, snapshot string) *volume {
	answer := s.Cloud.query("ec2", "Action", "CreateVolume", "AvailabilityZone", zone, "Size", fmt.Sprint(gibibytes))
	v := &volume{id: field(answer, "volumeId")}
	v.file = filepath.Join(s.Cloud.Dir, v.id)
	if snapshot == "" {
		must(os.WriteFile(v.file, nil, 0o600))
	} else {
		s.Cloud.mu.Lock()
		content := s.Cloud.snapshots[snapshot]
		s.Cloud.mu.Unlock()
		copyFile(content, v.file)
	}
	must(os.Truncate(v.file, int64(gibibytes)<<30))
	s.mu.Lock()
	s.volumes[v.id] = v
	s.mu.Unlock()
	return v
}

// Snapshot of a slot's volume, as Data Lifecycle Manager takes it: with the volume's tags.
func (s *Stack) Snapshot(slot int) (id string) {
	v := s.volume(slot)
	query := []string{"Action", "CreateSnapshot", "VolumeId", v.id, "TagSpecification.1.ResourceType", "snapshot"}
	s.mu.Lock()
	for resource, properties := range s.applied {
		if s.attributes[resource][""] == v.id {
			for i, tag := range cfn.List(properties["Tags"]) {
				prefix := fmt.Sprintf("TagSpecification.1.Tag.%d.", i+1)
				query = append(query, prefix+"Key", cfn.At(tag, "Key").(string), prefix+"Value", cfn.At(tag, "Value").(string))
			}
		}
	}
	s.mu.Unlock()
	id = field(s.Cloud.query("ec2", query...), "snapshotId")
	file := filepath.Join(s.Cloud.Dir, id)
	copyFile(v.file, file)
	s.Cloud.mu.Lock()
	s.Cloud.snapshots[id] = file
	s.Cloud.mu.Unlock()
	return id
}

func copyFile(from, to string) {
	_, err := run("cp", "--sparse=always", from, to)
	must(err)
}

// volumeOf a resource.
func (s *Stack) volumeOf(id string) *volume {
	volume := s.attribute(id, "").(string)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes[volume]
}

// attachInterface refuses a busy one, as EC2 does.
func (s *Stack) attachInterface(w http.ResponseWriter, r *http.Request, body []byte, id string, m *Machine) {
	s.mu.Lock()
	e := s.enis[id]
	busy := e == nil || e.holder != nil || m == nil
	if !busy {
		e.holder = m
	}
	s.mu.Unlock()
	if busy {
		refuse(w, http.StatusBadRequest, "InvalidParameterValue", "Interface: "+id+" in use.")
		return
	}
	if !s.Cloud.forward(w, r, body) {
		s.mu.Lock()
		e.holder = nil
		s.mu.Unlock()
		return
	}
	go func() {
		if err := m.plugInterface(e); err != nil && !m.gone() {
			s.complain("%s: %s", id, err)
		}
	}()
}

func (s *Stack) attachVolume(w http.ResponseWriter, r *http.Request, body []byte, id string, m *Machine) {
	s.mu.Lock()
	v := s.volumes[id]
	busy := v == nil || v.holder != nil || m == nil
	if !busy {
		v.holder = m
	}
	s.mu.Unlock()
	if busy {
		refuse(w, http.StatusBadRequest, "VolumeInUse", id+" is already attached to an instance")
		return
	}
	if !s.Cloud.forward(w, r, body) {
		s.mu.Lock()
		v.holder = nil
		s.mu.Unlock()
		return
	}
	go func() {
		if err := m.plugVolume(v); err != nil && !m.gone() {
			s.complain("%s: %s", id, err)
		}
	}()
}
