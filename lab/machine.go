package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Distribution is what a node's image is.
type Distribution string

// The distributions, as ID and VERSION_ID of /etc/os-release.
const (
	AmazonLinux Distribution = "amzn 2023"
	Ubuntu22    Distribution = "ubuntu 22.04"
	Ubuntu24    Distribution = "ubuntu 24.04"
)

// codenames of Ubuntu's releases, as Docker's repository has them.
var codenames = map[string]string{"22.04": "jammy", "24.04": "noble"}

// cgroupPrefix of the lab's control groups.
const cgroupPrefix = "openvidu-lab/"

// removeCgroups removes an empty tree of control groups.
func removeCgroups(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			removeCgroups(filepath.Join(dir, entry.Name()))
		}
	}
	_ = os.Remove(dir)
}

// volumeRules of a node's udev. A volume is a loop device over NODE/VOLUME.img; its name is the one that EC2 gives an NVMe device (Amazon EBS User
// Guide, NVMe). The kernel tells every node of every loop device of this machine, so what is another node's must cost nothing: no program, no probing.
const volumeRules = `SUBSYSTEM!="block", GOTO="lab_end"
KERNEL=="loop*", ATTR{loop/backing_file}=="*/%s/vol-*.img", GOTO="lab_volume"
ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1"
ENV{.LAB_FOREIGN}="1"
GOTO="lab_end"
LABEL="lab_volume"
PROGRAM="/usr/lib/lab/volume %%k", SYMLINK+="disk/by-id/nvme-Amazon_Elastic_Block_Store_%%c"
LABEL="lab_end"
`

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Machine is an EC2 instance: network, mount and process namespaces of its own.
type Machine struct {
	Id, Group, Ip string
	Version       int // of its launch template
	Launched      time.Time

	stack    *Stack
	role     string
	subnet   string
	tags     map[string]string
	showTags bool // in the metadata
	dir      string

	power    sync.Mutex // one change of power at a time
	letGo    sync.Mutex // of interface and volume
	serving  sync.Mutex // one change of the metadata service at a time
	mu       sync.Mutex
	process  *exec.Cmd
	halted   chan bool // closed at the end of the process
	metadata *exec.Cmd
	state    string // what Auto Scaling wants of it, as the metadata say
	ended    bool
	links    []string
	last     string // words in its log, for the story
}

var serial atomic.Int64

// pythonOfCli is the interpreter of the AWS CLI that its script names; "" when the CLI is a program of another kind.
func pythonOfCli() string {
	file, err := os.Open(awsCli())
	must(err)
	defer file.Close()
	line, _ := bufio.NewReader(file).ReadString('\n')
	if interpreter, ok := strings.CutPrefix(strings.TrimSpace(line), "#!"); ok && strings.Contains(interpreter, "python") {
		if _, err := run(interpreter, "-c", "import awscli.clidriver"); err == nil {
			return interpreter
		}
	}
	return ""
}

func awsCli() string {
	if resolved, err := run("pyenv", "which", "aws"); err == nil {
		return strings.TrimSpace(resolved)
	}
	aws, err := exec.LookPath("aws")
	must(err)
	return aws
}

