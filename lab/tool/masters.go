package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	redisPort, sentinelPort = "7000", "7001"
	masterSet               = "openvidu"
	healthAddress           = "127.0.0.1:3999"
)

// masterIps is the cluster's list, the same on every node.
func masterIps() (ips []string) {
	for i := 1; i <= 4; i++ {
		if ip := os.Getenv(fmt.Sprintf("MASTER_NODE_%d_PRIVATE_IP", i)); ip != "" {
			ips = append(ips, ip)
		}
	}
	return ips
}

// self is the address of the list that this node has.
func self() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, address := range addresses {
		ip, _, _ := net.ParseCIDR(address.String())
		if slices.Contains(masterIps(), ip.String()) {
			return ip.String(), nil
		}
	}
	return "", fmt.Errorf("no interface has an address of %v", masterIps())
}

func dial(address string) (redis.Conn, error) {
	second := time.Second
	return redis.Dial("tcp", address, redis.DialPassword(os.Getenv("REDIS_PASSWORD")), redis.DialConnectTimeout(second), redis.DialReadTimeout(second), redis.DialWriteTimeout(second))
}

// primary asks the Sentinels.
func primary() (string, error) {
	last := errors.New("no Sentinel answers")
	for _, ip := range masterIps() {
		connection, err := dial(ip + ":" + sentinelPort)
		if err != nil {
			last = err
			continue
		}
		address, err := redis.Strings(connection.Do("SENTINEL", "get-master-addr-by-name", masterSet))
		connection.Close()
		if err == nil && len(address) == 2 {
			return address[0], nil
		}
	}
	return "", last
}

func replace(program string, arguments ...string) error {
	return syscall.Exec(program, append([]string{program}, arguments...), os.Environ())
}

// redisServer joins the primary that the Sentinels know, or waits for the first master, which begins as the primary.
func redisServer([]string) error {
	me, err := self()
	if err != nil {
		return err
	}
	password := os.Getenv("REDIS_PASSWORD")
	arguments := []string{"--port", redisPort, "--dir", "/data", "--requirepass", password, "--masterauth", password, "--save", "60 1", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"}
	of, err := primary()
	if err != nil {
		of = masterIps()[0]
	}
	if of != me {
		arguments = append(arguments, "--replicaof", of+" "+redisPort)
	}
	return replace("/usr/bin/redis-server", arguments...)
}

func sentinel([]string) error {
	password := os.Getenv("REDIS_PASSWORD")
	const file = "/data/sentinel.conf"
	if _, err := os.Stat(file); err != nil {
		config := fmt.Sprintf("port %s\ndir /tmp\nrequirepass %s\nsentinel monitor %s %s %s 2\nsentinel auth-pass %[3]s %[2]s\nsentinel down-after-milliseconds %[3]s 3000\nsentinel failover-timeout %[3]s 6000\n",
			sentinelPort, password, masterSet, masterIps()[0], redisPort)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
	}
	return replace("/usr/bin/redis-server", file, "--sentinel")
}

// peer notes the source address of whoever connects: what a service would remember of a peer.
func peer(address net.Addr) {
	host, _, _ := net.SplitHostPort(address.String())
	file, err := os.OpenFile("/data/peers", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		if _, err := fmt.Fprintln(file, host); err != nil {
			log.Print(err)
		}
		file.Close()
	}
}

// store keeps a file and is healthy while that is there. It connects to the stores of the other masters.
func store(ports []string) error {
	const file = "/data/store"
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		if entries, _ := os.ReadDir("/data"); len(entries) > 0 {
			return errors.New("its data is incomplete: no " + file)
		}
		if err := os.WriteFile(file, []byte("1\n"), 0o600); err != nil {
			return err
		}
	}
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					continue
				}
				peer(connection.RemoteAddr())
				if _, err := os.Stat(file); err == nil {
					_, _ = io.WriteString(connection, "OK\n")
				}
				connection.Close()
			}
		}()
	}
	me, err := self()
	if err != nil {
		return err
	}
	for {
		for _, ip := range masterIps() {
			if ip != me {
				if connection, err := net.DialTimeout("tcp", ip+":"+ports[0], time.Second); err == nil {
					connection.Close()
				}
			}
		}
		time.Sleep(5 * time.Second)
	}
}

func storeAnswers(port string) bool {
	connection, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
	if err != nil {
		return false
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(time.Second))
	answer, _ := io.ReadAll(connection)
	return string(answer) == "OK\n"
}

// broken counts /etc/lab/unhealthy down: so many health checks fail.
func broken() bool {
	const file = "/etc/lab/unhealthy"
	content, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	left, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	if left > 0 {
		_ = os.WriteFile(file, fmt.Appendln(nil, left-1), 0o644)
	}
	return left > 0
}

