// Package lab boots a synthesized template on one Linux machine: network namespaces for nodes, loop devices for volumes,
// a moto server behind a front of its own for AWS.
//
// A scenario is a test that calls scenario (lab_test.go). It gets a [Stack] of its own and runs beside others: all that it
// changes (faults, signals, calls, volumes) belongs to its stack. It asks for a state with eventually, never sleeps for one.
// What every scenario must keep (no secret told, no call cut, nothing asked of AWS that a role forbids) is checked at its end.
//
//	func TestSomething(t *testing.T) {
//		scenario(t, Options{Masters: 1}, map[string]any{"DiskSize": 60}, func(t *testing.T, s *Stack) {
//			ready(t, s, 1)                                            // slot 1 has told CloudFormation so
//			s.Fault(func(who, action string) (int, string) { … })    // AWS fails
//			err := s.Update(map[string]any{"DomainName": "new.example.com"}) // as CloudFormation updates a stack
//			answer := s.Invoke("MasterInfoFill", Event{RequestType: "Delete"}) // a function alone, with any event
//			s.Machine(Group(1)).Shell("cat /opt/openvidu/…")          // a look inside
//		})
//	}
package lab

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
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
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fxamacker/cbor/v2"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
	"github.com/openvidu-ha/openvidu-ha/lab/internal/iam"
	"github.com/openvidu-ha/openvidu-ha/lab/internal/registry"
)

const (
	address  = "10.99.0.1" // of the front, in the lab's own network namespace
	endpoint = "http://" + address + ":4566"
	moto     = "http://127.0.0.1:5566"
	region   = "us-east-1" // moto knows four zones there
	account  = "123456789012"

	installerHost = "s3.eu-west-1.amazonaws.com"
	agentHost     = "amazoncloudwatch-agent-" + region + ".s3." + region + ".amazonaws.com"
	dockerHost    = "download.docker.com"
	getDockerHost = "get.docker.com"
	composeHost   = "github.com"
	registryHost  = "registry-1.docker.io"
	ubuntuHost    = "archive.ubuntu.com"
	amazonHost    = "amazonlinux.lab.test"
)

// downloadHosts are what nodes reach outside of AWS.
var downloadHosts = []string{installerHost, agentHost, dockerHost, getDockerHost, composeHost, registryHost, ubuntuHost, amazonHost}

// Signal is what a node told a wait condition or an update.
type Signal struct {
	Status, Reason, UniqueId, Data string
	At                             time.Time
}

// Cloud is AWS for all stacks: moto, the front before it, and who is who.
type Cloud struct {
	Dir      string
	Registry *registry.Registry
	clock    *clock

	mu        sync.Mutex
	machines  map[string]*Machine  // by source address
	stacks    map[string]*Stack    // by name
	functions map[string]principal // by access key
	snapshots map[string]string    // files of what they hold, by id
	addresses map[string]int       // given away, by subnet
	labels    sync.Mutex           // of versions of secrets: moved by one at a time
	owner     sync.Mutex           // the owner's calls come one at a time: moto's creations are not made for more
	workers   chan *worker
	decider   *iam.Decider
	managed   sync.Map // policies that AWS manages, by ARN
}

// principal is who calls AWS: a node (by the name of its group) or a function, in a role of its stack.
type principal struct {
	stack   *Stack
	name    string
	role    string
	machine *Machine
}

type eni struct {
	id, ip, mac string
	holder      *Machine
}

type volume struct {
	id, file string
	loop     *os.File
	holder   *Machine
}

func run(name string, arguments ...string) (string, error) {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, output)
	}
	return string(output), nil
}

