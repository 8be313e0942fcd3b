package lab

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

var (
	templateFile   = flag.String("template", "../cdk.out/OpenViduHA.template.json", "the synthesized template to boot")
	parametersFile = flag.String("parameters", "parameters.json", "values for its parameters")

	modules, metadataMock string // Node.js packages, and the metadata service's binary

	cloud      *Cloud
	source     cfn.Template
	parameters map[string]any
	subnets    []any
	rows       []string
)

// TestMain runs the tests in namespaces of their own: when they end, networks, mounts and processes end with them.
func TestMain(m *testing.M) {
	flag.Parse()
	here, err := os.Getwd()
	must(err)
	modules, metadataMock = filepath.Join(here, "node_modules"), filepath.Join(here, "bin", "ec2-metadata-mock")
	if os.Getenv("OPENVIDU_LAB") == "" {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "the lab needs root: it makes network namespaces, loop devices and mounts")
			os.Exit(1)
		}
		prepare()
		command := exec.Command("unshare", append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"}, os.Args...)...)
		command.Env = append(os.Environ(), "OPENVIDU_LAB=1")
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := command.Run(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "openvidu-lab")
	must(err)
	_, err = run("mount", "-t", "tmpfs", "-o", "size=16g", "lab", dir)
	must(err)
	content, err := os.ReadFile(*templateFile)
	must(err)
	must(json.Unmarshal(content, &source))
	content, err = os.ReadFile(*parametersFile)
	must(err)
	must(json.Unmarshal(content, &parameters))
	cloud = NewCloud(dir)
	newNetwork()
	code := m.Run()
	fmt.Printf("\n%-58s %-5s %7s %6s\n", "scenario", "", "seconds", "calls")
	for _, row := range rows {
		fmt.Println(row)
	}
	run("umount", "-l", dir)
	os.RemoveAll(dir)
	os.Exit(code)
}

// prepare brings what the lab cannot fetch from inside its own network.
func prepare() {
	for _, tool := range []string{"moto_server", "aws", "node", "npm", "ip", "nsenter", "losetup", "mkfs.xfs", "mkfs.ext4", "xfs_io", "jq", "python3", "pgrep"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "the lab needs %s (moto: pip install 'moto[server]'; see README.md, The lab)\n", tool)
			os.Exit(1)
		}
	}
	for _, command := range [][]string{
		{"go", "build", "-o", metadataMock, "github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock"},
		{"npm", "install", "--no-fund", "--no-audit", "--silent", "--no-package-lock"},
	} {
		_, err := run(command[0], command[1:]...)
		must(err)
	}
}

// newNetwork makes the VPC: a subnet in each of four zones, whose gateways are this machine.
func newNetwork() {
	vpc := field(cloud.query("ec2", "Action", "CreateVpc", "CidrBlock", "10.99.0.0/16"), "vpcId")
	for i, zone := range []string{"a", "b", "c", "d"} {
		prefix := fmt.Sprint("10.99.", i+1)
		subnet := field(cloud.query("ec2", "Action", "CreateSubnet", "VpcId", vpc, "CidrBlock", prefix+".0/24", "AvailabilityZone", region+zone), "subnetId")
		subnetPrefix[subnet] = prefix
		subnets = append(subnets, subnet)
		_, err := run("ip", "addr", "add", prefix+".1/32", "dev", "lo")
		must(err)
	}
	parameters["OpenViduVPC"] = vpc
	parameters["AmiId"] = cloud.image()
}

