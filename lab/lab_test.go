package lab

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	vpcnet "github.com/openvidu-ha/openvidu-ha/lab/internal/network"
	"github.com/openvidu-ha/openvidu-ha/lab/internal/nodejs"
)

var (
	templateFile   = flag.String("template", "../cdk.out/OpenViduHA.template.json", "the synthesized template to boot")
	parametersFile = flag.String("parameters", "parameters.json", "values for its parameters")
	patience       = flag.Duration("patience", 5*time.Minute, "how long a scenario waits for a state: generous, for machines that are busy")
	prepareOnly    = flag.Bool("prepare", false, "only fetch what the lab needs from registries")

	modules, bin, metadataMock, tool string // Node.js packages; built programs, the metadata service and what runs inside of nodes among them
	tree, livekitServer              string // in the cache: what nodes boot, and LiveKit

	cloud      *Cloud
	source     cfn.Template
	parameters map[string]any
	subnets    []any                 // public
	private    []any                 // behind NAT
	network    = map[string]string{} // of a subnet: 10.99.16 is 10.99.16.0/20
	imageId    string

	table sync.Mutex
	rows  = map[string]*row{}
)

// row of the table: a scenario, or several runs of it.
type row struct {
	runs, failed, calls int
	seconds             float64
	figures             string
}

// sidesteps is how many scenarios run side by side: they mostly wait.
const sidesteps = "4"

// TestMain runs the tests in namespaces of their own: when they end, however they end, networks, mounts, processes and loop
// devices end with them.
func TestMain(m *testing.M) {
	flag.Parse()
	here, err := os.Getwd()
	must(err)
	modules, bin = filepath.Join(here, "node_modules"), filepath.Join(here, "bin")
	metadataMock, tool = filepath.Join(bin, "ec2-metadata-mock"), filepath.Join(bin, "tool")
	cache := os.Getenv("OPENVIDU_LAB_CACHE")
	if cache == "" {
		cache = "/var/cache/openvidu-lab"
	}
	recipe, err := os.ReadFile("node/tree")
	must(err)
	tree = filepath.Join(cache, fmt.Sprintf("tree-%x", sha256.Sum256(recipe))[:17])
	version, err := run("go", "-C", "calls", "list", "-m", "-f", "{{.Version}}", "github.com/livekit/livekit-server")
	must(err)
	livekitServer = filepath.Join(cache, "livekit-server-"+strings.TrimSpace(version))
	dir := os.Getenv("OPENVIDU_LAB")
	if dir == "" {
		os.Exit(outside())
	}
	_, err = run("mount", "-t", "tmpfs", "-o", "size=16g", "lab", dir)
	must(err)
	content, err := os.ReadFile(*templateFile)
	must(err)
	must(json.Unmarshal(content, &source))
	content, err = os.ReadFile(*parametersFile)
	must(err)
	must(json.Unmarshal(content, &parameters))
	cloud = NewCloud(dir)
	source = cloud.newKey(source)
	vpc, err = vpcnet.New(dir, netip.MustParsePrefix("10.99.0.0/16"))
	must(err)
	for _, name := range downloadHosts {
		vpc.DNS.Set("", name, netip.MustParseAddr(address))
	}
	stun, _, err := net.SplitHostPort(vpc.STUN())
	must(err)
	vpc.DNS.Set("", "stun.lab.test", netip.MustParseAddr(stun))
	newNetwork()
	explicit := false
	flag.Visit(func(f *flag.Flag) { explicit = explicit || f.Name == "test.parallel" })
	if !explicit {
		must(flag.Set("test.parallel", sidesteps))
	}
	start := time.Now()
	code := m.Run()
	printTable(time.Since(start))
	os.Exit(code)
}

