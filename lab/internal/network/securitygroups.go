package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Rule of a security group: it allows what it matches; nothing else is allowed.
type Rule struct {
	// Protocol is tcp, udp, icmp, icmpv6, -1 for all, or a number.
	Protocol string
	// From and To are ports, or an ICMP type and code; -1 stands for all of them.
	From, To int
	// The peer: one of an IPv4 range, an IPv6 range, or the members of a group.
	CIDR, CIDR6 netip.Prefix
	Group       string
}

// Group is a security group with its inline rules.
type Group struct {
	Stack             string
	Inbound, Outbound []Rule
}

type group struct{ Group }

// standaloneRule is a resource outside of its group.
type standaloneRule struct {
	group   string
	inbound bool
	rule    Rule
}

// PutGroup makes a security group, or replaces its inline rules. Flows that were allowed stay allowed until they end: "When
// you change a security group rule, its tracked connections are not immediately interrupted" (EC2 User Guide, Security group
// connection tracking).
func (n *Network) PutGroup(id string, g Group) error {
	if err := errors.Join(validate(g.Inbound), validate(g.Outbound)); err != nil {
		return fmt.Errorf("security group %s: %w", id, err)
	}
	n.mu.Lock()
	n.groups[id] = &group{g}
	n.mu.Unlock()
	return n.filter.now()
}

// DeleteGroup refuses a group that an interface or another group's rule uses, as EC2 does.
func (n *Network) DeleteGroup(id string) error {
	n.mu.Lock()
	for _, i := range n.interfaces {
		if slices.Contains(i.Groups, id) {
			n.mu.Unlock()
			return fmt.Errorf("DependencyViolation: resource %s has a dependent object: interface %s", id, i.Address)
		}
	}
	for other, g := range n.groups {
		for _, rule := range slices.Concat(g.Inbound, g.Outbound) {
			if rule.Group == id && other != id {
				n.mu.Unlock()
				return fmt.Errorf("DependencyViolation: resource %s has a dependent object: a rule of %s", id, other)
			}
		}
	}
	for name, r := range n.rules {
		if r.rule.Group == id && r.group != id {
			n.mu.Unlock()
			return fmt.Errorf("DependencyViolation: resource %s has a dependent object: rule %s of %s", id, name, r.group)
		}
	}
	delete(n.groups, id)
	n.mu.Unlock()
	return n.filter.now()
}

// PutRule adds or changes a rule that is a resource of its own: AWS::EC2::SecurityGroupIngress or Egress.
func (n *Network) PutRule(id, group string, inbound bool, rule Rule) error {
	if err := validate([]Rule{rule}); err != nil {
		return fmt.Errorf("security group rule %s: %w", id, err)
	}
	n.mu.Lock()
	if n.groups[group] == nil {
		n.mu.Unlock()
		return fmt.Errorf("InvalidGroup.NotFound: The security group '%s' does not exist", group)
	}
	n.rules[id] = standaloneRule{group, inbound, rule}
	n.mu.Unlock()
	return n.filter.now()
}

// DeleteRule of PutRule.
func (n *Network) DeleteRule(id string) error {
	n.mu.Lock()
	delete(n.rules, id)
	n.mu.Unlock()
	return n.filter.now()
}

func validate(rules []Rule) error {
	for _, r := range rules {
		peers := 0
		for _, given := range []bool{r.CIDR.IsValid(), r.CIDR6.IsValid(), r.Group != ""} {
			if given {
				peers++
			}
		}
		if peers != 1 {
			return fmt.Errorf("a rule has %d peers: %+v", peers, r)
		}
		if r.CIDR.IsValid() && (!r.CIDR.Addr().Is4() || r.CIDR.Masked() != r.CIDR) {
			return fmt.Errorf("InvalidParameterValue: CIDR block %s is malformed", r.CIDR)
		}
		if _, err := match(r); err != nil {
			return err
		}
	}
	return nil
}

