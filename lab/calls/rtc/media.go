package rtc

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"github.com/openvidu-ha/openvidu-ha/lab/calls/measure"
)

const (
	audioInterval = 20 * time.Millisecond // of Opus as browsers send it: 50 packets a second
	audioBytes    = 80                    // 32 kbit/s

	videoInterval = 40 * time.Millisecond
	videoBytes    = 1100 // a packet's most; the SDK drops what exceeds 1,200
	videoWidth    = 640
	videoHeight   = 360
	// Frames between key frames. Whoever joins asks for one, so that this only covers a request that was lost.
	videoKeyEvery = 250
	// Where the mark begins in a video packet: behind the VP8 payload descriptor (RFC 7741, 4.2) and the longest frame header (RFC
	// 6386, 9.1).
	videoHeader = 11
)

// track sends packets of one kind, numbered by its counter.
type track struct {
	kind    string
	local   *lksdk.LocalTrack
	options lksdk.TrackPublicationOptions
	counter *measure.Counter
	send    func(ctx context.Context)
}

func newAudio(threshold time.Duration) (*track, error) {
	local, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2})
	if err != nil {
		return nil, err
	}
	t := &track{
		kind: "audio", local: local, counter: measure.NewCounter(threshold),
		options: lksdk.TrackPublicationOptions{Name: "audio", Source: livekit.TrackSource_MICROPHONE},
	}
	level := uint8(20) // in -dBov: somebody speaks, or a media server may take the participant for silent
	var sequence uint16
	var timestamp uint32
	t.send = every(audioInterval, func(now time.Time) {
		payload := make([]byte, audioBytes)
		payload[0] = 0xfc // Opus (RFC 6716, 3.1): one frame of 20 ms, stereo
		t.counter.Next(now).Put(payload[1:])
		// A packet that cannot be written, while the SDK reconnects, is lost; the counter knows.
		_ = local.WriteRTP(&rtp.Packet{
			Header:  rtp.Header{Version: 2, SequenceNumber: sequence, Timestamp: timestamp},
			Payload: payload,
		}, &lksdk.SampleWriteOptions{AudioLevel: &level})
		sequence++
		timestamp += 48000 / 50
	})
	return t, nil
}

func newVideo(kbps int, threshold time.Duration) (*track, error) {
	var keyWanted atomic.Bool
	local, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000},
		lksdk.WithRTCPHandler(func(p rtcp.Packet) {
			switch p.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				keyWanted.Store(true)
			}
		}))
	if err != nil {
		return nil, err
	}
	t := &track{
		kind: "video", local: local, counter: measure.NewCounter(threshold),
		options: lksdk.TrackPublicationOptions{
			Name: "video", Source: livekit.TrackSource_CAMERA, VideoWidth: videoWidth, VideoHeight: videoHeight,
		},
	}
	frameBytes := max(kbps*1000/8/int(time.Second/videoInterval), videoHeader+measure.MarkSize)
	packets := (frameBytes + videoBytes - 1) / videoBytes
	size := max(frameBytes/packets, videoHeader+measure.MarkSize)
	var sequence uint16
	var frame int
	t.send = every(videoInterval, func(now time.Time) {
		key := keyWanted.Swap(false) || frame%videoKeyEvery == 0
		for i := range packets {
			payload := make([]byte, size)
			if i == 0 {
				startFrame(payload, key)
			}
			t.counter.Next(now).Put(payload[videoHeader:])
			_ = local.WriteRTP(&rtp.Packet{
				Header:  rtp.Header{Version: 2, SequenceNumber: sequence, Timestamp: uint32(frame * 90000 / 25), Marker: i == packets-1},
				Payload: payload,
			}, nil)
			sequence++
		}
		frame++
	})
	return t, nil
}

// startFrame writes the descriptor and the header of a VP8 frame. What follows is not VP8: a media server looks no further.
func startFrame(payload []byte, key bool) {
	payload[0] = 0x10 // S: the beginning of a partition
	if !key {
		payload[1] = 0x11 // shown, and no key frame
		return
	}
	copy(payload[1:], []byte{0x10, 0, 0, 0x9d, 0x01, 0x2a})
	binary.LittleEndian.PutUint16(payload[7:], videoWidth)
	binary.LittleEndian.PutUint16(payload[9:], videoHeight)
}

func every(interval time.Duration, send func(now time.Time)) func(context.Context) {
	return func(ctx context.Context) {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				send(time.Now())
			}
		}
	}
}

// publisher sends the tracks of a participant until it is stopped.
type publisher struct {
	tracks []*track
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func (p *publisher) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	for _, t := range p.tracks {
		p.done.Go(func() { t.send(ctx) })
	}
}

func (p *publisher) end() {
	if p.stop != nil {
		p.stop()
		p.done.Wait()
	}
}