// scenario runs one, and writes its row of the table.
func scenario(t *testing.T, options Options, change map[string]any, check func(s *Stack)) {
	t.Helper()
	cloud.Reset()
	start := time.Now()
	if options.Distribution == "" {
		options.Distribution = AmazonLinux
	}
	if options.Scale == 0 {
		options.Scale = 20
	}
	values := map[string]any{"AWS::Region": region, "OpenViduMasterNodeSubnets": subnets, "OpenViduMediaNodeSubnets": subnets[:3]}
	for key, value := range parameters {
		values[key] = value
	}
	for key, value := range change {
		values[key] = value
	}
	stack, err := Deploy(cloud, source, values, options)
	defer func() {
		if t.Failed() && stack != nil {
			for group, machines := range stack.machines {
				for _, m := range machines {
					t.Logf("---- %s %s\n%s", group, m.Id, m.Log())
				}
			}
		}
		result := "ok"
		if t.Failed() {
			result = "FAIL"
		}
		if stack != nil {
			stack.Destroy()
		}
		rows = append(rows, fmt.Sprintf("%-58s %-5s %7.1f %6d", t.Name(), result, time.Since(start).Seconds(), cloud.Calls("", "")))
	}()
	if err != nil {
		t.Fatal(err)
	}
	check(stack)
}

// eventually waits, in real seconds.
func eventually(t *testing.T, seconds int, what string, condition func() bool) {
	t.Helper()
	for range seconds * 10 {
		if condition() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("not within %d s: %s", seconds, what)
}

// ready waits for the success of the given slots (and of a Media Node, when slot 0 is among them).
func ready(t *testing.T, s *Stack, slots ...int) {
	t.Helper()
	eventually(t, 120, fmt.Sprint("slots ready: ", slots), func() bool {
		for _, signal := range append(s.Signals("MasterReady"), s.Signals("MediaReady")...) {
			if signal.Status != "SUCCESS" {
				t.Fatalf("%s", signal.Reason)
			}
		}
		return !slices.ContainsFunc(slots, func(slot int) bool { return !isReady(s, slot) })
	})
}

func isReady(s *Stack, slot int) bool {
	handle, name, group := "MasterReady", fmt.Sprint("master-", slot), Group(slot)
	if slot == 0 {
		handle, name, group = "MediaReady", "media-node", MediaGroup
	}
	m := s.Machine(group)
	return m != nil && slices.ContainsFunc(s.Signals(handle), func(signal Signal) bool {
		return signal.UniqueId == name && signal.Status == "SUCCESS" && (slot == 0 || signal.Data == m.Id)
	})
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, want %q", what, got, want)
	}
}

// checkMaster looks at a master that says it is ready.
func checkMaster(t *testing.T, s *Stack, slot int) {
	t.Helper()
	m := s.Machine(Group(slot))
	ip := s.attribute(fmt.Sprint("MasterENI", slot), "PrimaryPrivateIpAddress").(string)
	expect(t, fmt.Sprint("file system of slot ", slot), m.Shell("findmnt -no FSTYPE,LABEL /opt/openvidu"), "xfs    openvidu")
	expect(t, "marker", m.Shell("ls /opt/openvidu/.openvidu-complete"), "/opt/openvidu/.openvidu-complete")
	expect(t, "installer's IP list", m.Shell("sed -n 's/^--master-node-private-ip-list=//p' /var/log/standin-installer"), masterIps(s))
	secret := s.Secret()
	expect(t, "API secret", m.Shell("sed -n 's/^LIVEKIT_API_SECRET=//p' /opt/openvidu/config/cluster/openvidu.env"), secret["LIVEKIT_API_SECRET"].(string))
	expect(t, "Meet user", m.Shell("cat /opt/openvidu/config/cluster/master_node/meet.env | head -n 1"), "MEET_INITIAL_ADMIN_USER=admin")
	expect(t, "mode of the log", m.Shell("stat -c %a /var/log/openvidu-node.log"), "600")
	for other := 1; other <= 4; other++ {
		from := s.Machine(Group(other))
		if other == slot || from == nil {
			continue
		}
		// The answer must come from the fixed IP, by its own interface: the lab drops it on any other.
		expect(t, fmt.Sprintf("fixed IP %s from slot %d", ip, other), from.Shell("timeout 5 bash -c '</dev/tcp/"+ip+"/7000' && echo answers"), "answers")
	}
}

func masterIps(s *Stack) string {
	var ips []string
	for slot := 1; slot <= 4; slot++ {
		ips = append(ips, s.attribute(fmt.Sprint("MasterENI", slot), "PrimaryPrivateIpAddress").(string))
	}
	return strings.Join(ips, ",")
}
