// Package lab boots a synthesized template on one Linux machine: network namespaces for nodes, loop devices for volumes,
// a moto server behind a front of its own for AWS.
package lab

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	address  = "10.99.0.1" // of the front, in the lab's own network namespace
	endpoint = "http://" + address + ":4566"
	moto     = "http://127.0.0.1:5566"
	region   = "us-east-1" // moto knows four zones there
)

// Signal is what a node told a wait condition or an update.
type Signal struct {
	Status, Reason, UniqueId, Data string
	At                             time.Time
}

// Cloud is AWS, as far as nodes and functions see it.
type Cloud struct {
	Dir string

	mu       sync.Mutex
	machines map[string]*Machine // by source address
	calls    map[string]int      // by "who action"
	signals  map[string][]Signal // by the last part of the wait condition's address
	updates  map[string][]Signal // by logical id of the group
	fault    func(who, action string) (code int, body string)
	releases map[string]bool // hooks that were completed, by instance
	beats    map[string]int  // heartbeats, by instance
	sick     map[string]bool // instances that called themselves unhealthy
	stack    string          // status of the stack
	expired  bool            // the addresses of wait conditions, after 12 hours
	serve    func(w http.ResponseWriter, installer []byte)
	enis     map[string]*eni
	volumes  map[string]*volume
	ca       []byte
}

type eni struct {
	id, subnet, ip, mac string
	holder              *Machine
}

type volume struct {
	id, file, loop string
	holder         *Machine
}

func run(name string, arguments ...string) (string, error) {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, output)
	}
	return string(output), nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// NewCloud starts moto and the front. Everything ends with the process.
func NewCloud(dir string) *Cloud {
	c := &Cloud{Dir: dir, machines: map[string]*Machine{}}
	c.Reset()
	for _, command := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "add", address + "/32", "dev", "lo"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		_, err := run(command[0], command[1:]...)
		must(err)
	}
	server := exec.Command("moto_server", "-H", "127.0.0.1", "-p", "5566")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(server.Start())
	for range 100 {
		if _, err := http.Get(moto + "/moto-api/"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	listener, err := net.Listen("tcp", address+":4566")
	must(err)
	go http.Serve(listener, http.HandlerFunc(c.front))
	secure, err := net.Listen("tcp", address+":443")
	must(err)
	go http.Serve(tls.NewListener(secure, c.certificate()), http.HandlerFunc(c.download))
	return c
}

// Reset forgets calls, signals and faults of the scenario before.
func (c *Cloud) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls, c.signals, c.updates = map[string]int{}, map[string][]Signal{}, map[string][]Signal{}
	c.fault, c.serve, c.stack, c.expired = nil, nil, "CREATE_IN_PROGRESS", false
	c.releases, c.beats, c.sick = map[string]bool{}, map[string]int{}, map[string]bool{}
	c.enis, c.volumes = map[string]*eni{}, map[string]*volume{}
}

