package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/stream"
)

// The test binary is the command, if this is set.
const asCommand = "LAB_CALLS_RTMP"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(environment []string, args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(append(os.Environ(), asCommand+"=1"), environment...)
	c.Stderr = os.Stderr
	return c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func TestServeEndsAfterTheLastStreamOnSIGQUIT(t *testing.T) {
	address, health := freeAddress(t), freeAddress(t)
	server := command(nil, "serve", "-rtmp", address, "-health", health)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill() }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if connection, err := net.Dial("tcp", address); err == nil {
			_ = connection.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	events := bufio.NewScanner(out)
	next := func(want string) {
		t.Helper()
		var e stream.Event
		if !events.Scan() {
			t.Fatalf("the server ended before %q", want)
		}
		if err := json.Unmarshal(events.Bytes(), &e); err != nil || e.Event != want {
			t.Fatalf("%s %v, want %q", events.Text(), err, want)
		}
	}

	publisher := command([]string{"RTMP_STREAM_KEY=key1"}, "publish", "-url", "rtmp://"+address+"/rtmp", "-duration", "1h")
	var result bytes.Buffer
	publisher.Stdout = &result
	if err := publisher.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = publisher.Process.Kill() }()
	next("started")
	for range 2 {
		if err := server.Process.Signal(syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
	}
	next("draining")
	if err := command([]string{"RTMP_STREAM_KEY=key2"}, "publish", "-url", "rtmp://"+address+"/rtmp").Run(); err == nil {
		t.Error("a new stream while draining succeeded")
	}
	next("refused")
	if err := publisher.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	failure := publisher.Wait()
	var r stream.Published
	if err := json.Unmarshal(result.Bytes(), &r); failure != nil || err != nil || !r.Accepted {
		t.Errorf("%v %v %s", failure, err, result.Bytes())
	}
	next("ended")
	next("drained")
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
}
