package stream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const patience = 10 * time.Second

// log collects the lines that a server writes.
type log struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *log) events(t *testing.T) (events []Event) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	decoder := json.NewDecoder(bytes.NewReader(l.lines.Bytes()))
	for {
		var e Event
		if err := decoder.Decode(&e); err == io.EOF {
			return events
		} else if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

func (l *log) wait(t *testing.T, name, key string) Event {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, e := range l.events(t) {
			if e.Event == name && e.Key == key {
				return e
			}
		}
	}
	t.Fatalf("no event %s of %q: %+v", name, key, l.events(t))
	return Event{}
}

func newTestServer(t *testing.T) (server *Server, events *log, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	events = &log{}
	server = NewServer(events)
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		server.Kill()
	})
	return server, events, listener.Addr().String()
}

// terminateTLS stands in for a load balancer that terminates TLS.
func terminateTLS(t *testing.T, backend, name string) (address string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(certificate)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			front, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = front.Close() }()
				back, err := net.Dial("tcp", backend)
				if err != nil {
					return
				}
				defer func() { _ = back.Close() }()
				go func() {
					_, _ = io.Copy(back, front)
					_ = back.Close()
				}()
				_, _ = io.Copy(front, back)
			}()
		}
	}()
	return listener.Addr().String(), roots
}

func TestStreamThroughTLSArrivesWhole(t *testing.T) {
	_, events, backend := newTestServer(t)
	address, roots := terminateTLS(t, backend, "media.test")
	p := Publish{URL: "rtmps://" + address + "/rtmp", Key: "key1", Duration: 2 * time.Second, Timeout: patience, ServerName: "media.test", roots: roots}
	r := p.Run(t.Context())
	if !r.Accepted || r.Error != "" || r.EndedByServer || r.TLS != "TLS 1.3" || r.Certificate != "media.test" {
		t.Fatalf("%+v", r)
	}
	if r.Audio < 20 || r.Video < 10 {
		t.Errorf("sent too little: %+v", r)
	}
	if r.BytesAcknowledged+3*ackWindow < r.BytesSent || r.BytesAcknowledged > r.BytesSent {
		t.Errorf("%d of %d bytes acknowledged", r.BytesAcknowledged, r.BytesSent)
	}
	events.wait(t, "started", "key1")
	ended := events.wait(t, "ended", "key1")
	// Both codecs begin with a message of their settings.
	if ended.Audio != r.Audio+1 || ended.Video != r.Video+1 || ended.Data != 1 || ended.Error != "" || ended.Bytes != r.BytesSent {
		t.Errorf("sent %+v, arrived %+v", r, ended)
	}
	if !strings.HasPrefix(ended.Peer, "127.0.0.1:") {
		t.Errorf("peer %q", ended.Peer)
	}
}

func TestUntrustedCertificateIsRefused(t *testing.T) {
	_, events, backend := newTestServer(t)
	address, roots := terminateTLS(t, backend, "media.test")
	for name, p := range map[string]Publish{
		"another authority": {ServerName: "media.test", roots: x509.NewCertPool()},
		"another name":      {ServerName: "other.test", roots: roots},
	} {
		p.URL, p.Key, p.Timeout = "rtmps://"+address+"/rtmp", "key1", patience
		if r := p.Run(t.Context()); r.Accepted || !strings.Contains(r.Error, "x509") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got := events.events(t); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestServerThatDrains(t *testing.T) {
	server, events, address := newTestServer(t)
	health := httptest.NewServer(server.Health())
	defer health.Close()
	status := func(path string) int {
		answer, err := http.Get(health.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	p := Publish{URL: "rtmp://" + address + "/rtmp", Key: "first", Duration: time.Hour, Timeout: patience}
	ctx, stop := context.WithCancel(t.Context())
	running := make(chan *Published)
	go func() { running <- p.Run(ctx) }()
	events.wait(t, "started", "first")
	if got := status("/availability"); got != http.StatusOK {
		t.Errorf("availability %d", got)
	}

	done := server.Drain()
	p.Key, p.Duration = "second", time.Second
	if r := p.Run(t.Context()); r.Accepted || r.Error == "" {
		t.Errorf("a new stream while draining: %+v", r)
	}
	events.wait(t, "refused", "second")
	if got := status("/"); got != http.StatusOK {
		t.Errorf("health while draining %d", got)
	}
	if got := status("/availability"); got != http.StatusServiceUnavailable {
		t.Errorf("availability while draining %d", got)
	}
	select {
	case <-done:
		t.Error("done while a stream runs")
	case <-time.After(200 * time.Millisecond):
	}
	server.Drain() // another signal changes nothing
	stop()
	if r := <-running; r.Error != "" || r.EndedByServer {
		t.Errorf("the stream that ran: %+v", r)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("not done after the last stream")
	}
	events.wait(t, "drained", "")
}

func TestServerWithoutStreamsDrainsImmediately(t *testing.T) {
	server, _, _ := newTestServer(t)
	select {
	case <-server.Drain():
	case <-time.After(patience):
		t.Fatal("not done")
	}
}

func TestPublisherNoticesThatTheServerEndsTheStream(t *testing.T) {
	server, events, address := newTestServer(t)
	p := Publish{URL: "rtmp://" + address + "/rtmp", Key: "key1", Duration: time.Hour, Timeout: patience}
	running := make(chan *Published)
	go func() { running <- p.Run(t.Context()) }()
	events.wait(t, "started", "key1")
	server.Kill()
	if r := <-running; !r.Accepted || r.Error == "" {
		t.Errorf("%+v", r)
	}
	events.wait(t, "ended", "key1")
}

func TestPublisherGivesUp(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	p := Publish{URL: "rtmp://" + silent.Addr().String() + "/rtmp", Key: "key1", Timeout: 200 * time.Millisecond}
	if r := p.Run(t.Context()); r.Accepted || r.Error == "" {
		t.Errorf("%+v", r)
	}
	p.Key = ""
	if r := p.Run(t.Context()); !strings.Contains(r.Error, "key") {
		t.Errorf("%+v", r)
	}
}

func TestHealthCheckOfThePortIsNoEvent(t *testing.T) {
	_, events, address := newTestServer(t)
	for range 3 {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = connection.Close()
	}
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connection.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = connection.Close()
	events.wait(t, "failed", "")
	if got := events.events(t); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestStreamKey(t *testing.T) {
	for path, want := range map[string]string{"/rtmp/key1": "key1", "/rtmp/a/key1": "key1", "/rtmp": "", "/rtmp/": "", "/": "", "": ""} {
		if got := streamKey(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
