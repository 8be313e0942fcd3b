package sweep

import (
	"encoding/json"
	"net/netip"
	"testing"
)

func TestPortsAreCompactRanges(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"443":                    "443",
		"1-65535":                "1-65535",
		"7881,443":               "443,7881",
		"5-6,7,9":                "5-7,9",
		"50000-60000,55000,1":    "1,50000-60000",
		"65535":                  "65535",
		"443,7881-7882,60000-65": "!",
		"0":                      "!",
		"65536":                  "!",
		"-1":                     "!",
		"1-":                     "!",
		"a":                      "!",
		"1,,2":                   "!",
	} {
		ports, err := ParsePorts(text)
		if want == "!" {
			if err == nil {
				t.Errorf("%q is read as %v", text, ports)
			}
			continue
		}
		if err != nil || ports.String() != want {
			t.Errorf("%q is read as %v, %v, want %q", text, ports, err, want)
		}
		data, err := json.Marshal(ports)
		if err != nil {
			t.Fatal(err)
		}
		var again Ports
		if err := json.Unmarshal(data, &again); err != nil || again.String() != want {
			t.Errorf("%s is read as %v, %v", data, &again, err)
		}
	}
}

func TestChecksum(t *testing.T) {
	source, target := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	for _, segment := range [][]byte{synPacket(source, target, 443, 7), udpPacket(source, target, 443, 7)} {
		protocol := byte(protocolTCP)
		if len(segment) == udpHeader+markBytes {
			protocol = protocolUDP
		}
		// The sum over a segment with its checksum is zero.
		if sum := checksum(source, target, protocol, segment); sum != 0 {
			t.Errorf("%x: %x", segment, sum)
		}
		segment[len(segment)-1] ^= 1
		if sum := checksum(source, target, protocol, segment); sum == 0 {
			t.Error("a changed segment has the same checksum")
		}
	}
}

func TestOnlyProbesAreParsed(t *testing.T) {
	source, target := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	packet := func(protocol byte, segment []byte) []byte {
		header := make([]byte, 20)
		header[0], header[9] = 0x45, protocol
		s := source.As4()
		copy(header[12:], s[:])
		return append(header, segment...)
	}
	tcp, udp := packet(protocolTCP, synPacket(source, target, 443, 7)), packet(protocolUDP, udpPacket(source, target, 7885, 8))
	for _, c := range []struct {
		packet []byte
		want   arrival
	}{
		{tcp, arrival{source, protocolTCP, 443, 7}},
		{udp, arrival{source, protocolUDP, 7885, 8}},
	} {
		if got, ok := parse(c.packet); !ok || got != c.want {
			t.Errorf("%+v %v, want %+v", got, ok, c.want)
		}
		for length := range len(c.packet) {
			if got, ok := parse(c.packet[:length]); ok {
				t.Errorf("a packet cut to %d bytes is parsed as %+v", length, got)
			}
		}
	}
	for at, change := range map[int]byte{20 + 13: 0x12, 20 + 8: 0xff} { // SYN and ACK; another acknowledgement number
		other := append([]byte(nil), tcp...)
		other[at] = change
		if got, ok := parse(other); ok {
			t.Errorf("a packet of somebody else is parsed as %+v", got)
		}
	}
	other := append([]byte(nil), udp...)
	other[20+udpHeader] ^= 1
	if got, ok := parse(other); ok {
		t.Errorf("a packet of somebody else is parsed as %+v", got)
	}
}
