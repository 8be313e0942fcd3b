package stream

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/message"
)

// acceptLimit bounds the time from a connection to its publish command.
const acceptLimit = 10 * time.Second

// Server takes streams as LiveKit's ingress service does (livekit/ingress, cmd/server/main.go and pkg/service/service.go): told to
// end, it refuses new streams, keeps its port, and is done when the last stream has ended; it says that it is healthy all that time.
type Server struct {
	mu       sync.Mutex
	out      io.Writer
	streams  map[*gortmplib.ServerConn]net.Conn
	draining bool
	done     chan struct{}
}

// Event is a line that the server writes.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`          // started, ended, refused, failed, draining, drained
	Peer  string    `json:"peer,omitempty"` // the address that the connection came from
	Key   string    `json:"key,omitempty"`
	Error string    `json:"error,omitempty"`
	Counts
}

// Counts are what a stream has brought so far.
type Counts struct {
	Audio   int     `json:"audio,omitempty"` // messages
	Video   int     `json:"video,omitempty"`
	Data    int     `json:"data,omitempty"`
	Bytes   uint64  `json:"bytes,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// NewServer makes a server that writes its events to out, each as a line of JSON.
func NewServer(out io.Writer) *Server {
	return &Server{out: out, streams: map[*gortmplib.ServerConn]net.Conn{}, done: make(chan struct{})}
}

// Serve accepts connections until the listener is closed.
func (s *Server) Serve(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go s.serve(connection)
	}
}

// Drain refuses new streams from now on. The channel is closed when the last stream has ended.
func (s *Server) Drain() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.draining = true
		s.write(Event{Event: "draining"})
		s.checkDone()
	}
	return s.done
}

// Kill ends all streams.
func (s *Server) Kill() {
	s.Drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, connection := range s.streams {
		_ = connection.Close()
	}
}

// Health answers as the service's health port does: always healthy, and available until it is told to end.
func (s *Server) Health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Healthy") })
	mux.HandleFunc("/availability", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		draining := s.draining
		s.mu.Unlock()
		if draining {
			http.Error(w, "No availability", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "Available")
	})
	return mux
}

func (s *Server) serve(connection net.Conn) {
	defer func() { _ = connection.Close() }()
	event := Event{Peer: connection.RemoteAddr().String()}
	rtmp := &gortmplib.ServerConn{RW: connection}
	report := func(name string, err error) {
		event.Event = name
		if err != nil {
			event.Error = err.Error()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.write(event)
	}

	if err := connection.SetDeadline(time.Now().Add(acceptLimit)); err != nil {
		report("failed", err)
		return
	}
	counted := &countingReader{ReadWriter: connection}
	rtmp.RW = counted
	err := rtmp.Initialize()
	if err == nil {
		err = rtmp.AcceptConn()
	}
	if err != nil {
		if counted.bytes > 0 { // a health check connects and says nothing
			report("failed", err)
		}
		return
	}
	event.Key = streamKey(rtmp.URL.Path)
	switch {
	case !rtmp.Publish || event.Key == "":
		_ = rtmp.RejectAction()
		report("refused", errors.New("no stream key, or not to publish"))
		return
	case !s.add(rtmp, connection):
		_ = rtmp.RejectAction()
		report("refused", errors.New("server shutting down"))
		return
	}
	defer s.remove(rtmp)
	if err := errors.Join(rtmp.AcceptAction(), connection.SetDeadline(time.Time{})); err != nil {
		report("failed", err)
		return
	}
	report("started", nil)
	began := time.Now()
	err = event.count(rtmp)
	event.Bytes, event.Seconds = rtmp.BytesReceived(), time.Since(began).Seconds()
	report("ended", err)
}

// streamKey is the last part of the path behind the application's name: /rtmp/KEY.
func streamKey(urlPath string) string {
	if strings.Count(strings.Trim(urlPath, "/"), "/") == 0 {
		return ""
	}
	return path.Base(urlPath)
}

// count counts until the stream ends. It returns nil if the publisher ended it.
func (c *Counts) count(rtmp *gortmplib.ServerConn) error {
	for {
		m, err := rtmp.Read()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *message.Audio:
			c.Audio++
		case *message.Video:
			c.Video++
		case *message.DataAMF0:
			c.Data++
		case *message.CommandAMF0:
			if m.Name == "deleteStream" {
				return nil
			}
		}
	}
}

func (s *Server) add(rtmp *gortmplib.ServerConn, connection net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.streams[rtmp] = connection
	return true
}

func (s *Server) remove(rtmp *gortmplib.ServerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, rtmp)
	s.checkDone()
}

// checkDone and write need the lock.
func (s *Server) checkDone() {
	if s.draining && len(s.streams) == 0 {
		select {
		case <-s.done:
		default:
			s.write(Event{Event: "drained"})
			close(s.done)
		}
	}
}

func (s *Server) write(event Event) {
	event.Time = time.Now()
	line, err := json.Marshal(event)
	if err != nil {
		panic(err) // all of its fields can be marshalled
	}
	_, _ = s.out.Write(append(line, '\n'))
}

// countingReader tells a connection that said something from one that did not.
type countingReader struct {
	io.ReadWriter
	bytes int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.ReadWriter.Read(b)
	c.bytes += n
	return n, err
}
