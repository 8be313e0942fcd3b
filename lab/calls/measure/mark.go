// Package measure counts what a call loses. A publisher numbers its packets inside of their payload, where neither a media server
// nor a reconnection rewrites the numbers; a subscriber finds from them what was lost, came twice or late, and how long it heard
// nothing.
package measure

import (
	"bytes"
	"encoding/binary"
	"time"
)

// MarkSize is the number of bytes that a mark takes in a payload.
const MarkSize = 28

// markSearch bounds where a mark may begin: a media server rewrites the VP8 payload descriptor, which moves what follows it.
const markSearch = 64

var magic = []byte("OVcallMk")

// Mark is what a publisher writes into the payload of each packet.
type Mark struct {
	Run    uint32    // tells a counter from the one before it, when a publisher starts again from zero
	Number uint64    // of the packet within the run, from zero
	Sent   time.Time // by the publisher's clock
}

// Put writes the mark to the beginning of payload, which has MarkSize bytes at least.
func (m Mark) Put(payload []byte) {
	copy(payload, magic)
	binary.BigEndian.PutUint32(payload[8:], m.Run)
	binary.BigEndian.PutUint64(payload[12:], m.Number)
	binary.BigEndian.PutUint64(payload[20:], uint64(m.Sent.UnixNano()))
}

// FindMark finds the mark in a payload.
func FindMark(payload []byte) (Mark, bool) {
	at := bytes.Index(payload[:min(len(payload), markSearch+len(magic))], magic)
	if at < 0 || len(payload) < at+MarkSize {
		return Mark{}, false
	}
	p := payload[at:]
	return Mark{
		Run:    binary.BigEndian.Uint32(p[8:]),
		Number: binary.BigEndian.Uint64(p[12:]),
		Sent:   time.Unix(0, int64(binary.BigEndian.Uint64(p[20:]))),
	}, true
}