// Fault is asked before every call: a code other than 0 answers it.
func (c *Cloud) Fault(fault func(who, action string) (code int, body string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

// Serve replaces the download of the installer.
func (c *Cloud) Serve(serve func(w http.ResponseWriter, installer []byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serve = serve
}

// Calls that a node (by the name of its group) made to an action; "" stands for all.
func (c *Cloud) Calls(who, action string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := 0
	for key, count := range c.calls {
		w, a, _ := strings.Cut(key, " ")
		if (who == "" || w == who) && (action == "" || a == action) {
			total += count
		}
	}
	return total
}

// certificate of OpenVidu's bucket and all else that nodes reach over TLS, by the lab's own authority.
func (c *Cloud) certificate() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames: []string{"s3.eu-west-1.amazonaws.com"}}
	raw, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	must(err)
	c.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
}

var installerPath = regexp.MustCompile(`^/get\.openvidu\.io/pro/ha/[0-9.]+/install_ov_(master|media)_node\.sh$`)

func (c *Cloud) download(w http.ResponseWriter, r *http.Request) {
	c.count(c.who(r), "Download")
	installer, err := os.ReadFile("standins/installer")
	if err != nil || !installerPath.MatchString(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	c.mu.Lock()
	serve := c.serve
	c.mu.Unlock()
	if serve != nil {
		serve(w, installer)
		return
	}
	w.Write(installer)
}

func (c *Cloud) who(r *http.Request) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[host]; m != nil {
		return m.Group
	}
	return "function"
}

func (c *Cloud) count(who, action string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[who+" "+action]++
}

func (c *Cloud) machineById(id string) *Machine {
	for _, m := range c.machines {
		if m.Id == id {
			return m
		}
	}
	return nil
}

// front answers what moto lacks or does not do by EC2's rules, and passes on the rest.
func (c *Cloud) front(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	who := c.who(r)
	if handle, ok := strings.CutPrefix(r.URL.Path, "/wait/"); ok {
		c.count(who, "Signal")
		c.mu.Lock()
		expired := c.expired
		c.mu.Unlock()
		if expired {
			http.Error(w, "Request has expired", http.StatusForbidden)
			return
		}
		var signal Signal
		if r.Method != http.MethodPut || r.Header.Get("Content-Type") != "" || json.Unmarshal(body, &signal) != nil {
			http.Error(w, "not a signal: "+string(body), http.StatusBadRequest)
			return
		}
		signal.At = time.Now()
		c.mu.Lock()
		c.signals[handle] = append(c.signals[handle], signal)
		c.mu.Unlock()
		return
	}
	form, _ := url.ParseQuery(string(body))
	action := form.Get("Action")
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		action = target[strings.LastIndex(target, ".")+1:]
	}
	c.count(who, action)
	c.mu.Lock()
	fault := c.fault
	c.mu.Unlock()
	if fault != nil {
		if code, text := fault(who, action); code != 0 {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(code)
			io.WriteString(w, text)
			return
		}
	}
	refuse := func(code, message string) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors></Response>", code, message)
	}
	accept := func(result string) {
		fmt.Fprintf(w, "<%sResponse><%sResult>%s</%sResult></%sResponse>", action, action, result, action, action)
	}
	instance := form.Get("InstanceId")
	c.mu.Lock()
	defer c.mu.Unlock()
	switch action {
	case "AttachNetworkInterface":
		e := c.enis[form.Get("NetworkInterfaceId")]
		if e.holder != nil {
			refuse("InvalidParameterValue", "Interface: "+e.id+" in use.")
			return
		}
		if !c.forward(w, r, body) {
			return
		}
		e.holder = c.machineById(instance)
		go func(m *Machine) { must(m.plugInterface(e)) }(e.holder)
	case "AttachVolume":
		v := c.volumes[form.Get("VolumeId")]
		if v.holder != nil {
			refuse("VolumeInUse", v.id+" is already attached to an instance")
			return
		}
		if !c.forward(w, r, body) {
			return
		}
		v.holder = c.machineById(instance)
		go func(m *Machine) { must(m.plugVolume(v)) }(v.holder)
	case "CompleteLifecycleAction":
		if c.releases[instance] {
			refuse("ValidationError", "No active Lifecycle Action found with instance ID "+instance)
			return
		}
		c.releases[instance] = true
		accept("")
	case "RecordLifecycleActionHeartbeat":
		c.beats[instance]++
		accept("")
	case "SetInstanceHealth":
		c.sick[instance] = form.Get("HealthStatus") == "Unhealthy"
		accept("")
	case "SignalResource":
		if c.stack != "UPDATE_IN_PROGRESS" {
			refuse("ValidationError", "Stack is in "+c.stack+" state and can not be signaled")
			return
		}
		id := form.Get("LogicalResourceId")
		c.updates[id] = append(c.updates[id], Signal{Status: form.Get("Status"), UniqueId: form.Get("UniqueId"), At: time.Now()})
		accept("")
	case "DescribeStacks":
		accept("<Stacks><member><StackName>openvidu</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>" + c.stack + "</StackStatus></member></Stacks>")
	default:
		c.mu.Unlock()
		c.forward(w, r, body)
		c.mu.Lock()
	}
}

// forward passes a call to moto; it tells whether moto did what it was asked.
func (c *Cloud) forward(w http.ResponseWriter, r *http.Request, body []byte) bool {
	request, _ := http.NewRequest(r.Method, moto+r.URL.RequestURI(), bytes.NewReader(body))
	request.Header = r.Header.Clone()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return false
	}
	defer response.Body.Close()
	for key, list := range response.Header {
		w.Header()[key] = list
	}
	w.WriteHeader(response.StatusCode)
	io.Copy(w, response.Body)
	return response.StatusCode == http.StatusOK
}

// query calls moto as the account's owner would; it gives the answer's XML.
func (c *Cloud) query(service string, parameters ...string) string {
	form := url.Values{"Version": {map[string]string{"ec2": "2016-11-15"}[service]}}
	for i := 0; i+1 < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	request, _ := http.NewRequest(http.MethodPost, moto+"/", strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=OWNER/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	must(err)
	defer response.Body.Close()
	content, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		panic(fmt.Sprint(parameters, ": ", string(content)))
	}
	return string(content)
}

// call is query for services that speak JSON.
func (c *Cloud) call(service, target string, input map[string]any) map[string]any {
	content, _ := json.Marshal(input)
	request, _ := http.NewRequest(http.MethodPost, moto+"/", bytes.NewReader(content))
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", target)
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=OWNER/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	must(err)
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		panic(target + ": " + string(answer))
	}
	var output map[string]any
	json.Unmarshal(answer, &output)
	return output
}

// field is the first value of an element in an answer.
func field(xml, name string) string {
	match := regexp.MustCompile("<" + name + ">([^<]*)</" + name + ">").FindStringSubmatch(xml)
	if match == nil {
		return ""
	}
	return match[1]
}

func (c *Cloud) newInterface(subnet string) *eni {
	answer := c.query("ec2", "Action", "CreateNetworkInterface", "SubnetId", subnet)
	e := &eni{id: field(answer, "networkInterfaceId"), subnet: subnet, ip: field(answer, "privateIpAddress"), mac: field(answer, "macAddress")}
	c.mu.Lock()
	c.enis[e.id] = e
	c.mu.Unlock()
	return e
}

func (c *Cloud) newVolume(zone string, gibibytes int) *volume {
	answer := c.query("ec2", "Action", "CreateVolume", "AvailabilityZone", zone, "Size", fmt.Sprint(gibibytes))
	v := &volume{id: field(answer, "volumeId")}
	v.file = filepath.Join(c.Dir, v.id)
	must(os.WriteFile(v.file, nil, 0o600))
	must(os.Truncate(v.file, int64(gibibytes)<<30))
	c.mu.Lock()
	c.volumes[v.id] = v
	c.mu.Unlock()
	return v
}