// match is the rule's protocol and ports in nft's words.
func match(r Rule) (string, error) {
	switch protocol := r.Protocol; protocol {
	case "-1":
		return "", nil
	case "tcp", "udp":
		if r.From == -1 && r.To == -1 || r.From == 0 && r.To == 65535 {
			return "meta l4proto " + protocol, nil
		}
		if r.From < 0 || r.To > 65535 || r.From > r.To {
			return "", fmt.Errorf("InvalidParameterValue: invalid port range %d-%d", r.From, r.To)
		}
		if r.From == r.To {
			return fmt.Sprintf("%s dport %d", protocol, r.From), nil
		}
		return fmt.Sprintf("%s dport %d-%d", protocol, r.From, r.To), nil
	case "icmp":
		text := "meta l4proto icmp"
		if r.From >= 0 {
			text += fmt.Sprint(" icmp type ", r.From)
		}
		if r.To >= 0 {
			text += fmt.Sprint(" icmp code ", r.To)
		}
		return text, nil
	case "icmpv6":
		return "meta l4proto icmpv6", nil
	default:
		number, err := strconv.Atoi(protocol)
		if err != nil || number < 0 || number > 255 {
			return "", fmt.Errorf("InvalidParameterValue: invalid protocol %q", protocol)
		}
		return fmt.Sprint("meta l4proto ", number), nil
	}
}

// filterScript is the whole table: nft 1.0.6 crashes when a rule with a range set is replaced alone, and a table that is
// deleted and made in one transaction never leaves a gap.
//
// Outbound and inbound rules are two chains at the same hook. "accept" ends a chain, not the hook, so a packet between two
// interfaces must pass the first's outbound and the second's inbound rules.
func (n *Network) filterScript() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var body strings.Builder
	members := map[string][]string{}
	var inbound, outbound, cut []string
	chains := map[string]bool{}
	for _, address := range sorted(n.interfaces) {
		i := n.interfaces[address]
		if n.isCut(i) {
			cut = append(cut, address.String())
		}
		if len(i.Groups) == 0 {
			continue
		}
		groups := slices.Clone(i.Groups)
		slices.Sort(groups)
		var in, out strings.Builder
		name := "i"
		for _, id := range slices.Compact(groups) {
			members[id] = append(members[id], address.String())
			name += "_" + identifier(id)
			if n.groups[id] != nil {
				fmt.Fprintf(&in, "jump in_%s; ", identifier(id))
				fmt.Fprintf(&out, "jump out_%s; ", identifier(id))
			}
		}
		// One pair of chains for all interfaces with the same groups.
		if !chains[name] {
			chains[name] = true
			fmt.Fprintf(&body, "chain %s_in { %s drop; }\nchain %s_out { %s drop; }\n", name, in.String(), name, out.String())
		}
		inbound = append(inbound, fmt.Sprintf("%s : goto %s_in", address, name))
		outbound = append(outbound, fmt.Sprintf("%s : goto %s_out", address, name))
	}
	var rules strings.Builder
	peers := map[string]bool{}
	for _, id := range sortedStrings(n.groups) {
		g := n.groups[id]
		in, out := slices.Clone(g.Inbound), slices.Clone(g.Outbound)
		for _, name := range sortedStrings(n.rules) {
			if r := n.rules[name]; r.group == id && r.inbound {
				in = append(in, r.rule)
			} else if r.group == id {
				out = append(out, r.rule)
			}
		}
		for _, direction := range []struct {
			name, field string
			rules       []Rule
		}{{"in", "saddr", in}, {"out", "daddr", out}} {
			fmt.Fprintf(&rules, "chain %s_%s {\n", direction.name, identifier(id))
			for _, r := range direction.rules {
				words, _ := match(r)
				switch {
				case r.CIDR6.IsValid():
					continue // the lab's network is IPv4
				case r.Group != "":
					peers[r.Group] = true
					words += fmt.Sprintf(" ip %s @m_%s", direction.field, identifier(r.Group))
				case r.CIDR.Bits() > 0:
					words += fmt.Sprintf(" ip %s %s", direction.field, r.CIDR)
				}
				fmt.Fprintln(&rules, " ", words, "accept")
			}
			fmt.Fprintln(&rules, "}")
		}
	}
	var sets strings.Builder
	for _, id := range sortedStrings(peers) {
		fmt.Fprintf(&sets, "set m_%s { type ipv4_addr; %s }\n", identifier(id), elements(members[id]))
	}
	return fmt.Sprintf(`table ip sg
delete table ip sg
table ip sg {
%[1]s
set cut { type ipv4_addr; %[2]s }
%[3]s
%[4]s
map in { type ipv4_addr : verdict; %[5]s }
map out { type ipv4_addr : verdict; %[6]s }
chain cut_forward { type filter hook forward priority -20; ip saddr @cut drop; ip daddr @cut drop; }
chain cut_input { type filter hook input priority -20; ip saddr @cut drop; }
chain cut_output { type filter hook output priority -20; ip daddr @cut drop; }
chain outbound { type filter hook forward priority -10; ct state established,related accept; ip saddr vmap @out; }
chain inbound { type filter hook forward priority 0; ct state established,related accept; ip daddr vmap @in; }
chain services { type filter hook input priority 0; ct state established,related accept
# Security groups do not filter the Amazon DNS server (VPC User Guide, Security groups).
ip daddr %[7]s meta l4proto { tcp, udp } th dport 53 accept
ip saddr vmap @out; }
}
`, sets.String(), elements(cut), rules.String(), body.String(), elements(inbound), elements(outbound), n.Resolver())
}

