// Package moto starts a moto server for tests, and lets the AWS CLI that they run find it.
package moto

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"
)

// Start a server on a free port of this machine: its address, and what ends it. The environment of the process gets
// credentials and a region, and no configuration of the user's. It fails when moto_server is missing, or does not answer within
// a minute.
func Start() (address string, stop func(), err error) {
	for key, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PAGER": "",
	} {
		if err := os.Setenv(key, value); err != nil {
			return "", nil, err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	free := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil {
		return "", nil, err
	}
	server := exec.Command("moto_server", "-H", free.IP.String(), "-p", fmt.Sprint(free.Port))
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = server.Process.Kill(); _ = server.Wait() } // it may have ended
	address = "http://" + free.String()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if response, err := http.Get(address + "/moto-api/"); err == nil {
			return address, stop, response.Body.Close()
		}
	}
	stop()
	return "", nil, errors.New("moto_server does not answer")
}