func mustRun(name string, arguments ...string) {
	_, err := run(name, arguments...)
	must(err)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// daemon starts a process that ends with the lab.
func daemon(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(command.Start())
	go command.Wait()
}

// NewCloud starts moto, the front, and the AWS CLI's server. Everything ends with the process.
func NewCloud(dir string) *Cloud {
	c := &Cloud{Dir: dir, machines: map[string]*Machine{}, stacks: map[string]*Stack{}, functions: map[string]principal{}, snapshots: map[string]string{}, addresses: map[string]int{}, workers: make(chan *worker, 4)}
	for _, command := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "add", address + "/32", "dev", "lo"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		_, err := run(command[0], command[1:]...)
		must(err)
	}
	var err error
	c.clock, err = newClock(dir)
	must(err)
	for range cap(c.workers) {
		c.workers <- nil
	}
	c.decider, err = iam.Start(".")
	must(err)
	server := exec.Command("moto_server", "-H", "127.0.0.1", "-p", "5566")
	server.Env = append(os.Environ(), "MOTO_EC2_LOAD_DEFAULT_AMIS=true", "MOTO_IAM_LOAD_MANAGED_POLICIES=true", "MOTO_ACCOUNT_ID="+account)
	daemon(server)
	if interpreter := pythonOfCli(); interpreter != "" {
		daemon(exec.Command(interpreter, "standins/awsd", filepath.Join(dir, "awsd")))
	}
	for range 300 {
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
	go http.Serve(tls.NewListener(secure, downloads()), http.HandlerFunc(c.download))
	plain, err := net.Listen("tcp", address+":80")
	must(err)
	go http.Serve(plain, http.HandlerFunc(c.download))
	must(c.newLayer())
	must(c.newImages())
	return c
}

// newLayer makes what every node has over its distribution: the lab's own files, its tool under the names of what it replaces, its CA.
func (c *Cloud) newLayer() error {
	layer := filepath.Join(c.Dir, "layer")
	if _, err := run("cp", "-a", "node/layer", layer); err != nil {
		return err
	}
	if _, err := run("cp", tool, "standins/agent", filepath.Join(layer, "usr/lib/lab")); err != nil {
		return err
	}
	for _, directory := range []string{"usr/bin", "usr/local/sbin", "etc/ssl/certs"} {
		if err := os.MkdirAll(filepath.Join(layer, directory), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"usr/bin/sleep", "usr/local/sbin/timeout", "usr/local/sbin/cp", "usr/local/sbin/mv", "usr/local/sbin/umount",
		"usr/local/sbin/mount", "usr/local/sbin/find", "usr/local/sbin/rm"} {
		if err := os.Symlink("/usr/lib/lab/tool", filepath.Join(layer, name)); err != nil {
			return err
		}
	}
	public, err := os.ReadFile(filepath.Join(tree, "base/etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layer, "etc/ssl/certs/ca-certificates.crt"), append(public, trusted()...), 0o644)
}

// newImages fills the registry. Redis and Caddy are Debian's, livekit-server is built from its source; all else is the lab's tool.
func (c *Cloud) newImages() error {
	c.Registry = registry.New()
	layer := func(files []registry.File, err error) v1.Layer {
		must(err)
		l, err := registry.Layer(files...)
		must(err)
		return l
	}
	base := layer([]registry.File{{Path: "/tool", From: tool}}, nil)
	payload := filepath.Join(tree, "payload")
	for _, image := range []struct {
		layers       []v1.Layer
		repositories []string
	}{
		{[]v1.Layer{base}, []string{"openvidu-installer", "openvidu-updater", "minio", "mongo", "openvidu-operator", "egress"}},
		{[]v1.Layer{base, layer([]registry.File{{Path: "/rtmp", From: filepath.Join(bin, "rtmp")}}, nil)}, []string{"ingress"}},
		{[]v1.Layer{base, layer(registry.Program(payload, "/usr/bin/redis-server"))}, []string{"redis"}},
		{[]v1.Layer{base, layer(registry.Program(payload, "/usr/bin/caddy"))}, []string{"openvidu-pro-caddy"}},
		{[]v1.Layer{base, layer([]registry.File{{Path: "/livekit-server", From: livekitServer}}, nil)}, []string{"openvidu-server-pro"}},
	} {
		for _, repository := range image.repositories {
			if err := c.Registry.Add("/tool", "openvidu/"+repository, image.layers...); err != nil {
				return err
			}
		}
	}
	return nil
}

// publishers are those whose keys the scripts know; the lab has not what only they can sign with.
var publishers = regexp.MustCompile(`(?m)^(DOCKER_RPM|DOCKER_APT|AGENT)_KEY=[0-9A-F]{40}$`)

// newKey makes the key that the lab publishes and signs with, and gives a template whose scripts know it in the place of the publishers'.
func (c *Cloud) newKey(source cfn.Template) cfn.Template {
	gpg := func(arguments ...string) string {
		output, err := run("gpg", append([]string{"--homedir", filepath.Join(c.Dir, "gpg"), "--batch", "--yes", "--passphrase", "", "-q"}, arguments...)...)
		must(err)
		return output
	}
	must(os.MkdirAll(filepath.Join(c.Dir, "gpg"), 0o700))
	gpg("--quick-gen-key", "lab", "ed25519", "sign", "never")
	gpg("--armor", "-o", filepath.Join(c.Dir, "key.gpg"), "--export")
	gpg("-o", filepath.Join(c.Dir, "key.sig"), "--detach-sign", filepath.Join(tree, "archive", "amazon-cloudwatch-agent_1.300.deb"))
	defer mustRun("gpgconf", "--homedir", filepath.Join(c.Dir, "gpg"), "--kill", "all") // gpg leaves its agent behind
	fingerprint := regexp.MustCompile(`(?m)^fpr:+([0-9A-F]{40}):`).FindStringSubmatch(gpg("--with-colons", "--list-keys"))[1]
	// A repository of apt's, as Docker's is laid out: Debian wiki, DebianRepository/Format.
	packages, err := os.ReadFile(filepath.Join(tree, "archive", "Packages"))
	must(err)
	for _, codename := range codenames {
		release := filepath.Join(c.Dir, codename)
		must(os.WriteFile(release, fmt.Appendf(nil, "Date: %s\nSuite: %s\nCodename: %s\nArchitectures: amd64\nComponents: stable\nSHA256:\n %x %d stable/binary-amd64/Packages\n",
			time.Now().UTC().Format(time.RFC1123), codename, codename, sha256.Sum256(packages), len(packages)), 0o600))
		gpg("-o", release+".InRelease", "--clear-sign", release)
	}
	changed, err := packed.Rewrite(source, func(script string) string { return publishers.ReplaceAllString(script, "${1}_KEY="+fingerprint) })
	must(err)
	return changed
}

// authority signs all certificates of the lab. What a browser's library takes from a server is no certificate of an authority.
var authority = sync.OnceValues(func() (*x509.Certificate, *ecdsa.PrivateKey) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(err)
	certificate, err := x509.ParseCertificate(raw)
	must(err)
	return certificate, private
})

// trusted is what nodes and clients trust, as PEM.
func trusted() []byte {
	certificate, _ := authority()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// certificate for these names, and its key, as PEM.
func certificate(names ...string) (certificate, key []byte) {
	issuer, signer := authority()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial.Add(1) + 1), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(90 * 24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: names}
	raw, err := x509.CreateCertificate(rand.Reader, template, issuer, &private.PublicKey, signer)
	must(err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// downloads is the TLS configuration of all that nodes reach outside of AWS.
func downloads() *tls.Config {
	text, key := certificate(downloadHosts...)
	pair, err := tls.X509KeyPair(text, key)
	must(err)
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

var (
	installerPath = regexp.MustCompile(`^/get\.openvidu\.io/pro/ha/([0-9.]+)/install_ov_(master|media)_node\.sh$`)
	updatePath    = regexp.MustCompile(`^/get\.openvidu\.io/update/([0-9.]+)/update\.sh$`)
	agentPath     = regexp.MustCompile(`^/ubuntu/(amd64|arm64)/latest/amazon-cloudwatch-agent\.deb$`)
	releasePath   = regexp.MustCompile(`^/linux/ubuntu/dists/(jammy|noble)/InRelease$`)
	composePath   = regexp.MustCompile(`^/docker/compose/releases/download/(v[0-9.]+)/docker-compose-Linux-x86_64$`)
	credential    = regexp.MustCompile(`Credential=([^/]+)/[^/]*/[^/]*/([^/]+)/`)
)

// download is what nodes reach outside of AWS: repositories, installers, Docker Hub.
func (c *Cloud) download(w http.ResponseWriter, r *http.Request) {
	who, _ := c.who(r)
	if who.stack == nil {
		http.NotFound(w, r)
		return
	}
	if outage := who.stack.outage(r.Host); outage != 0 {
		w.WriteHeader(outage)
		return
	}
	archive := func(name string) { http.ServeFile(w, r, filepath.Join(tree, "archive", name)) }
	switch match := []string(nil); r.Host {
	case registryHost:
		c.Registry.ServeHTTP(w, r)
	case agentHost:
		if name := path.Base(r.URL.Path); strings.HasSuffix(name, ".sig") || strings.HasSuffix(name, ".gpg") {
			http.ServeFile(w, r, filepath.Join(c.Dir, "key"+path.Ext(name)))
			return
		}
		if !agentPath.MatchString(r.URL.Path) {
			http.NotFound(w, r)
			return
		}
		archive("amazon-cloudwatch-agent_1.300.deb")
	case amazonHost:
		archive("amazon-cloudwatch-agent_1.300.deb")
	case dockerHost, ubuntuHost:
		if path.Base(r.URL.Path) == "gpg" {
			http.ServeFile(w, r, filepath.Join(c.Dir, "key.gpg"))
			return
		}
		if match = releasePath.FindStringSubmatch(r.URL.Path); match != nil {
			http.ServeFile(w, r, filepath.Join(c.Dir, match[1]+".InRelease"))
			return
		}
		archive(filepath.Base(r.URL.Path))
	case getDockerHost:
		http.ServeFile(w, r, "standins/get-docker")
	case composeHost:
		if match = composePath.FindStringSubmatch(r.URL.Path); match == nil {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, "#!/bin/sh\n[ \"$*\" != --version ] || { echo Docker Compose version %s; exit; }\nexec /usr/lib/lab/docker/docker-compose \"$@\"\n", match[1])
	case installerHost:
		if match = updatePath.FindStringSubmatch(r.URL.Path); match != nil {
			who.stack.count(who.name, "DownloadUpdate")
			_, _ = io.WriteString(w, strings.ReplaceAll(standin("update.sh"), "@RELEASE@", match[1]))
			return
		}
		if match = installerPath.FindStringSubmatch(r.URL.Path); match == nil {
			http.NotFound(w, r)
			return
		}
		installer := []byte(strings.NewReplacer("@RELEASE@", match[1], "@ROLE@", match[2]).Replace(standin("installer")))
		who.stack.count(who.name, "Download")
		if serve := who.stack.serving(); serve != nil {
			serve(w, installer)
			return
		}
		_, _ = w.Write(installer)
	default:
		http.NotFound(w, r)
	}
}

// who calls, by its address (nodes) or its access key (functions), and which service.
func (c *Cloud) who(r *http.Request) (principal, string) {
	key, service := "", ""
	if match := credential.FindStringSubmatch(r.Header.Get("Authorization")); match != nil {
		key, service = match[1], match[2]
	}
	if service == "monitoring" { // signed for by that name, known to IAM by the other
		service = "cloudwatch"
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[host]; m != nil {
		return principal{m.stack, m.Group, m.role, m}, service
	}
	return c.functions[key], service
}

// front answers what moto lacks or does not do by AWS's rules, and passes on the rest.
func (c *Cloud) front(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	who, service := c.who(r)
	if rest, ok := strings.CutPrefix(r.URL.Path, "/wait/"); ok {
		name, handle, _ := strings.Cut(rest, "/")
		c.mu.Lock()
		s := c.stacks[name]
		c.mu.Unlock()
		if s == nil {
			http.Error(w, "no such bucket", http.StatusNotFound)
			return
		}
		s.count(who.name, "Signal")
		if fault := s.faulting(); fault != nil && answerFault(w, fault, who.name, "Signal") {
			return
		}
		s.takeSignal(w, r, handle, body)
		return
	}
	if who.stack == nil {
		http.Error(w, "The security token included in the request is invalid: "+r.RemoteAddr, http.StatusForbidden)
		return
	}
	form, _ := url.ParseQuery(string(body))
	request := request{who: who, service: service, action: form.Get("Action"), form: form, input: map[string]any{}}
	request.from, _, _ = net.SplitHostPort(r.RemoteAddr)
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		request.action = target[strings.LastIndex(target, ".")+1:]
		must(json.Unmarshal(body, &request.input))
	}
	if _, action, ok := strings.Cut(r.URL.Path, "/operation/"); ok { // of the protocol rpc-v2-cbor
		request.action = action
		must(cbor.Unmarshal(body, &request.input))
	}
	if _, ok := r.URL.Query()["location"]; ok && service == "s3" {
		request.action, request.input["Bucket"] = "GetBucketLocation", strings.Trim(r.URL.Path, "/")
	}
	if _, id, ok := strings.Cut(r.URL.Path, "/hostedzone/"); ok && service == "route53" {
		request.action, request.input["Id"] = "GetHostedZone", id
	}
	s := who.stack
	if !strings.HasPrefix(r.UserAgent(), "CWAgent") { // the agent's calls come whenever there is something to tell
		s.count(who.name, request.action)
	}
	if fault := s.faulting(); fault != nil {
		if answerFault(w, fault, who.name, request.action) {
			return
		}
	}
	if resource := s.denied(request); resource != "" {
		message := fmt.Sprintf("%s is not authorized to perform: %s:%s on resource: %s", who.role, service, request.action, resource)
		if request.form.Get("Action") == "" {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(http.StatusBadRequest)
			must(json.NewEncoder(w).Encode(map[string]string{"__type": "AccessDeniedException", "Message": message}))
			return
		}
		code := "AccessDenied"
		if service == "ec2" {
			code = "UnauthorizedOperation"
		}
		refuse(w, http.StatusForbidden, code, message)
		return
	}
	if !s.answer(w, r, request, body) {
		c.forward(w, r, body)
	}
}

// reset is a fault that cuts the connection.
const reset = -1

// answerFault tells whether a fault answered.
func answerFault(w http.ResponseWriter, fault func(who, action string) (int, string), who, action string) bool {
	code, text := fault(who, action)
	switch code {
	case 0:
		return false
	case reset:
		connection, _, err := http.NewResponseController(w).Hijack()
		must(err)
		if tcp, ok := connection.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		connection.Close()
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(code)
		io.WriteString(w, text)
	}
	return true
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Response><Errors><Error><Code>%[1]s</Code><Message>%[2]s</Message></Error></Errors><Error><Code>%[1]s</Code><Message>%[2]s</Message></Error></Response>", code, message)
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

func (c *Cloud) ask(service, contentType, target string, content []byte) (string, error) {
	c.owner.Lock()
	defer c.owner.Unlock()
	request, _ := http.NewRequest(http.MethodPost, moto+"/", bytes.NewReader(content))
	request.Header.Set("Content-Type", contentType)
	if target != "" {
		request.Header.Set("X-Amz-Target", target)
	}
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=OWNER/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s", service, target, answer)
	}
	return string(answer), nil
}

// query calls moto as the account's owner would; it gives the answer's XML.
func (c *Cloud) query(service string, parameters ...string) string {
	form := url.Values{"Version": {map[string]string{"ec2": "2016-11-15"}[service]}}
	for i := 0; i+1 < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	answer, err := c.ask(service, "application/x-www-form-urlencoded", "", []byte(form.Encode()))
	must(err)
	return answer
}

// call is query for services that speak JSON.
func (c *Cloud) call(service, target string, input map[string]any) map[string]any {
	content, _ := json.Marshal(input)
	answer, err := c.ask(service, "application/x-amz-json-1.1", target, content)
	must(err)
	if answer == "" {
		return nil
	}
	var output map[string]any
	must(json.Unmarshal([]byte(answer), &output))
	return output
}

// address of a subnet that nobody had before: moto deals them out by chance, even twice.
func (c *Cloud) address(subnet string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addresses[subnet]++
	third, fourth := 0, c.addresses[subnet]+9
	third, fourth = fourth/250, fourth%250+3
	var base int
	_, err := fmt.Sscanf(network[subnet], "10.99.%d", &base)
	must(err)
	return fmt.Sprintf("10.99.%d.%d", base+third, fourth)
}

// field is the first value of an element in an answer.
func field(xml, name string) string {
	match := regexp.MustCompile("<" + name + ">([^<]*)</" + name + ">").FindStringSubmatch(xml)
	if match == nil {
		return ""
	}
	return match[1]
}
