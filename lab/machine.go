package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Machine is an EC2 instance: network, mount and process namespaces of its own.
type Machine struct {
	Id, Group string
	Ip        string

	cloud    *Cloud
	dir      string
	tags     map[string]string
	process  *exec.Cmd
	metadata *exec.Cmd
	leaving  bool
	links    []string
}

var serial atomic.Int64

// Launch starts an instance that cloud-init has not seen yet.
func (c *Cloud) Launch(group, subnet string, tags map[string]string, distribution Distribution, userData string, scale int, files map[string]string) *Machine {
	answer := c.query("ec2", "Action", "RunInstances", "ImageId", c.image(), "MinCount", "1", "MaxCount", "1", "SubnetId", subnet)
	n := serial.Add(1)
	m := &Machine{Id: field(answer, "instanceId"), Group: group, cloud: c, tags: tags}
	m.Ip = fmt.Sprintf("%s.%d", subnetPrefix[subnet], 20+n%200)
	m.dir = filepath.Join(c.Dir, m.Id)
	os_, version, _ := strings.Cut(string(distribution), " ")
	put := func(name, content string, mode os.FileMode) {
		name = filepath.Join(m.dir, "upper", name)
		must(os.MkdirAll(filepath.Dir(name), 0o755))
		must(os.WriteFile(name, []byte(content), mode))
		must(os.Chmod(name, mode))
	}
	standin := func(source, target string) {
		content, err := os.ReadFile(filepath.Join("standins", source))
		must(err)
		put(target, string(content), 0o755)
	}
	aws, err := exec.LookPath("aws")
	must(err)
	if resolved, err := run("pyenv", "which", "aws"); err == nil {
		aws = strings.TrimSpace(resolved)
	}
	put("etc/os-release", fmt.Sprintf("ID=%q\nVERSION_ID=%q\n", os_, version), 0o644)
	put("etc/hosts", "127.0.0.1 localhost\n"+address+" s3.eu-west-1.amazonaws.com\n", 0o644)
	put("etc/lab/scale", fmt.Sprint(scale), 0o644)
	put("etc/lab/endpoint", endpoint, 0o644)
	put("etc/lab/ca.pem", string(c.ca), 0o644)
	put("etc/lab/aws", "#!/bin/sh\nexec "+aws+` "$@"`+"\n", 0o755)
	standin("docker", "etc/lab/docker")
	standin("openvidu", "etc/lab/openvidu")
	standin("systemctl", "usr/bin/systemctl")
	real, err := os.ReadFile("/bin/sleep")
	must(err)
	put("usr/bin/sleep.real", string(real), 0o755)
	standin("sleep", "usr/bin/sleep")
	if distribution == AmazonLinux {
		standin("packages", "usr/bin/dnf")
		put("usr/bin/aws", "#!/bin/sh\nexec "+aws+` "$@"`+"\n", 0o755)
		must(os.MkdirAll(filepath.Join(m.dir, "upper/etc/yum.repos.d"), 0o755))
	} else {
		standin("packages", "usr/bin/apt-get")
		standin("packages", "usr/bin/snap")
	}
	put("var/lib/cloud/instance/scripts/part-001", userData, 0o700)
	for _, command := range []string{"mkfs.xfs", "cp", "mv", "umount", "mount"} {
		standin("cut", "usr/local/sbin/"+command)
	}
	// A command of this machine that the image has not.
	for _, directory := range strings.Split(path, ":") {
		if _, err := os.Stat(directory + "/docker"); err == nil {
			hidden := filepath.Join(m.dir, "upper", directory, "docker")
			must(os.MkdirAll(filepath.Dir(hidden), 0o755))
			if err := syscall.Mknod(hidden, syscall.S_IFCHR, 0); err != nil && !os.IsExist(err) {
				must(err)
			}
		}
	}
	for name, content := range files {
		put(name, content, 0o644)
	}
	must(m.powerOn(subnet))
	go m.Run("bash", "/var/lib/cloud/instance/scripts/part-001")
	return m
}