// outside prepares, starts the lab in its namespaces, and waits for its end.
func outside() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the lab needs root: it makes network namespaces, loop devices and mounts")
		return 1
	}
	prepare()
	if *prepareOnly {
		return 0
	}
	dir, err := os.MkdirTemp("", "openvidu-lab")
	must(err)
	defer os.RemoveAll(dir)
	defer func() {
		for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
			removeCgroups(filepath.Join(root, cgroupPrefix, filepath.Base(dir)))
		}
	}()
	command := exec.Command("unshare", append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"}, os.Args...)...)
	command.Env = append(os.Environ(), "OPENVIDU_LAB="+dir)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	must(command.Start())
	go func() {
		<-interrupts
		command.Process.Kill()
	}()
	if err := command.Wait(); err != nil {
		return 1
	}
	return 0
}

// What the lab runs, by the package of Debian or of pip that brings it.
var (
	debianTools = map[string]string{"node": "nodejs", "npm": "npm", "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "losetup": "mount", "sysctl": "procps",
		"mkfs.xfs": "xfsprogs", "xfs_io": "xfsprogs", "mkfs.ext4": "e2fsprogs", "jq": "jq", "curl": "curl", "python3": "python3", "mmdebstrap": "mmdebstrap",
		"dpkg-scanpackages": "dpkg-dev", "haproxy": "haproxy", "nft": "nftables", "gpg": "gpg", "gpgconf": "gpgconf"}
	pipTools = map[string]string{"moto_server": "'moto[server]'", "aws": "awscli"}
)

// missing names all tools that are not there, and the command that installs them.
func missing(look func(string) (string, error)) string {
	var tools, commands []string
	for _, from := range []struct {
		command  string
		packages map[string]string
	}{{"apt-get install -y", debianTools}, {"pip install", pipTools}} {
		var packages []string
		for tool, name := range from.packages {
			if _, err := look(tool); err != nil {
				tools, packages = append(tools, tool), append(packages, name)
			}
		}
		if len(packages) > 0 {
			slices.Sort(packages)
			commands = append(commands, from.command+" "+strings.Join(slices.Compact(packages), " "))
		}
	}
	if len(tools) == 0 {
		return ""
	}
	slices.Sort(tools)
	return fmt.Sprintf("the lab needs %s: %s (docs/lab.md)", strings.Join(tools, ", "), strings.Join(commands, " && "))
}

// prepare brings what the lab cannot fetch from inside its own network.
func prepare() {
	if words := missing(exec.LookPath); words != "" {
		fmt.Fprintln(os.Stderr, words)
		os.Exit(1)
	}
	_, err := run("go", "build", "-o", metadataMock, "github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock")
	must(err)
	must(os.Setenv("CGO_ENABLED", "0")) // what runs in nodes and containers finds no C library there
	_, err = run("go", "build", "-ldflags", "-s -w", "-o", tool, "./tool")
	must(err)
	must(os.MkdirAll(filepath.Dir(tree), 0o755))
	if _, err := os.Stat(tree); err != nil {
		fmt.Fprintln(os.Stderr, "building the nodes' operating system in", tree)
		_, err := run("flock", filepath.Dir(tree), "sh", "-c", "[ -d '"+tree+"' ] || node/tree '"+tree+"'")
		must(err)
	}
	_, err = run("go", "-C", "calls", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin+"/", "./call", "./probe", "./rtmp")
	must(err)
	if _, err := os.Stat(livekitServer); err != nil {
		fmt.Fprintln(os.Stderr, "building", livekitServer)
		_, err := run("go", "-C", "calls", "build", "-trimpath", "-ldflags", "-s -w", "-o", livekitServer+".new", "github.com/livekit/livekit-server/cmd/server")
		must(err)
		must(os.Rename(livekitServer+".new", livekitServer))
	}
	must(nodejs.Install("calls/webrtc"))
	must(nodejs.Install("."))
}

