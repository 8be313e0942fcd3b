package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that ends with its last user: no process, and no file in /run/netns, keeps it.
type Namespace struct {
	// Name in error messages.
	Name string
	file *os.File
}

// NewNamespace makes an empty network namespace whose loopback interface is up.
func NewNamespace(name string) (*Namespace, error) {
	n := &Namespace{Name: name}
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	// A new namespace inherits IPv4 settings from the machine's first one, whatever those are.
	if err := n.sysctl("conf/all/rp_filter=0", "conf/default/rp_filter=0", "conf/all/send_redirects=0", "conf/default/send_redirects=0"); err != nil {
		return nil, err
	}
	return n, n.ip("link set lo up")
}

// Close lets go of the namespace. It ends when no process or socket uses it.
func (n *Namespace) Close() error { return n.file.Close() }

// Path of the namespace for programs of this process's process namespace, such as nsenter --net=.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// onThread runs f on an operating system thread of its own, and brings the thread back to where it was: ending it instead
// would end the processes that it ever started with Pdeathsig.
func onThread(f func() error) error {
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer before.Close()
	err = f()
	if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // still locked: nothing else runs on it
	}
	runtime.UnlockOSThread()
	return err
}

// Do runs f inside the namespace. Sockets that f opens stay there.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		return f()
	})
}

// Dial connects from inside the namespace, to an IP address.
func (n *Namespace) Dial(dialer net.Dialer, network, address string) (connection net.Conn, err error) {
	err = n.Do(func() error {
		connection, err = dialer.Dial(network, address)
		return err
	})
	return connection, err
}

// Listen inside the namespace.
func (n *Namespace) Listen(network, address string) (listener net.Listener, err error) {
	err = n.Do(func() error {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// ListenPacket inside the namespace.
func (n *Namespace) ListenPacket(network, address string) (connection net.PacketConn, err error) {
	err = n.Do(func() error {
		connection, err = net.ListenPacket(network, address)
		return err
	})
	return connection, err
}

// Command that will run inside the namespace and end with this process.
func (n *Namespace) Command(name string, arguments ...string) *exec.Cmd {
	command := exec.Command("nsenter", append([]string{"--net=" + n.Path(), name}, arguments...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// ip runs lines of ip(8) inside the namespace; nil is the current one.
func (n *Namespace) ip(lines ...string) error {
	return n.pipe(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// nft loads a script as one transaction: all of it takes effect, or nothing does.
func (n *Namespace) nft(script string) error { return n.pipe(script, "nft", "-f", "-") }

func (n *Namespace) pipe(input, name string, arguments ...string) error {
	command := exec.Command(name, arguments...)
	where := "VPC"
	if n != nil {
		command, where = n.Command(name, arguments...), n.Name
	}
	command.Stdin = strings.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w: %s\n%s", where, name, err, output, input)
	}
	return nil
}

// sysctl sets values below net/ipv4, written as conf/all/forwarding=1.
func (n *Namespace) sysctl(settings ...string) error {
	set := func() error {
		for _, setting := range settings {
			name, value, _ := strings.Cut(setting, "=")
			if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4", name), []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	if n == nil {
		return set()
	}
	return n.Do(set)
}