var imageId string

func (c *Cloud) image() string {
	if imageId == "" {
		imageId = field(c.query("ec2", "Action", "DescribeImages", "Owner.1", "amazon"), "imageId")
	}
	return imageId
}

var subnetPrefix = map[string]string{}

// powerOn starts the machine's first process, its network, and the metadata service.
func (m *Machine) powerOn(subnet string) error {
	os.Remove(filepath.Join(m.dir, "up"))
	m.process = exec.Command("standins/init", m.dir)
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	output, err := os.Create(filepath.Join(m.dir, "console"))
	if err != nil {
		return err
	}
	m.process.Stdout, m.process.Stderr = output, output
	if err := m.process.Start(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if _, err := os.Stat(filepath.Join(m.dir, "up")); err == nil {
			break
		}
		if i == 100 {
			content, _ := os.ReadFile(filepath.Join(m.dir, "console"))
			return fmt.Errorf("%s does not start: %s", m.Id, content)
		}
		time.Sleep(50 * time.Millisecond)
	}
	prefix := m.Ip[:strings.LastIndex(m.Ip, ".")]
	m.cloud.mu.Lock()
	m.cloud.machines[m.Ip] = m
	m.cloud.mu.Unlock()
	if err := m.link("eth0", m.Ip, ""); err != nil {
		return err
	}
	for _, command := range []string{
		"ip addr add " + m.Ip + "/24 dev eth0", "ip link set eth0 up", "ip route add default via " + prefix + ".1 dev eth0",
	} {
		if err := m.inNetwork(strings.Fields(command)...); err != nil {
			return err
		}
	}
	return m.serveMetadata()
}

func (m *Machine) inNetwork(command ...string) error {
	_, err := run("nsenter", append([]string{"-t", fmt.Sprint(m.process.Process.Pid), "-n"}, command...)...)
	return err
}

