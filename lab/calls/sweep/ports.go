// Package sweep finds out which ports of a machine a filter lets through, whether or not anything listens there. A sender sends one
// packet to each port; a listener on the target reports which of them arrived.
package sweep

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// All are all ports but port 0, which no rule can name.
const All = "1-65535"

// Ports is a set of ports. Its text and its JSON are compact: "443,7881,50000-60000".
type Ports struct{ set [1 << 16]bool }

// ParsePorts reads ports and ranges, separated by commas. An empty text is an empty set.
func ParsePorts(text string) (*Ports, error) {
	p := &Ports{}
	if text == "" {
		return p, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", text, err)
		}
		last, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", text, err)
		}
		if first == 0 || first > last {
			return nil, fmt.Errorf("ports %q: %q is no range within %s", text, part, All)
		}
		for port := first; port <= last; port++ {
			p.set[port] = true
		}
	}
	return p, nil
}

// Add adds a port.
func (p *Ports) Add(port uint16) { p.set[port] = true }

// Has tells whether the port is in the set.
func (p *Ports) Has(port uint16) bool { return p.set[port] }

// List returns the ports in their order.
func (p *Ports) List() (list []uint16) {
	for port, in := range p.set {
		if in {
			list = append(list, uint16(port))
		}
	}
	return list
}

func (p *Ports) String() string {
	var parts []string
	for first := 0; first < len(p.set); first++ {
		if !p.set[first] {
			continue
		}
		last := first
		for last+1 < len(p.set) && p.set[last+1] {
			last++
		}
		if first == last {
			parts = append(parts, strconv.Itoa(first))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", first, last))
		}
		first = last
	}
	return strings.Join(parts, ",")
}

// MarshalJSON writes the compact text.
func (p *Ports) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalJSON reads the compact text.
func (p *Ports) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	parsed, err := ParsePorts(text)
	if err != nil {
		return err
	}
	*p = *parsed
	return nil
}