// create makes an instance that was never switched on.
func (m *Machine) create(userData string) {
	c, options := m.stack.Cloud, m.stack.Options
	m.Ip = c.address(m.subnet)
	m.Id = field(c.query("ec2", "Action", "RunInstances", "ImageId", imageId, "MinCount", "1", "MaxCount", "1", "SubnetId", m.subnet, "PrivateIpAddress", m.Ip), "instanceId")
	m.dir = filepath.Join(c.Dir, m.Id)
	os_, version, _ := strings.Cut(string(options.Distribution), " ")
	put := func(name, content string, mode os.FileMode) {
		name = filepath.Join(m.dir, "upper", name)
		must(os.MkdirAll(filepath.Dir(name), 0o755))
		must(os.WriteFile(name, []byte(content), mode))
		must(os.Chmod(name, mode))
	}
	link := func(name, to string) {
		name = filepath.Join(m.dir, "upper", name)
		must(os.MkdirAll(filepath.Dir(name), 0o755))
		must(os.Symlink(to, name))
	}
	put("etc/os-release", fmt.Sprintf("ID=%q\nVERSION_ID=%q\nVERSION_CODENAME=%q\n", os_, version, codenames[version]), 0o644)
	put("etc/hostname", "ip-"+strings.ReplaceAll(m.Ip, ".", "-")+"\n", 0o644)
	put("etc/hosts", "127.0.0.1 localhost\n", 0o644)
	put("etc/resolv.conf", "nameserver "+vpc.Resolver().String()+"\n", 0o644)
	put("etc/fstab", "", 0o644)
	put("etc/lab/scale", fmt.Sprint(options.Scale), 0o644)
	put("etc/lab/node", m.Id+"\n", 0o644)
	put("etc/udev/rules.d/10-lab.rules", fmt.Sprintf(volumeRules, m.Id), 0o644)
	put("etc/systemd/system/systemd-udev-trigger.service.d/lab.conf",
		fmt.Sprintf("[Service]\nExecStart=\nExecStart=udevadm trigger --action=add --subsystem-match=block --attr-match=loop/backing_file=*/%s/vol-*\n", m.Id), 0o644)
	put("etc/lab/endpoint", endpoint, 0o644)
	put("etc/lab/hangs", strings.Join(options.Hangs, " "), 0o644)
	// systemd's own waiting is not the lab's sleep: what it does by default in 90 s and in a minute is scaled here.
	put("etc/systemd/system.conf.d/lab.conf", fmt.Sprintf("[Manager]\nDefaultEnvironment=AWS_ENDPOINT_URL=%s\nDefaultDeviceTimeoutSec=%d\n", endpoint, max(5, 90/options.Scale)), 0o644)
	put("etc/systemd/system/openvidu-node.service.d/lab.conf", fmt.Sprintf("[Service]\nRestartSec=%d\n", max(1, 60/options.Scale)), 0o644)
	// OpenVidu's containers have the node's own network: rules for another are needed where a scenario has one.
	if !options.Bridge {
		put("etc/systemd/system/docker.service.d/lab.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock --iptables=false --ip6tables=false\n", 0o644)
	}
	// What looks again every few seconds as long as the node lives, scaled, would keep this machine busy with nothing else.
	if !options.Eager {
		for unit, least := range map[string]string{"openvidu-routes": "3s", "openvidu-watchdog": "1s", "openvidu-drain": "700ms"} {
			put("etc/systemd/system/"+unit+".service.d/lab.conf", "[Service]\nEnvironment=LAB_LEAST="+least+"\n", 0o644)
		}
	}
	put("var/lib/lab-calls/.keep", "", 0o644)
	if options.Distribution == AmazonLinux {
		put("usr/bin/dnf", standin("dnf"), 0o755)
		for _, name := range []string{"usr/bin/aws", "usr/local/sbin/mkfs.xfs", "usr/local/sbin/xfs_growfs"} { // Ubuntu has none of them until it installs them
			link(name, "/usr/lib/lab/tool")
		}
		must(os.MkdirAll(filepath.Join(m.dir, "upper/etc/yum.repos.d"), 0o755))
	} else {
		put("usr/bin/snap", standin("snap"), 0o755)
		// Without xfsprogs there is no mkfs.xfs, the lab's neither: overlayfs takes such a device for a file that was removed.
		must(os.MkdirAll(filepath.Join(m.dir, "upper/usr/local/sbin"), 0o755))
		must(syscall.Mknod(filepath.Join(m.dir, "upper/usr/local/sbin/mkfs.xfs"), syscall.S_IFCHR, 0))
		must(os.MkdirAll(filepath.Join(m.dir, "upper/etc/apt/sources.list.d"), 0o755))
		put("etc/apt/sources.list", "deb [trusted=yes] http://archive.ubuntu.com/ubuntu ./\n", 0o644)
	}
	put("var/lib/cloud/instance/scripts/part-001", userData, 0o700)
	for name, content := range options.Files {
		put(name, content, 0o644)
	}
	if options.NodeFiles != nil {
		for name, content := range options.NodeFiles(m) {
			put(name, content, 0o644)
		}
	}
	must(m.stack.admit(m, m.Ip)) // load balancers know it from its launch on
	c.mu.Lock()
	c.machines[m.Ip] = m
	c.mu.Unlock()
}