// link plugs in one end of a pair. The other end is the VPC: it routes to the address, answers for all others, and drops
// what comes from another address than the interface's, as EC2's source check does.
func (m *Machine) link(name, ip, mac string) error {
	outside := fmt.Sprint("v", serial.Add(1))
	m.links = append(m.links, outside)
	commands := []string{
		fmt.Sprintf("ip link add %s type veth peer name %s netns %d", outside, name, m.process.Process.Pid),
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
	if mac != "" {
		return m.inNetwork("ip", "link", "set", name, "address", mac)
	}
	return nil
}

func (m *Machine) plugInterface(e *eni) error {
	return m.link(fmt.Sprint("eth", len(m.links)), e.ip, e.mac)
}

func (m *Machine) plugVolume(v *volume) error {
	if v.loop == "" {
		loop, err := run("losetup", "-f", "--show", v.file)
		if err != nil {
			return err
		}
		v.loop = strings.TrimSpace(loop)
	}
	number := strings.TrimPrefix(v.loop, "/dev/loop")
	_, err := m.Run("bash", "-c", "mknod /dev/nvme"+number+"n1 b 7 "+number+
		" && ln -s /dev/nvme"+number+"n1 /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"+strings.Replace(v.id, "-", "", 1))
	return err
}

// serveMetadata starts amazon-ec2-metadata-mock, IMDSv2 only. Its paths for two sample tags take our tags.
func (m *Machine) serveMetadata() error {
	if m.metadata != nil {
		m.metadata.Process.Kill()
		m.metadata.Wait()
	}
	paths, values := map[string]string{}, map[string]string{"instance-id": m.Id, "local-ipv4": m.Ip}
	slots := []string{"tags-instance-name", "tags-instance-test"}
	for key, value := range m.tags {
		paths[slots[0]], values[slots[0]] = "/latest/meta-data/tags/instance/"+key, value
		slots = slots[1:]
	}
	config, _ := json.Marshal(map[string]any{"metadata": map[string]any{"paths": paths, "values": values}})
	file := filepath.Join(m.dir, "metadata.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	arguments := []string{"-t", fmt.Sprint(m.process.Process.Pid), "-n", metadataMock}
	delay := "1000000"
	if m.leaving {
		delay = "0"
	}
	m.metadata = exec.Command("nsenter", append(arguments, "--imdsv2", "--asg-termination-delay-sec", delay, "-n", "169.254.169.254", "-p", "80", "-c", file)...)
	m.metadata.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.metadata.Env = append(os.Environ(), "HOME="+m.dir)
	output, err := os.Create(filepath.Join(m.dir, "metadata.log"))
	if err != nil {
		return err
	}
	m.metadata.Stdout, m.metadata.Stderr = output, output
	return m.metadata.Start()
}

// Run runs a command inside of the machine.
func (m *Machine) Run(command ...string) (string, error) {
	arguments := append([]string{"-t", fmt.Sprint(m.process.Process.Pid), "-m", "-n", "-p", "-r", "-w", "env", "-i", "PATH=" + path, "HOME=/root"}, command...)
	return run("nsenter", arguments...)
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

// PowerOff is the power cut: what was not written to a disk is lost.
func (m *Machine) PowerOff() {
	m.Shell("for m in $(awk '$3==\"xfs\"{print $2}' /proc/mounts); do xfs_io -x -c shutdown $m; done")
	m.process.Process.Kill()
	m.process.Wait()
	if m.metadata != nil {
		m.metadata.Process.Kill()
		m.metadata.Wait()
		m.metadata = nil
	}
	for _, link := range m.links {
		run("ip", "link", "del", link)
	}
	m.links = nil
}

// PowerOn boots it again, with what was attached to it.
func (m *Machine) PowerOn() error {
	if err := m.powerOn(""); err != nil {
		return err
	}
	m.cloud.mu.Lock()
	defer m.cloud.mu.Unlock()
	for _, e := range m.cloud.enis {
		if e.holder == m {
			if err := m.plugInterface(e); err != nil {
				return err
			}
		}
	}
	for _, v := range m.cloud.volumes {
		if v.holder == m {
			if err := m.plugVolume(v); err != nil {
				return err
			}
		}
	}
	go m.Run("systemctl", "boot")
	return nil
}

// Terminate ends the instance; EC2 lets go of interface and volume only after a while.
func (m *Machine) Terminate(hold time.Duration) {
	m.PowerOff()
	m.cloud.mu.Lock()
	delete(m.cloud.machines, m.Ip)
	m.cloud.mu.Unlock()
	release := func() {
		m.cloud.mu.Lock()
		defer m.cloud.mu.Unlock()
		for _, e := range m.cloud.enis {
			if e.holder == m {
				attachment := field(m.cloud.query("ec2", "Action", "DescribeNetworkInterfaces", "NetworkInterfaceId.1", e.id), "attachmentId")
				m.cloud.query("ec2", "Action", "DetachNetworkInterface", "AttachmentId", attachment, "Force", "true")
				e.holder = nil
			}
		}
		for _, v := range m.cloud.volumes {
			if v.holder == m {
				m.cloud.query("ec2", "Action", "DetachVolume", "VolumeId", v.id, "InstanceId", m.Id, "Device", "/dev/sdf")
				v.unplug()
				v.holder = nil
			}
		}
	}
	if hold > 0 {
		go func() { time.Sleep(hold); release() }()
	} else {
		release()
	}
	os.RemoveAll(filepath.Join(m.dir, "root"))
}

func (v *volume) unplug() {
	if v.loop != "" {
		run("losetup", "-d", v.loop)
		v.loop = ""
	}
}

// Leave is what Auto Scaling does to an instance that it is to terminate: the metadata say so, the hook waits.
func (m *Machine) Leave() error {
	m.leaving = true
	return m.serveMetadata()
}
