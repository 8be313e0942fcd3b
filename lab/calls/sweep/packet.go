package sweep

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Whoever sweeps one target twice should use the same source port: connection tracking then finds its entries again, rather than to
// fill its table with twice as many.
const sourcePort = 61213

// A TCP probe has the mark as its acknowledgement number, which means nothing in a SYN (RFC 9293, 3.1); a UDP probe in its payload.
const mark = 0x6f764841

const (
	protocolTCP = unix.IPPROTO_TCP
	protocolUDP = unix.IPPROTO_UDP
	tcpHeader   = 20
	udpHeader   = 8
	markBytes   = 8
	flagSYN     = 0x02
	anyWindow   = 1024
)

// synPacket makes a SYN. The sweep is its sequence number.
func synPacket(source, target netip.Addr, port uint16, sweep uint32) []byte {
	b := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(b[0:], sourcePort)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint32(b[4:], sweep)
	binary.BigEndian.PutUint32(b[8:], mark)
	b[12] = tcpHeader / 4 << 4
	b[13] = flagSYN
	binary.BigEndian.PutUint16(b[14:], anyWindow)
	binary.BigEndian.PutUint16(b[16:], checksum(source, target, protocolTCP, b))
	return b
}

func udpPacket(source, target netip.Addr, port uint16, sweep uint32) []byte {
	b := make([]byte, udpHeader+markBytes)
	binary.BigEndian.PutUint16(b[0:], sourcePort)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	binary.BigEndian.PutUint32(b[udpHeader:], mark)
	binary.BigEndian.PutUint32(b[udpHeader+4:], sweep)
	sum := checksum(source, target, protocolUDP, b)
	if sum == 0 {
		sum = 0xffff // RFC 768: 0 means that there is none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// checksum is that of TCP and UDP over the pseudo header and the segment (RFC 9293, 3.1).
func checksum(source, target netip.Addr, protocol byte, segment []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i]) << 8
			if i+1 < len(b) {
				sum += uint32(b[i+1])
			}
		}
	}
	s, t := source.As4(), target.As4()
	add(s[:])
	add(t[:])
	sum += uint32(protocol) + uint32(len(segment))
	add(segment)
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arrival is a probe that arrived.
type arrival struct {
	source   netip.Addr
	protocol byte
	port     uint16
	sweep    uint32
}

// parse reads an IPv4 packet and tells whether it is a probe.
func parse(packet []byte) (a arrival, ok bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return a, false
	}
	header := int(packet[0]&0xf) * 4
	if len(packet) < header {
		return a, false
	}
	a.source = netip.AddrFrom4([4]byte(packet[12:16]))
	a.protocol = packet[9]
	b := packet[header:]
	switch {
	case a.protocol == protocolTCP && len(b) >= tcpHeader && b[13] == flagSYN && binary.BigEndian.Uint32(b[8:]) == mark:
		a.sweep = binary.BigEndian.Uint32(b[4:])
	case a.protocol == protocolUDP && len(b) == udpHeader+markBytes && binary.BigEndian.Uint32(b[udpHeader:]) == mark:
		a.sweep = binary.BigEndian.Uint32(b[udpHeader+4:])
	default:
		return a, false
	}
	a.port = binary.BigEndian.Uint16(b[2:])
	return a, true
}
