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
	mu       sync.Mutex
	process  *exec.Cmd
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

// wrapper is the aws command of the nodes. Where the CLI is no Python program, each call starts it anew.
var wrapper = sync.OnceValue(func() string {
	if interpreter := pythonOfCli(); interpreter != "" {
		return "#!" + interpreter + " -IS\n" + standin("aws")
	}
	return "#!/bin/sh\nexec " + awsCli() + ` "$@"` + "\n"
})

func standin(name string) string {
	content, err := os.ReadFile(filepath.Join("standins", name))
	must(err)
	return string(content)
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
	put("etc/os-release", fmt.Sprintf("ID=%q\nVERSION_ID=%q\n", os_, version), 0o644)
	put("etc/hosts", "127.0.0.1 localhost\n"+address+" "+installerHost+" "+agentHost+"\n", 0o644)
	put("etc/fstab", "", 0o644)
	put("etc/lab/scale", fmt.Sprint(options.Scale), 0o644)
	put("etc/lab/endpoint", endpoint, 0o644)
	put("etc/lab/ca.pem", string(c.ca), 0o644)
	put("etc/lab/aws", wrapper(), 0o755)
	put("etc/lab/docker", standin("docker"), 0o755)
	put("etc/lab/openvidu", standin("openvidu"), 0o755)
	put("etc/lab/agent", standin("agent"), 0o755)
	put("usr/bin/systemctl", standin("systemctl"), 0o755)
	put("usr/local/sbin/timeout", standin("timeout"), 0o755)
	real, err := os.ReadFile("/bin/sleep")
	must(err)
	put("usr/bin/sleep.real", string(real), 0o755)
	put("usr/bin/sleep", standin("sleep"), 0o755)
	if options.Distribution == AmazonLinux {
		put("usr/bin/dnf", standin("packages"), 0o755)
		put("usr/bin/aws", wrapper(), 0o755)
		must(os.MkdirAll(filepath.Join(m.dir, "upper/etc/yum.repos.d"), 0o755))
	} else {
		put("usr/bin/apt-get", standin("packages"), 0o755)
		put("usr/bin/dpkg", standin("packages"), 0o755)
		put("usr/bin/snap", standin("packages"), 0o755)
	}
	put("var/lib/cloud/instance/scripts/part-001", userData, 0o700)
	for _, command := range []string{"mkfs.xfs", "cp", "mv", "umount", "mount", "find", "rm", "xfs_growfs"} {
		put("usr/local/sbin/"+command, standin("cut"), 0o755)
	}
	// A command of this machine that the image has not.
	for _, directory := range strings.Split(searchPath, ":") {
		if _, err := os.Stat(directory + "/docker"); err == nil {
			hidden := filepath.Join(m.dir, "upper", directory, "docker")
			must(os.MkdirAll(filepath.Dir(hidden), 0o755))
			if err := syscall.Mknod(hidden, syscall.S_IFCHR, 0); err != nil && !os.IsExist(err) {
				must(err)
			}
		}
	}
	for name, content := range options.Files {
		put(name, content, 0o644)
	}
	if options.NodeFiles != nil {
		for name, content := range options.NodeFiles(m) {
			put(name, content, 0o644)
		}
	}
	c.mu.Lock()
	c.machines[m.Ip] = m
	c.mu.Unlock()
}

// firstBoot is the one in which cloud-init runs the user data. Its output is what the console shows.
func (m *Machine) firstBoot() {
	if err := m.switchOn(); err != nil {
		if !m.gone() {
			m.stack.complain("%s does not start: %s", m.Id, err)
		}
		return
	}
	if m.stack.Options.Delay != nil {
		time.Sleep(m.stack.Options.Delay())
	}
	output, err := m.Run("bash", "/var/lib/cloud/instance/scripts/part-001")
	if err != nil && !m.gone() {
		output += err.Error()
	}
	m.stack.mu.Lock()
	m.stack.words = append(m.stack.words, output)
	m.stack.mu.Unlock()
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
	process := exec.Command("standins/init", m.dir)
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	output, err := os.Create(filepath.Join(m.dir, "console"))
	if err != nil {
		return err
	}
	defer output.Close()
	process.Stdout, process.Stderr = output, output
	if err := process.Start(); err != nil {
		return err
	}
	m.mu.Lock()
	m.process = process
	m.mu.Unlock()
	for i := 0; ; i++ {
		if _, err := os.Stat(filepath.Join(m.dir, "up")); err == nil {
			break
		}
		if i == 3000 {
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
	if err := m.stack.admit(m, ip); err != nil {
		return err
	}
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

func (m *Machine) plugVolume(v *volume) error {
	if err := v.plug(); err != nil {
		return err
	}
	number := v.number()
	_, err := m.Run("bash", "-c", "mknod /dev/nvme"+number+"n1 b 7 "+number+
		" && ln -s /dev/nvme"+number+"n1 /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"+strings.Replace(v.id, "-", "", 1))
	return err
}

// plug makes a loop device of the volume. It clears itself when its last user is gone: the lab's own hold on it ends with
// the lab's process, however that ends.
func (v *volume) plug() error {
	if v.loop != nil {
		return nil
	}
	// One at a time on the whole machine: who loses the race for a free device would hold the winner's for a moment.
	name, err := run("flock", "/run/openvidu-lab.lock", "losetup", "-f", "--show", v.file)
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
	metadata := exec.Command("nsenter", "-t", pid, "-n", metadataMock, "--imdsv2", "-n", "169.254.169.254", "-p", "80", "-c", file)
	metadata.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	metadata.Env = append(os.Environ(), "HOME="+m.dir)
	output, err := os.Create(filepath.Join(m.dir, "metadata.log"))
	if err != nil {
		return err
	}
	defer output.Close()
	metadata.Stdout, metadata.Stderr = output, output
	m.mu.Lock()
	defer m.mu.Unlock()
	m.metadata = metadata
	return metadata.Start()
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

// Run runs a command inside of the machine.
func (m *Machine) Run(command ...string) (string, error) {
	pid, err := m.pid()
	if err != nil {
		return "", err
	}
	return run("nsenter", append([]string{"-t", pid, "-m", "-n", "-p", "-r", "-w", "env", "-i", "PATH=" + searchPath, "HOME=/root"}, command...)...)
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
	m.Shell("for m in $(awk '$3==\"xfs\"{print $2}' /proc/mounts); do xfs_io -x -c shutdown $m; done")
	m.mu.Lock()
	process, links := m.process, m.links
	m.process, m.links = nil, nil
	m.mu.Unlock()
	m.stopMetadata()
	if process == nil {
		return
	}
	process.Process.Kill()
	process.Wait()
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

// PowerOn boots the machine again: systemd starts what is enabled.
func (m *Machine) PowerOn() error {
	err := m.switchOn()
	if err == nil {
		go func() { _, _ = m.Run("systemctl", "boot") }() // the node's log tells how it went
	}
	return err
}

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
	if err := m.stack.dropTargets(m); err != nil {
		m.stack.complain("%s: %s", m.Id, err)
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