// operator tells health, keeps Caddy's upstreams those Media Nodes that are registered, shares the cluster's settings with the Media Nodes,
// and answers on the ports of the services that the lab does not have.
func operator([]string) error {
	for _, port := range []string{"3000", "4443", "5000", "6080", "7946", "7947", "9080", "9095", "9096", "9009", "3100"} {
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
	go splitTurn()
	go func() {
		var last string
		for ; ; time.Sleep(time.Second) {
			upstreams, err := register()
			if config := caddyfile(upstreams); err == nil && config != last && load(config) == nil {
				last = config
			}
		}
	}()
	return http.ListenAndServe(healthAddress, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken() || !storeAnswers("9100") || !storeAnswers("20000") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
}

const (
	settingsKey = "lab:settings"
	mediaPrefix = "lab:media:"
)

// register writes the cluster's settings and reads which Media Nodes there are.
func register() (upstreams []string, err error) {
	address, err := primary()
	if err != nil {
		return nil, err
	}
	connection, err := dial(address + ":" + redisPort)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if _, err := connection.Do("HSET", settingsKey, "key", os.Getenv("LIVEKIT_API_KEY"), "secret", os.Getenv("LIVEKIT_API_SECRET"), "domain", os.Getenv("DOMAIN_NAME"), "turn", os.Getenv("LIVEKIT_TURN_DOMAIN_NAME")); err != nil {
		return nil, err
	}
	keys, err := redis.Strings(connection.Do("KEYS", mediaPrefix+"*"))
	for _, key := range keys {
		upstreams = append(upstreams, strings.TrimPrefix(key, mediaPrefix))
	}
	slices.Sort(upstreams)
	return upstreams, err
}

// caddyfile has no upstream that would answer for nothing: without Media Nodes only health is served.
func caddyfile(upstreams []string) string {
	proxy := "respond 503"
	if len(upstreams) > 0 {
		var to []string
		for _, ip := range upstreams {
			to = append(to, ip+":7880")
		}
		proxy = "reverse_proxy " + strings.Join(to, " ") + ` {
		lb_policy random
		lb_try_duration 5s
		lb_try_interval 250ms
		health_uri /
		health_interval 2s
		health_timeout 2s
		fail_duration 10s
		transport http {
			dial_timeout 2s
		}
	}`
	}
	return `{
	auto_https off
	admin 127.0.0.1:2019
}
:7880 {
	handle /health/caddy {
		reverse_proxy ` + healthAddress + `
	}
	handle {
		` + proxy + `
	}
}
:80 {
	redir https://{host}{uri}
}
`
}

func load(config string) error {
	response, err := http.Post("http://127.0.0.1:2019/load", "text/caddyfile", strings.NewReader(config))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var answer json.RawMessage
		_ = json.NewDecoder(response.Body).Decode(&answer)
		return fmt.Errorf("caddy: %s", answer)
	}
	return nil
}

// caddy starts with no upstream; the operator gives it those.
func caddy([]string) error {
	if err := os.WriteFile("/tmp/Caddyfile", []byte(caddyfile(nil)), 0o600); err != nil {
		return err
	}
	if err := os.Setenv("HOME", "/data"); err != nil {
		return err
	}
	return replace("/usr/bin/caddy", "run", "--config", "/tmp/Caddyfile", "--adapter", "caddyfile")
}

// splitTurn takes what comes by TLS on the main domain: TURN goes to a Media Node (a STUN message begins with two zero bits, RFC 8489), HTTP to Caddy.
func splitTurn() {
	listener, err := net.Listen("tcp", ":443")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	for turn := 0; ; turn++ {
		connection, err := listener.Accept()
		if err != nil {
			continue
		}
		go func() {
			defer connection.Close()
			first := make([]byte, 1)
			if _, err := io.ReadFull(connection, first); err != nil {
				return
			}
			to := "127.0.0.1:7880"
			if first[0] < 0x40 {
				upstreams, err := register()
				if err != nil || len(upstreams) == 0 {
					return
				}
				to = upstreams[turn%len(upstreams)] + ":5349"
			}
			onward, err := net.DialTimeout("tcp", to, 2*time.Second)
			if err != nil {
				return
			}
			defer onward.Close()
			if _, err := onward.Write(first); err != nil {
				return
			}
			done := make(chan bool, 2)
			for _, pair := range [][2]net.Conn{{onward, connection}, {connection, onward}} {
				go func() { _, _ = io.Copy(pair[0], pair[1]); done <- true }()
			}
			<-done
		}()
	}
}
