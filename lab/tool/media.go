package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	callsDirectory = "/var/lib/lab-calls"
	rtmpPort       = "1945"
)

// carrier stands for a service that carries calls: its health on the first port, the other ports answer. It ends as LiveKit's services do: asked by
// SIGQUIT, with its last call (a file of the scenario's, named after it); asked twice, immediately, calls and all.
func carrier(arguments []string) error {
	name := arguments[0]
	asked := make(chan os.Signal, 4)
	signal.Notify(asked, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	for _, port := range arguments[2:] {
		if port == rtmpPort {
			// A server of its own counts what it gets; it has no streams of the scenario's.
			server := exec.Command("/rtmp", "serve", "-rtmp", ":"+port, "-health", "127.0.0.1:9099")
			server.Stdout, server.Stderr = os.Stdout, os.Stderr
			if err := server.Start(); err != nil {
				return err
			}
			continue
		}
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				if connection, err := listener.Accept(); err == nil {
					connection.Close()
				}
			}
		}()
	}
	go func() {
		err := http.ListenAndServe(":"+arguments[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}()
	fmt.Println("INFO starting")
	fmt.Println("ERROR no such room")
	fmt.Println("ERROR mongodb://admin:aBcD1234@10.0.0.1/ refused")
	if name == "ingress" {
		go announce()
	}
	draining := false
	for {
		select {
		case s := <-asked:
			note(name, s.String())
			if draining || s != syscall.SIGQUIT {
				if calls := carried(name); len(calls) > 0 {
					note(name, "CUT "+strings.Join(calls, " "))
				}
				return nil
			}
			draining = true
		case <-time.After(100 * time.Millisecond):
		}
		if draining && len(carried(name)) == 0 {
			return nil
		}
	}
}

// ask for the token of the instance metadata, as the SDKs of AWS do; tells the status.
func ask([]string) error {
	request, err := http.NewRequest(http.MethodPut, "http://169.254.169.254/latest/api/token", nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "60")
	response, err := (&http.Client{Timeout: 3 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	fmt.Println(response.StatusCode)
	return response.Body.Close()
}

// carried are the calls of a service: files NAME.CALL.
func carried(name string) []string {
	calls, _ := filepath.Glob(filepath.Join(callsDirectory, name+".*"))
	return calls
}

// note writes what a service was told into a file beside the calls.
func note(name, text string) {
	file, err := os.OpenFile(filepath.Join(callsDirectory, "told-"+name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		if _, err := fmt.Fprintln(file, text); err != nil {
			log.Print(err)
		}
		file.Close()
	}
}

// announce tells the masters that this Media Node is there.
func announce() {
	for ; ; time.Sleep(2 * time.Second) {
		address, err := primary()
		if err != nil {
			continue
		}
		if connection, err := dial(address + ":" + redisPort); err == nil {
			_, _ = connection.Do("SET", mediaPrefix+os.Getenv("MEDIA_NODE_PRIVATE_IP"), 1, "EX", 6)
			connection.Close()
		}
	}
}

// livekit waits for the cluster's settings and becomes livekit-server.
func livekit([]string) error {
	var settings map[string]string
	for ; ; time.Sleep(500 * time.Millisecond) {
		address, err := primary()
		if err != nil {
			continue
		}
		connection, err := dial(address + ":" + redisPort)
		if err != nil {
			continue
		}
		settings, err = redis.StringMap(connection.Do("HGETALL", settingsKey))
		connection.Close()
		if err == nil && settings["secret"] != "" {
			break
		}
	}
	var sentinels []string
	for _, ip := range masterIps() {
		sentinels = append(sentinels, fmt.Sprintf("%q", ip+":"+sentinelPort))
	}
	turn := settings["turn"]
	if turn == "" {
		turn = settings["domain"]
	}
	addresses := "use_external_ip: true\n  stun_servers: [" + option("stun", "stun.lab.test:3478") + "]"
	if ip := os.Getenv("MEDIA_NODE_PUBLIC_IP"); ip != "" {
		addresses = "node_ip: " + ip
	}
	password := os.Getenv("REDIS_PASSWORD")
	config := fmt.Sprintf(`port: 7880
prometheus_port: 6789
redis:
  sentinel_master_name: %s
  sentinel_addresses: [%s]
  sentinel_password: %q
  password: %q
rtc:
  tcp_port: 7881
  port_range_start: 50000
  port_range_end: 60000
  %s
turn:
  enabled: true
  domain: %s
  udp_port: 443
  tls_port: 5349
  external_tls: true
  relay_range_start: 50000
  relay_range_end: 60000
keys: {%s: %q}
logging: {level: info, json: false}
`, masterSet, strings.Join(sentinels, ", "), password, password, addresses, turn, settings["key"], settings["secret"])
	if err := os.WriteFile("/tmp/livekit.yaml", []byte(config), 0o600); err != nil {
		return err
	}
	return replace("/livekit-server", "--config", "/tmp/livekit.yaml")
}
