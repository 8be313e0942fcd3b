package lab

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// physical stands for a custom resource's PhysicalResourceId among its attributes.
const physical = "PhysicalResourceId"

// Event is what CloudFormation asks of a custom resource's function. What is empty gets what CloudFormation would send:
// the properties that the stack last had, the physical id of the resource that exists, a request id of its own.
type Event struct {
	RequestType           string
	RequestId             string
	PhysicalResourceId    string
	ResourceProperties    map[string]any
	OldResourceProperties map[string]any
}

// Answer is what the function told CloudFormation, how often, and what it printed.
type Answer struct {
	Status, Reason, PhysicalResourceId string
	Data                               map[string]any
	Answers                            int
	Log                                string
}

// worker is a process of Node.js with the AWS SDK loaded: as in Lambda, one invocation after another, each of any function.
type worker struct {
	input  io.WriteCloser
	output *bufio.Reader
}

func newWorker() *worker {
	command := exec.Command("node", "standins/function")
	command.Env = append(os.Environ(), "NODE_PATH="+modules)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	must(err)
	output, err := command.StdoutPipe()
	must(err)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(command.Start())
	return &worker{input, bufio.NewReader(output)}
}

// Invoke runs the function of a custom resource with an event: its real code, on Node.js, with the real SDK, in its role. It
// changes nothing in the stack but what the function itself does.
func (s *Stack) Invoke(id string, event Event) Answer {
	s.mu.Lock()
	resource := s.deployment.Resources[id]
	function := cfn.At(resource, "Properties", "ServiceToken", "Fn::GetAtt").([]any)[0].(string)
	if event.ResourceProperties == nil {
		event.ResourceProperties = s.applied[id]
	}
	if event.PhysicalResourceId == "" && event.RequestType != "Create" {
		event.PhysicalResourceId, _ = s.attributes[id][physical].(string)
	}
	s.mu.Unlock()
	if event.RequestId == "" {
		event.RequestId = fmt.Sprintf("00000000-0000-0000-0000-%012d", serial.Add(1))
	}
	sent := map[string]any{"RequestType": event.RequestType, "RequestId": event.RequestId, "StackId": s.id,
		"ResourceType": cfn.At(resource, "Type"), "LogicalResourceId": id, "ResourceProperties": stringly(event.ResourceProperties)}
	if event.OldResourceProperties != nil {
		sent["OldResourceProperties"] = stringly(event.OldResourceProperties)
	}
	if event.PhysicalResourceId != "" {
		sent["PhysicalResourceId"] = event.PhysicalResourceId
	}
	answers, log, err := s.run(function, sent)
	if len(answers) == 0 {
		reason := "no answer: " + log
		if err != nil && log == "" {
			reason = err.Error()
		}
		return Answer{Status: "FAILED", Reason: reason, Log: log}
	}
	var answer Answer
	must(json.Unmarshal([]byte(answers[0]), &answer))
	answer.Answers, answer.Log = len(answers), log
	return answer
}

// run runs a function of the stack with an event, in its role: its real code, on Node.js, with the real SDK. It gives what the
// function told CloudFormation, if it did, and what it printed; an error when it threw one, or its process ended.
func (s *Stack) run(function string, event any) (answers []string, log string, err error) {
	s.mu.Lock()
	role := cfn.At(s.deployment.Resources[function], "Properties", "Role", "Fn::GetAtt").([]any)[0].(string)
	d := s.deployment
	s.mu.Unlock()
	number := serial.Add(1)
	code := d.Resolve(cfn.At(d.Resources[function], "Properties", "Code", "ZipFile")).(string)
	dir := filepath.Join(s.Cloud.Dir, "functions")
	must(os.MkdirAll(dir, 0o700))
	file := filepath.Join(dir, fmt.Sprint("index-", number, ".js"))
	must(os.WriteFile(file, []byte(code), 0o600))
	key := fmt.Sprint("FUNCTION", number)
	s.Cloud.mu.Lock()
	s.Cloud.functions[key] = principal{stack: s, name: function, role: role}
	s.Cloud.mu.Unlock()
	environment := map[string]any{"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": region, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "x"}
	variables, _ := d.Resolve(cfn.At(d.Resources[function], "Properties", "Environment", "Variables")).(map[string]any)
	maps.Copy(environment, variables)
	line, _ := json.Marshal(map[string]any{"file": file, "event": event, "env": environment})

	w := <-s.Cloud.workers
	if w == nil {
		w = newWorker()
	}
	_, err = fmt.Fprintf(w.input, "%s\n", line)
	var text []byte
	if err == nil {
		text, err = w.output.ReadBytes('\n')
	}
	if err != nil {
		s.Cloud.workers <- nil
		return nil, "", fmt.Errorf("the function's process ended: %w", err)
	}
	s.Cloud.workers <- w
	var result struct {
		Answers     []string
		Log, Thrown string
	}
	must(json.Unmarshal(text, &result))
	s.mu.Lock()
	s.words = append(s.words, result.Log)
	s.mu.Unlock()
	if result.Thrown != "" {
		err = fmt.Errorf("the function failed: %s", result.Thrown)
	}
	return result.Answers, result.Log, err
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
	case float64, bool, int:
		return fmt.Sprint(v)
	}
	return value
}