func sorted[V any](of map[netip.Addr]V) []netip.Addr {
	var keys []netip.Addr
	for key := range of {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, netip.Addr.Compare)
	return keys
}

func sortedStrings[V any](of map[string]V) []string {
	var keys []string
	for key := range of {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// ParseGroup reads the properties of an AWS::EC2::SecurityGroup. A group without outbound rules of its own allows everything
// outbound (VPC User Guide, Security groups).
func ParseGroup(stack string, properties map[string]any) (Group, error) {
	g := Group{Stack: stack}
	var failures []error
	for _, element := range list(properties["SecurityGroupIngress"]) {
		rule, err := ParseRule(element)
		g.Inbound, failures = append(g.Inbound, rule), append(failures, err)
	}
	for _, element := range list(properties["SecurityGroupEgress"]) {
		rule, err := ParseRule(element)
		g.Outbound, failures = append(g.Outbound, rule), append(failures, err)
	}
	if len(g.Outbound) == 0 {
		g.Outbound = []Rule{{Protocol: "-1", From: -1, To: -1, CIDR: netip.MustParsePrefix("0.0.0.0/0")},
			{Protocol: "-1", From: -1, To: -1, CIDR6: netip.MustParsePrefix("::/0")}}
	}
	return g, errors.Join(failures...)
}

// ParseRule reads an inline rule, or the properties of an AWS::EC2::SecurityGroupIngress or Egress.
func ParseRule(properties map[string]any) (Rule, error) {
	r := Rule{Protocol: strings.ToLower(text(properties["IpProtocol"])), From: -1, To: -1}
	switch r.Protocol {
	case "6":
		r.Protocol = "tcp"
	case "17":
		r.Protocol = "udp"
	case "1":
		r.Protocol = "icmp"
	case "58":
		r.Protocol = "icmpv6"
	}
	var failures []error
	for key, value := range properties {
		var err error
		switch key {
		case "FromPort":
			r.From, err = strconv.Atoi(text(value))
		case "ToPort":
			r.To, err = strconv.Atoi(text(value))
		case "CidrIp":
			r.CIDR, err = netip.ParsePrefix(text(value))
		case "CidrIpv6":
			r.CIDR6, err = netip.ParsePrefix(text(value))
		case "SourceSecurityGroupId", "DestinationSecurityGroupId":
			r.Group = text(value)
		case "IpProtocol", "Description", "GroupId":
		default:
			err = fmt.Errorf("the lab knows no %s of a security group rule", key)
		}
		failures = append(failures, err)
	}
	return r, errors.Join(append(failures, validate([]Rule{r}))...)
}

// text of a resolved property: CloudFormation takes numbers as texts, and texts as numbers.
func text(value any) string {
	if number, ok := value.(float64); ok {
		return strconv.FormatFloat(number, 'f', -1, 64)
	}
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

func list(value any) []map[string]any {
	var out []map[string]any
	elements, _ := value.([]any)
	for _, element := range elements {
		if object, ok := element.(map[string]any); ok {
			out = append(out, object)
		}
	}
	return out
}
