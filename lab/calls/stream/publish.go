// Package stream publishes over RTMP and RTMPS, and stands in for the RTMP side of LiveKit's ingress service.
package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/bluenviron/gortmplib/pkg/message"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
)

const (
	// After this many bytes the server acknowledges them: often, so that what was acknowledged is close to what arrived.
	ackWindow = 1000
	// How long the last acknowledgements are waited for.
	ackLimit = 2 * time.Second

	audioRate    = 48000
	audioSamples = 1024 // of an AAC frame
	audioBytes   = 200
	videoEvery   = 40 * time.Millisecond
	videoBytes   = 2000
	keyEvery     = 50 // frames
)

// Publish says what to publish.
type Publish struct {
	URL        string // rtmps://host:1935/rtmp
	Key        string // of the stream
	Duration   time.Duration
	Timeout    time.Duration // until the server has accepted the stream
	ServerName string        // in the certificate; empty: the URL's

	roots *x509.CertPool // nil: the system's, or those of SSL_CERT_FILE
}

// Published is how it went.
type Published struct {
	Accepted    bool      `json:"accepted"`
	At          time.Time `json:"at"` // when it was accepted
	AcceptMs    int64     `json:"accept_ms"`
	TLS         string    `json:"tls,omitempty"`         // version
	Certificate string    `json:"certificate,omitempty"` // its first name
	Audio       int       `json:"audio"`                 // messages sent
	Video       int       `json:"video"`
	// All bytes of the connection without TLS, and how many of them the server acknowledged.
	BytesSent         uint64  `json:"bytes_sent"`
	BytesAcknowledged uint64  `json:"bytes_acknowledged"`
	Seconds           float64 `json:"seconds"`
	EndedByServer     bool    `json:"ended_by_server"`
	Error             string  `json:"error,omitempty"`
}

// Run publishes until the duration is over or the context ends.
func (p Publish) Run(ctx context.Context) *Published {
	result := &Published{}
	if err := p.run(ctx, result); err != nil {
		result.Error = err.Error()
	}
	return result
}

func (p Publish) run(ctx context.Context, result *Published) error {
	target, err := url.Parse(p.URL)
	if err != nil {
		return err
	}
	if p.Key == "" {
		return errors.New("the stream key is missing")
	}
	target.Fragment = p.Key // gortmplib's way to name it
	client := &gortmplib.Client{URL: target, Publish: true, TLSConfig: &tls.Config{ServerName: p.ServerName, RootCAs: p.roots}}
	began := time.Now()
	connecting, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	if err := client.Initialize(connecting); err != nil {
		return fmt.Errorf("publishing was not accepted: %w", err)
	}
	defer client.Close()
	result.Accepted, result.At, result.AcceptMs = true, time.Now(), time.Since(began).Milliseconds()
	if connection, ok := client.NetConn().(*tls.Conn); ok {
		state := connection.ConnectionState()
		result.TLS = tls.VersionName(state.Version)
		if names := state.PeerCertificates[0].DNSNames; len(names) > 0 {
			result.Certificate = names[0]
		}
	}

	acknowledged, ended := &atomic.Uint64{}, make(chan error, 1)
	go func() { ended <- readAcknowledgements(client, acknowledged) }()
	defer func() {
		result.BytesSent, result.BytesAcknowledged = client.BytesSent(), acknowledged.Load()
		result.Seconds = time.Since(result.At).Seconds()
	}()
	if err := client.Write(&message.SetWindowAckSize{Value: ackWindow}); err != nil {
		return err
	}
	if err := p.send(ctx, client, result, ended); err != nil {
		return err
	}
	for deadline := time.Now().Add(ackLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if acknowledged.Load()+ackWindow >= client.BytesSent() {
			break
		}
	}
	return unpublish(client, p.Key)
}

func (p Publish) send(ctx context.Context, client *gortmplib.Client, result *Published, ended <-chan error) error {
	audio := &gortmplib.Track{Codec: &codecs.MPEG4Audio{Config: &mpeg4audio.AudioSpecificConfig{
		Type: mpeg4audio.ObjectTypeAACLC, SampleRate: audioRate, ChannelConfig: 2,
	}}}
	video := &gortmplib.Track{Codec: &codecs.H264{}}
	writer := &gortmplib.Writer{Conn: client, Tracks: []*gortmplib.Track{video, audio}}
	if err := writer.Initialize(); err != nil {
		return err
	}
	audioEvery := audioSamples * time.Second / audioRate
	audioTicker, videoTicker := time.NewTicker(audioEvery), time.NewTicker(videoEvery)
	defer audioTicker.Stop()
	defer videoTicker.Stop()
	over := time.After(p.Duration)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			return nil
		case err := <-ended:
			result.EndedByServer = true
			return fmt.Errorf("the server ended the stream: %w", err)
		case <-audioTicker.C:
			if err := writer.WriteMPEG4Audio(audio, time.Duration(result.Audio)*audioEvery, make([]byte, audioBytes)); err != nil {
				return err
			}
			result.Audio++
		case <-videoTicker.C:
			frame := make([]byte, videoBytes)
			frame[0] = 0x41 // a slice that is no key frame (H.264, 7.3.1)
			if result.Video%keyEvery == 0 {
				frame[0] = 0x65
			}
			at := time.Duration(result.Video) * videoEvery
			if err := writer.WriteH264(video, at, at, [][]byte{frame}); err != nil {
				return err
			}
			result.Video++
		}
	}
}

// readAcknowledgements reads until the connection ends. The library answers pings from here while another goroutine sends; servers of
// an ingress send none.
func readAcknowledgements(client *gortmplib.Client, acknowledged *atomic.Uint64) error {
	for {
		m, err := client.Read()
		if err != nil {
			return err
		}
		if ack, ok := m.(*message.Acknowledge); ok {
			acknowledged.Store(uint64(ack.Value))
		}
	}
}

// unpublish ends the stream as encoders do.
func unpublish(client *gortmplib.Client, key string) error {
	for _, command := range []*message.CommandAMF0{
		{ChunkStreamID: 3, Name: "FCUnpublish", CommandID: 6, Arguments: []any{nil, key}},
		{ChunkStreamID: 3, Name: "deleteStream", CommandID: 7, Arguments: []any{nil, float64(1)}},
	} {
		if err := client.Write(command); err != nil {
			return err
		}
	}
	return nil
}