// layers of a node's file system below what it writes itself.
func (m *Machine) layers() string {
	layers := []string{filepath.Join(m.stack.Cloud.Dir, "layer")}
	if m.stack.Options.Distribution == AmazonLinux {
		layers = append(layers, filepath.Join(tree, "amzn"))
	}
	return strings.Join(append(layers, filepath.Join(tree, "base")), ":")
}

// firstBoot is the one in which cloud-init runs the user data.
func (m *Machine) firstBoot() {
	if m.stack.Options.Delay != nil {
		time.Sleep(m.stack.Options.Delay())
	}
	if err := m.switchOn(); err != nil && !m.gone() {
		m.stack.complain("%s does not start: %s", m.Id, err)
	}
}

func (m *Machine) gone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

var errOff = errors.New("the machine is off")

func (m *Machine) pid() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return "", errOff
	}
	return fmt.Sprint(m.process.Process.Pid), nil
}

// start starts the machine's first process, its network, and the metadata service.
func (m *Machine) start() error {
	os.Remove(filepath.Join(m.dir, "up"))
	process := exec.Command("node/init", m.dir, m.layers(), m.cgroup())
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	output, err := os.OpenFile(filepath.Join(m.dir, "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	process.Stdout, process.Stderr = output, output
	if err := process.Start(); err != nil {
		return err
	}
	halted := make(chan bool)
	m.mu.Lock()
	m.process, m.halted = process, halted
	m.mu.Unlock()
	go m.watch(process, halted)
	for i := 0; ; i++ {
		if _, err := os.Stat(filepath.Join(m.dir, "up")); err == nil {
			break
		}
		if i == 6000 {
			content, _ := os.ReadFile(filepath.Join(m.dir, "console"))
			return fmt.Errorf("no end of its first process's work: %s", content)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := m.link("eth0", m.Ip, ""); err != nil {
		return err
	}
	for _, command := range []string{
		"ip addr add " + m.Ip + "/20 dev eth0", "ip link set eth0 up", "ip route add default via " + network[m.subnet] + ".1" + " dev eth0",
	} {
		if err := m.inNetwork(strings.Fields(command)...); err != nil {
			return err
		}
	}
	if !m.stack.Options.LateMetadata {
		return m.serveMetadata()
	}
	// Absent at first, then without a word, then there.
	go func() {
		time.Sleep(time.Second)
		if m.serveMetadata() == nil {
			must(m.metadata.Process.Signal(syscall.SIGSTOP))
			time.Sleep(6 * time.Second)
			must(m.metadata.Process.Signal(syscall.SIGCONT))
		}
	}()
	return nil
}

// watch waits for the end of the first process, which tells a reboot from a power-off: the kernel ends the first process of a PID namespace by SIGHUP or
// SIGINT (reboot(2)).
func (m *Machine) watch(process *exec.Cmd, halted chan bool) {
	_ = process.Wait()
	m.removeCgroup()
	close(halted)
	status, ok := process.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() && status.Signal() == syscall.SIGHUP {
		m.PowerOff()
		if err := m.PowerOn(); err != nil && !m.gone() {
			m.stack.complain("%s does not come back from its reboot: %s", m.Id, err)
		}
	}
}

// cgroup of the node, below the hierarchies' roots.
func (m *Machine) cgroup() string {
	return cgroupPrefix + filepath.Base(m.stack.Cloud.Dir) + "/" + m.Id
}

func (m *Machine) removeCgroup() {
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		removeCgroups(filepath.Join(root, m.cgroup()))
	}
}

func (m *Machine) inNetwork(command ...string) error {
	pid, err := m.pid()
	if err == nil {
		_, err = run("nsenter", append([]string{"-t", pid, "-n"}, command...)...)
	}
	return err
}

// link plugs in one end of a pair. The other end is the VPC: it routes to the address, answers for all others, and drops
// what comes from another address than the interface's, as EC2's source check does.
func (m *Machine) link(name, ip, mac string) error {
	pid, err := m.pid()
	if err != nil {
		return err
	}
	outside := fmt.Sprint("v", serial.Add(1))
	m.mu.Lock()
	m.links = append(m.links, outside)
	m.mu.Unlock()
	if mac != "" {
		mac = " address " + mac
	}
	commands := []string{
		fmt.Sprintf("ip link add %s type veth peer name %s%s netns %s", outside, name, mac, pid),
		"ip link set " + outside + " up",
		"ip route replace " + ip + "/32 dev " + outside,
		"sysctl -qw net.ipv4.conf." + outside + ".proxy_arp=1 net.ipv4.conf." + outside + ".rp_filter=1 net.ipv4.neigh." + outside + ".proxy_delay=0",
	}
	for _, command := range commands {
		words := strings.Fields(command)
		if _, err := run(words[0], words[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) plugInterface(e *eni) error { return m.link("eth1", e.ip, e.mac) }

// plugVolume makes the volume a device of the machine, by the name of whose file its udev knows it.
func (m *Machine) plugVolume(v *volume) error {
	if v.loop != nil {
		return nil // it stayed while the machine was off; udev finds it at the boot
	}
	file := filepath.Join(m.dir, v.id+".img")
	if err := os.Link(v.file, file); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return v.plug(file)
}

// plug makes a loop device of the volume. It clears itself when its last user is gone: the lab's own hold on it ends with
// the lab's process, however that ends.
func (v *volume) plug(file string) error {
	// One at a time on the whole machine: who loses the race for a free device would hold the winner's for a moment.
	name, err := run("flock", "/run/openvidu-lab.lock", "losetup", "-f", "--show", file)
	if err != nil {
		return err
	}
	name = strings.TrimSpace(name)
	if v.loop, err = os.Open(name); err != nil {
		return err
	}
	_, err = run("losetup", "-d", name)
	return err
}

func (v *volume) number() string { return strings.TrimPrefix(v.loop.Name(), "/dev/loop") }

func (v *volume) unplug() {
	if v.loop == nil {
		return
	}
	number := v.number()
	v.loop.Close()
	v.loop = nil
	waitUntilGone("/sys/block/loop" + number + "/loop/backing_file")
}

// grow changes the size of a volume that may be in use.
func (v *volume) grow(gibibytes int) error {
	if err := os.Truncate(v.file, int64(gibibytes)<<30); err != nil || v.loop == nil {
		return err
	}
	_, err := run("losetup", "-c", v.loop.Name())
	return err
}

func waitUntilGone(file string) {
	for range 1000 {
		if _, err := os.Stat(file); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// serveMetadata starts amazon-ec2-metadata-mock, IMDSv2 only. Paths of its that no node asks for take our tags, and the state
// that Auto Scaling wants, of which the mock knows but two.
func (m *Machine) serveMetadata() error {
	m.serving.Lock()
	defer m.serving.Unlock()
	m.stopMetadata()
	pid, err := m.pid()
	if err != nil {
		return err
	}
	paths, values := map[string]string{}, map[string]string{"instance-id": m.Id, "local-ipv4": m.Ip}
	m.mu.Lock()
	paths["target-lifecycle-state"], paths["ramdisk-id"], values["ramdisk-id"] = "/latest/meta-data/unused", "/latest/meta-data/autoscaling/target-lifecycle-state", m.state
	m.mu.Unlock()
	slots := []string{"tags-instance-name", "tags-instance-test", "kernel-id"}
	for _, key := range []string{groupTag, "OpenViduMasterSlot", clusterTag} {
		if value := m.tags[key]; m.showTags && value != "" {
			paths[slots[0]], values[slots[0]] = "/latest/meta-data/tags/instance/"+key, value
			slots = slots[1:]
		}
	}
	config, _ := json.Marshal(map[string]any{"metadata": map[string]any{"paths": paths, "values": values}})
	file := filepath.Join(m.dir, "metadata.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	// In a network of its own: on a node a service may listen on port 80.
	metadata := exec.Command("sh", "-c", `ip link set lo up && ip addr add 169.254.169.254/32 dev lo && exec "$@"`, "sh", metadataMock, "--imdsv2", "-n", "169.254.169.254", "-p", "80", "-c", file)
	metadata.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	metadata.Env = append(os.Environ(), "HOME="+m.dir)
	output, err := os.Create(filepath.Join(m.dir, "metadata.log"))
	if err != nil {
		return err
	}
	defer output.Close()
	metadata.Stdout, metadata.Stderr = output, output
	m.mu.Lock()
	m.metadata = metadata
	err = metadata.Start()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	mock := fmt.Sprint(metadata.Process.Pid)
	_ = m.inNetwork("ip", "link", "del", "imds") // that of the one before, which goes late
	for _, command := range []string{
		"ip link add imds netns " + pid + " type veth peer name node netns " + mock,
		"nsenter -t " + mock + " -n ip link set node up",
		"nsenter -t " + mock + " -n ip route add default dev node",
		"nsenter -t " + pid + " -n ip link set imds up",
		"nsenter -t " + pid + " -n ip route replace 169.254.169.254 dev imds src " + m.Ip,
	} {
		words := strings.Fields(command)
		if _, err := run(words[0], words[1:]...); err != nil {
			if _, off := m.pid(); off != nil {
				return off // the power went meanwhile
			}
			return err
		}
	}
	return nil
}

func (m *Machine) stopMetadata() {
	m.mu.Lock()
	metadata := m.metadata
	m.metadata = nil
	m.mu.Unlock()
	if metadata != nil {
		metadata.Process.Kill()
		metadata.Wait()
	}
}

// Call begins calls that these services of a Media Node carry: openvidu, ingress, egress, or a container of the scenario's own.
func (m *Machine) Call(services ...string) {
	for _, service := range services {
		m.Shell("touch /var/lib/lab-calls/" + service + ".call")
	}
}

// HangUp ends the calls of services, all of them when none is named.
func (m *Machine) HangUp(services ...string) {
	if len(services) == 0 {
		services = []string{"*"}
	}
	for _, service := range services {
		m.Shell("rm -f /var/lib/lab-calls/" + service + ".call")
	}
}

// told is what the services of a Media Node were told by signals: "egress:quit ingress:quit".
func (m *Machine) told() string {
	return m.Shell(`cd /var/lib/lab-calls && for f in told-*; do [[ ! -e $f ]] || echo "${f#told-}:$(paste -sd, "$f")"; done | paste -sd ' '`)
}

// Run runs a command inside of the machine.
func (m *Machine) Run(command ...string) (string, error) {
	pid, err := m.pid()
	if err != nil {
		return "", err
	}
	return run("nsenter", append([]string{"-t", pid, "-m", "-n", "-p", "-u", "-i", "-C", "-r", "-w", "env", "-i", "PATH=" + searchPath, "HOME=/root", "AWS_ENDPOINT_URL=" + endpoint}, command...)...)
}

// Shell runs lines of shell inside of the machine.
func (m *Machine) Shell(lines string) string {
	output, err := m.Run("bash", "-c", lines)
	if err != nil {
		return output + "\n" + err.Error()
	}
	return strings.TrimSpace(output)
}

// Log of the node.
func (m *Machine) Log() string {
	content, _ := os.ReadFile(filepath.Join(m.dir, "upper/var/log/openvidu-node.log"))
	return string(content)
}

// Answers tells whether something listens on a port of the lab's side of the network, with an HTTP status of 200.
func answers(ip, port, path string) bool {
	connection, err := net.DialTimeout("tcp", ip+":"+port, 3*time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = connection.Close() }()
	if connection.SetDeadline(time.Now().Add(3*time.Second)) != nil {
		return false
	}
	if _, err := fmt.Fprintf(connection, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, ip); err != nil {
		return false
	}
	line, _ := bufio.NewReader(connection).ReadString('\n')
	return strings.Contains(line, " 200 ")
}

// PowerOff is the power cut: what was not written to a disk is lost.
func (m *Machine) PowerOff() {
	m.power.Lock()
	defer m.power.Unlock()
	m.powerOff()
}

func (m *Machine) powerOff() {
	m.mu.Lock()
	process, links, halted := m.process, m.links, m.halted
	m.process, m.links = nil, nil
	m.mu.Unlock()
	if process != nil {
		// A file system whose last user is killed is unmounted in order; a power cut asks nobody.
		root := fmt.Sprintf("/proc/%d", process.Process.Pid)
		mounts, _ := os.ReadFile(root + "/mounts")
		for _, line := range strings.Split(string(mounts), "\n") {
			if words := strings.Fields(line); len(words) > 2 && words[2] == "xfs" {
				_, _ = run("xfs_io", "-x", "-c", "shutdown", root+"/root"+words[1])
			}
		}
	}
	m.stopMetadata()
	if process == nil {
		return
	}
	_ = process.Process.Kill()
	<-halted
	for _, link := range links {
		_, _ = run("ip", "link", "del", link) // it goes with the namespace of its other end
	}
	_, volumes := m.held()
	for _, v := range volumes {
		if v.loop != nil {
			waitUntilGone("/sys/fs/xfs/loop" + v.number())
		}
	}
}

// Shutdown is the ordinary one, as a stop or a termination by EC2 asks the operating system for; the power is cut when it takes too long.
func (m *Machine) Shutdown() {
	m.mu.Lock()
	process, halted := m.process, m.halted
	m.mu.Unlock()
	if process != nil && process.Process.Signal(syscall.Signal(38)) == nil { // SIGRTMIN+4 of systemd(1): poweroff.target
		select {
		case <-halted:
		case <-time.After(30 * time.Second):
		}
	}
	m.PowerOff()
}

// held is what is attached to the machine.
func (m *Machine) held() (enis []*eni, volumes []*volume) {
	m.stack.mu.Lock()
	defer m.stack.mu.Unlock()
	for _, e := range m.stack.enis {
		if e.holder == m {
			enis = append(enis, e)
		}
	}
	for _, v := range m.stack.volumes {
		if v.holder == m {
			volumes = append(volumes, v)
		}
	}
	return enis, volumes
}

// PowerOn boots the machine again.
func (m *Machine) PowerOn() error { return m.switchOn() }

// switchOn starts the machine, with what is attached to it.
func (m *Machine) switchOn() error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.gone() {
		return errOff
	}
	if err := m.start(); err != nil {
		return err
	}
	enis, volumes := m.held()
	for _, e := range enis {
		if err := m.plugInterface(e); err != nil {
			return err
		}
	}
	for _, v := range volumes {
		if err := m.plugVolume(v); err != nil {
			return err
		}
	}
	return nil
}

// Hold is how EC2 takes its time before it lets go of a terminated instance's interface, and then of its volume.
type Hold func(what string)

// After a while, for each of the two.
func After(while time.Duration) Hold { return func(string) { time.Sleep(while) } }

// Terminate ends the instance.
func (m *Machine) Terminate(hold Hold) {
	m.mu.Lock()
	again := m.ended
	m.ended = true
	m.mu.Unlock()
	if !again {
		if err := m.stack.dropTargets(m); err != nil && !m.stack.over() {
			m.stack.complain("%s: %s", m.Id, err)
		}
	}
	m.power.Lock()
	defer m.power.Unlock()
	m.powerOff()
	if c := m.stack.Cloud; !again {
		c.mu.Lock()
		delete(c.machines, m.Ip)
		c.mu.Unlock()
	}
	if hold != nil {
		go m.release(hold)
	} else {
		m.release(func(string) {})
	}
	os.RemoveAll(filepath.Join(m.dir, "root"))
}

// release lets go of interface and volume.
func (m *Machine) release(hold Hold) {
	m.letGo.Lock()
	defer m.letGo.Unlock()
	c := m.stack.Cloud
	enis, volumes := m.held()
	hold("interface")
	m.dismiss()
	for _, e := range enis {
		attachment := field(c.query("ec2", "Action", "DescribeNetworkInterfaces", "NetworkInterfaceId.1", e.id), "attachmentId")
		c.query("ec2", "Action", "DetachNetworkInterface", "AttachmentId", attachment, "Force", "true")
		m.stack.mu.Lock()
		e.holder = nil
		m.stack.mu.Unlock()
	}
	hold("volume")
	for _, v := range volumes {
		c.query("ec2", "Action", "DetachVolume", "VolumeId", v.id, "InstanceId", m.Id, "Device", "/dev/sdf")
		v.unplug()
		m.stack.mu.Lock()
		v.holder = nil
		m.stack.mu.Unlock()
	}
}

// announce makes the metadata say what Auto Scaling wants of the instance.
func (m *Machine) announce(state string) error {
	m.mu.Lock()
	m.state = state
	m.mu.Unlock()
	return m.serveMetadata()
}

// put writes a file of the machine, from outside.
func (m *Machine) put(name, content string) {
	_, err := m.Run("bash", "-c", "cat >/"+name+` <<<"$0"`, strings.TrimSuffix(content, "\n"))
	must(err)
}

func standin(name string) string {
	content, err := os.ReadFile(filepath.Join("standins", name))
	must(err)
	return string(content)
}