// newNetwork makes the VPC as a user has it: a public and a private subnet in each of four zones, whose gateways are this
// machine, and a certificate for the domain.
func newNetwork() {
	vpcId := field(cloud.query("ec2", "Action", "CreateVpc", "CidrBlock", "10.99.0.0/16"), "vpcId")
	internet := field(cloud.query("ec2", "Action", "CreateInternetGateway"), "internetGatewayId")
	cloud.query("ec2", "Action", "AttachInternetGateway", "InternetGatewayId", internet, "VpcId", vpcId)
	routes := field(cloud.query("ec2", "Action", "CreateRouteTable", "VpcId", vpcId), "routeTableId")
	cloud.query("ec2", "Action", "CreateRoute", "RouteTableId", routes, "DestinationCidrBlock", "0.0.0.0/0", "GatewayId", internet)
	made := 0
	newSubnet := func(zone, routes string, egress vpcnet.Egress) string {
		made++
		base := fmt.Sprint("10.99.", 16*made)
		subnet := field(cloud.query("ec2", "Action", "CreateSubnet", "VpcId", vpcId, "CidrBlock", base+".0/20", "AvailabilityZone", region+zone), "subnetId")
		cloud.query("ec2", "Action", "AssociateRouteTable", "RouteTableId", routes, "SubnetId", subnet)
		network[subnet] = base
		must(vpc.AddSubnet(vpcnet.Subnet{ID: subnet, Zone: region + zone, Prefix: netip.MustParsePrefix(base + ".0/20"), Egress: egress, MapPublic: egress == vpcnet.InternetGateway}))
		return subnet
	}
	for _, zone := range []string{"a", "b", "c", "d"} {
		subnet := newSubnet(zone, routes, vpcnet.InternetGateway)
		cloud.query("ec2", "Action", "ModifySubnetAttribute", "SubnetId", subnet, "MapPublicIpOnLaunch.Value", "true")
		subnets = append(subnets, subnet)
	}
	address := field(cloud.query("ec2", "Action", "AllocateAddress", "Domain", "vpc"), "allocationId")
	nat := field(cloud.query("ec2", "Action", "CreateNatGateway", "SubnetId", subnets[0].(string), "AllocationId", address), "natGatewayId")
	routes = field(cloud.query("ec2", "Action", "CreateRouteTable", "VpcId", vpcId), "routeTableId")
	cloud.query("ec2", "Action", "CreateRoute", "RouteTableId", routes, "DestinationCidrBlock", "0.0.0.0/0", "NatGatewayId", nat)
	for _, zone := range []string{"a", "b", "c", "d"} {
		private = append(private, newSubnet(zone, routes, vpcnet.NATGateway))
	}
	parameters["OpenViduVPC"] = vpcId
	parameters["OpenViduCertificateARN"] = importCertificate(parameters["DomainName"].(string))
	imageId = cfn.At(cloud.call("ssm", "AmazonSSM.GetParameter", map[string]any{
		"Name": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"}), "Parameter", "Value").(string)
	parameters["AmiId"] = imageId
	cloud.query("ec2", "Action", "ImportKeyPair", "KeyName", parameters["KeyName"].(string), "PublicKeyMaterial",
		"c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUgwYkJHM0tRVUZ6VFJrUUdKbm1yZ3J6OUhjbTlaQnE5VXFqbTN4Y3h6Y2o=")
}

func importCertificate(domain string) any {
	text, key := certificate(domain)
	arn := cloud.call("acm", "CertificateManager.ImportCertificate", map[string]any{"Certificate": text, "PrivateKey": key})["CertificateArn"]
	certificates.Store(arn, string(text)+string(key))
	return arn
}

// scenario deploys a stack of its own, checks it, and looks at what every scenario must keep. It runs beside others.
func scenario(t *testing.T, options Options, change map[string]any, check func(t testing.TB, s *Stack)) {
	t.Helper()
	t.Parallel()
	check(t, deployed(t, options, change))
}

// deployed is the stack of a scenario, or of its second part; what every scenario must keep is looked at when the test ends.
func deployed(t testing.TB, options Options, change map[string]any) *Stack {
	t.Helper()
	name := t.Name()
	if options.Row != "" {
		name = options.Row
	}
	start := time.Now()
	if options.Distribution == "" {
		options.Distribution = AmazonLinux
	}
	if options.Scale == 0 {
		options.Scale = 20
	}
	values := map[string]any{"OpenViduMasterNodeSubnets": subnets, "OpenViduMediaNodeSubnets": subnets[:3]}
	for _, more := range []map[string]any{parameters, change} {
		for key, value := range more {
			values[key] = value
		}
	}
	template := source
	if options.Template != nil {
		template = options.Template(source)
	}
	stack, err := Deploy(cloud, template, values, options)
	t.Cleanup(func() {
		afterwards(t, stack)
		stack.Destroy()
		if t.Failed() || testing.Verbose() {
			t.Log(stack.story())
		}
		note(name, t.Failed(), time.Since(start).Seconds(), stack)
	})
	if err != nil {
		t.Fatal(err)
	}
	return stack
}

// afterwards checks what every scenario must keep.
func afterwards(t testing.TB, s *Stack) {
	checkSecrecy(t, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, problem := range s.problems {
		t.Error("the lab: ", problem)
	}
	for _, cut := range s.cuts {
		t.Error("CUT CALLS: ", cut)
	}
	for _, refused := range s.refused {
		if !slices.ContainsFunc(s.Options.Refused, func(expected string) bool { return strings.Contains(refused, expected) }) {
			t.Error("no role allows: ", refused)
		}
	}
}

// story of a stack, for whoever looks for the reason of a failure.
func (s *Stack) story() string {
	var text strings.Builder
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(&text, "stack", s.status, "\ncalls", s.calls, "\nsignals", s.signals, "\nupdates", s.updates)
	for _, m := range s.all {
		fmt.Fprintf(&text, "---- %s %s\n%s\n", m.Group, m.Id, m.last)
	}
	for _, words := range s.words {
		fmt.Fprintln(&text, words)
	}
	return text.String()
}

func note(name string, failed bool, seconds float64, s *Stack) {
	calls := s.Calls("", "")
	table.Lock()
	defer table.Unlock()
	r := rows[name]
	if r == nil {
		r = &row{}
		rows[name] = r
	}
	r.runs++
	if failed {
		r.failed++
	}
	r.seconds = max(r.seconds, seconds)
	r.calls += calls
	r.figures = max(r.figures, s.figures)
}

func printTable(total time.Duration) {
	var names []string
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Printf("\n%-84s %-9s %7s %6s\n", "scenario", "result", "seconds", "calls")
	for _, name := range names {
		r := rows[name]
		result := "ok"
		if r.failed > 0 {
			result = "FAIL"
		}
		if r.runs > 1 {
			result += fmt.Sprintf(" %d/%d", r.runs-r.failed, r.runs)
		}
		fmt.Printf("%-84s %-9s %7.1f %6d  %s\n", name, result, r.seconds, r.calls, r.figures)
	}
	fmt.Printf("%d scenarios in %.0f s\n", len(names), total.Seconds())
}

// confidential are the names of the secret's values that nobody may see.
var confidential = regexp.MustCompile("PASSWORD|SECRET|KEY|LICENSE")

// checkSecrecy looks for every credential that the secret ever held in all that others than root can read on any node, in
// every log, root's too, in what left the nodes, and in what the functions printed.
func checkSecrecy(t testing.TB, s *Stack) {
	if _, err := s.readSecret(); err != nil && s.existing()["OpenViduSharedInfo"] != "" && s.existing()["MasterInfoFill"] != "" {
		t.Error("the secret cannot be read: ", err)
	}
	s.mu.Lock()
	var patterns []string
	for secret := range s.secrets {
		patterns = append(patterns, secret)
	}
	patterns = append(patterns, fmt.Sprint(s.deployment.Values["OpenViduLicense"]))
	machines, words := slices.Clone(s.all), slices.Clone(s.words)
	for _, list := range s.signals {
		for _, signal := range list {
			words = append(words, signal.Reason, signal.Data)
		}
	}
	s.mu.Unlock()
	tells := func(text string) bool {
		return slices.ContainsFunc(patterns, func(secret string) bool { return strings.Contains(text, secret) })
	}
	for _, text := range append(words, logged(s)) {
		if tells(text) {
			t.Errorf("a credential left the nodes: %s", text)
		}
	}
	for _, m := range machines {
		m.last = m.Log()
		if t.Failed() {
			m.last += m.Shell("ps -eo pid,ppid,stat,etimes,args; docker ps -a 2>/dev/null; for c in $(docker ps -aq); do docker logs --tail 4 $c 2>&1; done; journalctl -b --no-pager -o short-monotonic | tail -n 80")
		}
		// /etc/lab is the lab's own.
		upper := filepath.Join(m.dir, "upper")
		err := filepath.WalkDir(upper, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil
			}
			name := strings.TrimPrefix(file, upper)
			if _, err := os.Stat(filepath.Join(upper, "var/lib/openvidu-node/installed")); err != nil && strings.HasPrefix(name, "/var/lib/openvidu-node/tmp/") {
				return nil // a folder of root's alone, while the installer runs
			}
			info, err := entry.Info()
			if err != nil || strings.HasPrefix(name, "/etc/lab/") || info.Size() > 1<<20 {
				return nil
			}
			if strings.HasPrefix(name, "/var/log/") || strings.HasPrefix(name, "/var/lib/") || strings.HasPrefix(name, "/etc/systemd/") || info.Mode()&0o044 != 0 {
				if content, _ := os.ReadFile(file); tells(string(content)) {
					t.Errorf("%s tells credentials in %s", m.Group, name)
				}
			}
			return nil
		})
		must(err)
		// What lies in memory or on the volume is seen from inside.
		if _, err := m.pid(); err == nil {
			if _, err := m.Run("bash", "-c", `umask 077; cat >/etc/lab/secrets <<<"$0"`, strings.Join(patterns, "\n")); err != nil {
				continue // it has gone meanwhile
			}
			// Any other user of the node, what the containers see included; and the journal, whoever may read it.
			found := m.Shell("chmod 600 /etc/lab/secrets; setpriv --reuid 65534 --regid 65534 --clear-groups grep -rIlF -f /dev/stdin /run /tmp /opt/openvidu /etc </etc/lab/secrets 2>/dev/null; " +
				"! journalctl -b --no-pager -o cat | grep -qFf /etc/lab/secrets || echo /the/journal; true")
			if strings.Contains(found, "/") {
				t.Errorf("%s tells credentials in %s", m.Group, found)
			}
		}
	}
}

// logged is all that nodes sent to CloudWatch Logs.
func logged(s *Stack) string {
	var text strings.Builder
	for _, messages := range streams(s) {
		text.WriteString(messages)
	}
	return text.String()
}

// streams of CloudWatch Logs, by name.
func streams(s *Stack) map[string]string {
	all := map[string]string{}
	for id, kind := range s.existing() {
		if kind != "AWS::Logs::LogGroup" {
			continue
		}
		group := s.attribute(id, "")
		answer := cloud.call("logs", "Logs_20140328.DescribeLogStreams", map[string]any{"logGroupName": group})
		for _, stream := range cfn.List(answer["logStreams"]) {
			name := cfn.At(stream, "logStreamName").(string)
			events := cloud.call("logs", "Logs_20140328.GetLogEvents", map[string]any{"logGroupName": group, "logStreamName": name})
			for _, event := range cfn.List(events["events"]) {
				all[name] += cfn.At(event, "message").(string) + "\n"
			}
		}
	}
	return all
}

// eventually waits for a state.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	pause := 20 * time.Millisecond
	for deadline := time.Now().Add(*patience); !condition(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came: %s", what)
		}
		pause = min(pause*5/4, 250*time.Millisecond) // many conditions run commands in nodes
	}
}

// ready waits for the success of the given slots; 0 stands for all Media Nodes.
func ready(t testing.TB, s *Stack, slots ...int) {
	t.Helper()
	eventually(t, fmt.Sprint("slots ready: ", slots), func() bool {
		for _, signal := range append(s.Signals("MasterReady"), s.Signals("MediaReady")...) {
			if signal.Status != "SUCCESS" {
				t.Fatalf("%s", signal.Reason)
			}
		}
		return !slices.ContainsFunc(slots, func(slot int) bool { return !isReady(s, slot) })
	})
}

func isReady(s *Stack, slot int) bool {
	group, wanted := MediaGroup, s.Options.Media
	if slot != 0 {
		group, wanted = Group(slot), 1
	}
	s.mu.Lock()
	machines := slices.Clone(s.machines[group])
	s.mu.Unlock()
	return len(machines) >= wanted && !slices.ContainsFunc(machines, func(m *Machine) bool { return s.readyAt(m).IsZero() })
}

// readyAt is when a machine said that it is ready.
func (s *Stack) readyAt(m *Machine) time.Time {
	for _, signal := range append(s.Signals("MasterReady"), s.Signals("MediaReady")...) {
		if signal.Data == m.Id && signal.Status == "SUCCESS" {
			return signal.At
		}
	}
	return time.Time{}
}

// failure waits for the reason that a node gives.
func failure(t testing.TB, s *Stack, handle string, parts ...string) {
	t.Helper()
	var reason string
	eventually(t, "a failure", func() bool {
		for _, signal := range s.Signals(handle) {
			if signal.Status == "FAILURE" {
				reason = signal.Reason
			}
		}
		return reason != ""
	})
	for _, part := range parts {
		if !strings.Contains(reason, part) {
			t.Errorf("the reason lacks %q: %s", part, reason)
		}
	}
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, want %q", what, got, want)
	}
}

func fixedIp(s *Stack, slot int) string {
	return s.attribute(fmt.Sprint("MasterENI", slot), "PrimaryPrivateIpAddress").(string)
}

func masterIps(s *Stack) string {
	return strings.Join([]string{fixedIp(s, 1), fixedIp(s, 2), fixedIp(s, 3), fixedIp(s, 4)}, ",")
}

// checkMaster looks at a master that says it is ready.
func checkMaster(t testing.TB, s *Stack, slot int) {
	t.Helper()
	secret := s.Secret()
	var others []string
	for other := 1; other <= 4; other++ {
		if other != slot && isReady(s, other) {
			others = append(others, fixedIp(s, other))
		}
	}
	want := strings.Join([]string{"xfs openvidu", "marker", masterIps(s), secret["LIVEKIT_API_SECRET"].(string), "MEET_INITIAL_ADMIN_USER=admin", "log 600",
		"others " + strings.Join(others, " ")}, "\n")
	// The others' answers must come from the fixed IP, by its own interface: the lab drops it on any other.
	got := s.Machine(Group(slot)).Shell(`
echo $(findmnt -no FSTYPE,LABEL /opt/openvidu)
[[ -e /opt/openvidu/.openvidu-complete ]] && echo marker
sed -n 's/^--master-node-private-ip-list=//p' /etc/lab/installer-flags
sed -n 's/^LIVEKIT_API_SECRET=//p' /opt/openvidu/config/cluster/openvidu.env
head -n 1 /opt/openvidu/config/cluster/master_node/meet.env
stat -c 'log %a' /var/log/openvidu-node.log
echo others $(for ip in ` + strings.Join(others, " ") + `; do timeout 10 bash -c "</dev/tcp/$ip/7000" && echo $ip; done)`)
	expect(t, fmt.Sprint("slot ", slot), got, strings.TrimSpace(want))
}
