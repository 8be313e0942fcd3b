// Command cost tells what a cluster costs in a month, as Markdown: quantities are counted in the synthesized template, prices
// and assumptions stand in prices.json.
package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

//go:embed prices.json
var pricesFile []byte

// catalog is prices.json.
type catalog struct {
	Region, Date string
	Prices       map[string]struct {
		Usd                float64
		Unit, Source, Seen string // Seen is empty where no copy of the price was found.
	}
	Assumptions map[string]struct {
		Value   float64
		Meaning string
	}
}

func main() {
	template := flag.String("template", "cdk.out/OpenViduHA.template.json", "the synthesized template")
	set, assume := pairs{}, pairs{}
	flag.Var(set, "set", "`Parameter=value` of the template, like MediaNodeInstanceType=c6a.2xlarge; may be repeated")
	flag.Var(assume, "assume", "`name=value` of an assumption, like snapshotUsed=0.8; may be repeated")
	flag.Parse()
	if err := run(*template, set, assume); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

// pairs are the values of a flag that may be repeated.
type pairs map[string]string

func (p pairs) String() string { return "" }

func (p pairs) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q: give name=value", text)
	}
	p[name] = value
	return nil
}

func run(path string, set, assume pairs) error {
	template, err := read(path)
	if err != nil {
		return err
	}
	prices, err := readCatalog(assume)
	if err != nil {
		return err
	}
	text, err := document(template, prices, set)
	if err == nil {
		fmt.Print(text)
	}
	return err
}

func read(path string) (cfn.Template, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: synthesize it first (make synth)", err)
	}
	var template cfn.Template
	if err := json.Unmarshal(content, &template); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return template, nil
}

func readCatalog(assume pairs) (catalog, error) {
	var c catalog
	if err := json.Unmarshal(pricesFile, &c); err != nil {
		return c, fmt.Errorf("prices.json: %w", err)
	}
	for name, text := range assume {
		assumption, ok := c.Assumptions[name]
		if !ok {
			return c, fmt.Errorf("assumption %q is not known: give one of %s", name, names(c.Assumptions))
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil || value < 0 || math.IsInf(value, 0) || math.IsNaN(value) {
			return c, fmt.Errorf("assumption %s is %q: give a number of 0 or more", name, text)
		}
		assumption.Value = value
		c.Assumptions[name] = assumption
	}
	return c, nil
}

func names[T any](of map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(of)), ", ")
}

// line of a bill: so much of something that has a price.
type line struct {
	component, item string
	quantity        float64
	price           string // its name in the catalog
	usd             float64
}

// bill of a month.
type bill struct {
	catalog catalog
	lines   []line
	err     error
}

func (b *bill) add(component, item string, quantity float64, price string) {
	found, ok := b.catalog.Prices[price]
	if !ok {
		b.fail("%s, %s: prices.json has no price of %q; it has %s", component, item, price, names(b.catalog.Prices))
	}
	if quantity == 0 {
		return
	}
	// What two groups have in common is one line.
	for i, l := range b.lines {
		if l.component == component && l.item == item && l.price == price {
			b.lines[i].quantity += quantity
			b.lines[i].usd += quantity * found.Usd
			return
		}
	}
	b.lines = append(b.lines, line{component, item, quantity, price, quantity * found.Usd})
}

func (b *bill) fail(format string, args ...any) {
	b.err = errors.Join(b.err, fmt.Errorf(format, args...))
}

func (b *bill) assumed(name string) float64 {
	assumption, ok := b.catalog.Assumptions[name]
	if !ok {
		b.fail("prices.json has no assumption %q", name)
	}
	return assumption.Value
}

// of a component, or of all ("").
func (b *bill) of(component string) float64 {
	var sum float64
	for _, l := range b.lines {
		if component == "" || l.component == component {
			sum += l.usd
		}
	}
	return sum
}

func (b *bill) components() []string {
	var out []string
	for _, l := range b.lines {
		if !slices.Contains(out, l.component) {
			out = append(out, l.component)
		}
	}
	return out
}

const (
	balancers = "Load balancers"
	addresses = "Public IPv4 addresses"
	nat       = "NAT gateways"
	watching  = "CloudWatch"
)

// estimate counts what the template makes with these parameters. Each subnet is taken to be in a zone of its own.
func estimate(template cfn.Template, prices catalog, set pairs) (*bill, error) {
	b := &bill{catalog: prices}
	parameters, err := complete(template, set)
	if err != nil {
		return nil, err
	}
	zones := subnets(parameters, "OpenViduMasterNodeSubnets", "OpenViduMediaNodeSubnets")
	private := len(subnets(parameters, "LoadBalancerSubnets")) > 0
	if private {
		zones = subnets(parameters, "LoadBalancerSubnets")
	}
	d := cfn.Deploy(template, parameters, func(id, attribute string) any {
		switch attribute {
		case "":
			return id
		case "LoadBalancerSubnets", "TurnSubnets":
			return strings.Join(zones, ",") // the preflight function takes one in each zone
		}
		return id + "." + attribute
	}, b.fail)
	hours := b.assumed("hours")
	ids := func(resourceType string) []string { return slices.Sorted(maps.Keys(d.OfType(resourceType))) }

	var nodes, media, exposed, hidden float64
	var hiddenZones []string
	groups := d.OfType("AWS::AutoScaling::AutoScalingGroup")
	for _, id := range ids("AWS::AutoScaling::AutoScalingGroup") {
		component, count := role(groups[id]), b.number(id, groups[id]["DesiredCapacity"])
		launch := b.launch(d, id, groups[id])
		b.add(component, "instances", count*hours, fmt.Sprint(launch["InstanceType"]))
		for kind, size := range b.roots(id, launch) {
			b.add(component, "root volumes", count*size, "EBS "+kind)
		}
		if cfn.At(launch, "Monitoring", "Enabled") == true {
			b.add(component, "detailed monitoring", count*b.assumed("detailedMetrics"), "metric")
		}
		nodes += count
		of := "OpenViduMasterNodeSubnets"
		if component == mediaNodes {
			media += count
			of = "OpenViduMediaNodeSubnets"
		}
		if private && (component != mediaNodes || b.assumed("privateMedia") != 0) {
			hidden += count
			hiddenZones = append(hiddenZones, subnets(parameters, of)...)
		} else {
			exposed += count
		}
	}
	slices.Sort(hiddenZones)
	gateways := float64(len(slices.Compact(hiddenZones)))

	volumes := d.OfType("AWS::EC2::Volume")
	var data float64
	for _, id := range ids("AWS::EC2::Volume") {
		size := b.number(id, volumes[id]["Size"])
		data += size
		b.add(masterNodes, "data volumes", size, "EBS "+fmt.Sprint(volumes[id]["VolumeType"]))
	}
	policies := d.OfType("AWS::DLM::LifecyclePolicy")
	for _, id := range ids("AWS::DLM::LifecyclePolicy") {
		for _, schedule := range cfn.List(cfn.At(policies[id], "PolicyDetails", "Schedules")) {
			kept := b.number(id, cfn.At(schedule, "RetainRule", "Count"))
			b.add("Snapshots", fmt.Sprintf("%v of each data volume", kept),
				data*(b.assumed("snapshotUsed")+b.assumed("snapshotChanged")*(kept-1)), "EBS snapshot")
		}
	}

	pools := d.OfType("AWS::AutoScaling::WarmPool")
	for _, id := range ids("AWS::AutoScaling::WarmPool") {
		group := fmt.Sprint(pools[id]["AutoScalingGroupName"])
		for kind, size := range b.roots(group, b.launch(d, group, groups[group])) {
			b.add("Warm pool", "root volumes of stopped nodes", b.number(id, pools[id]["MinSize"])*size, "EBS "+kind)
		}
	}

	var public float64
	reached := d.OfType("AWS::ElasticLoadBalancingV2::LoadBalancer")
	for _, id := range ids("AWS::ElasticLoadBalancingV2::LoadBalancer") {
		b.add(balancers, "hours", hours, "Network Load Balancer")
		b.add(balancers, "traffic", media*b.assumed("balancedGb")*hours, "NLCU")
		if reached[id]["Scheme"] == "internet-facing" {
			public += float64(len(cfn.List(reached[id]["Subnets"])))
		}
	}
	b.add(addresses, "of nodes", exposed*hours, "public IPv4 address")
	b.add(addresses, "of load balancers, one a zone", public*hours, "public IPv4 address")
	b.add(addresses, "of NAT gateways", gateways*hours, "public IPv4 address")
	b.add(nat, "hours, one a zone", gateways*hours, "NAT gateway")
	b.add(nat, "traffic", hidden*b.assumed("natGb"), "NAT data")

	b.add("Secrets Manager", "secrets", float64(len(ids("AWS::SecretsManager::Secret"))), "secret")
	b.add(watching, "logs", nodes*b.assumed("logGb"), "logs")
	b.add(watching, "metrics of the nodes", b.metrics(template), "metric")
	b.add(watching, "requests that send metrics", nodes*b.assumed("metricRequests")*hours, "metric request")
	b.add(watching, "alarms", float64(len(ids("AWS::CloudWatch::Alarm"))), "alarm")
	b.add(watching, "dashboard", float64(len(ids("AWS::CloudWatch::Dashboard"))), "dashboard")
	if len(ids("AWS::Lambda::Function")) > 0 {
		b.add("Lambda", "functions of the stack", b.assumed("functionGbSeconds"), "Lambda")
	}
	if d.Values["RecordingsStorage"] == "S3" {
		b.add("S3", "recordings, logs, metrics", b.assumed("s3Gb"), "S3 Standard")
	}
	return b, b.err
}

// complete gives parameters that were left out and have no default: any text, three subnets.
func complete(template cfn.Template, set pairs) (map[string]any, error) {
	out := map[string]any{}
	known := template.Section("Parameters")
	for name := range set {
		if known[name] == nil {
			return nil, fmt.Errorf("the template has no parameter %q; it has %s", name, names(known))
		}
	}
	for name, parameter := range known {
		value, ok := set[name]
		if !ok {
			if cfn.At(parameter, "Default") != nil {
				continue
			}
			if value = "given"; strings.HasSuffix(name, "Subnets") {
				value = "subnet-a,subnet-b,subnet-c"
			}
		}
		if strings.HasPrefix(fmt.Sprint(cfn.At(parameter, "Type")), "List<") {
			var list []any
			for _, element := range strings.Split(value, ",") {
				list = append(list, strings.TrimSpace(element))
			}
			out[name] = list
		} else {
			out[name] = value
		}
	}
	return out, nil
}

// subnets that the parameters name, each once.
func subnets(parameters map[string]any, names ...string) []string {
	var out []string
	for _, name := range names {
		for _, value := range cfn.List(parameters[name]) {
			for _, subnet := range strings.Split(fmt.Sprint(value), ",") {
				if subnet = strings.TrimSpace(subnet); subnet != "" && !slices.Contains(out, subnet) {
					out = append(out, subnet)
				}
			}
		}
	}
	return out
}

const masterNodes, mediaNodes = "Master Nodes", "Media Nodes"

// role of a group's nodes, as its Name tag has it.
func role(group map[string]any) string {
	for _, tag := range cfn.List(group["Tags"]) {
		if cfn.At(tag, "Key") == "Name" && strings.HasSuffix(fmt.Sprint(cfn.At(tag, "Value")), "Media Node") {
			return mediaNodes
		}
	}
	return masterNodes
}

func (b *bill) launch(d *cfn.Deployment, group string, properties map[string]any) map[string]any {
	id := fmt.Sprint(cfn.At(properties, "LaunchTemplate", "LaunchTemplateId"))
	launch, ok := cfn.At(d.OfType("AWS::EC2::LaunchTemplate")[id], "LaunchTemplateData").(map[string]any)
	if !ok {
		b.fail("%s has no launch template in this template", group)
	}
	return launch
}

// roots gives the GiB of an instance's volumes by their type.
func (b *bill) roots(group string, launch map[string]any) map[string]float64 {
	out := map[string]float64{}
	for _, device := range cfn.List(launch["BlockDeviceMappings"]) {
		out[fmt.Sprint(cfn.At(device, "Ebs", "VolumeType"))] += b.number(group, cfn.At(device, "Ebs", "VolumeSize"))
	}
	return out
}

func (b *bill) number(id string, value any) float64 {
	number, err := strconv.ParseFloat(fmt.Sprint(value), 64)
	if err != nil {
		b.fail("%s: %v is not a number", id, value)
	}
	return number
}

var (
	measured   = regexp.MustCompile(`measurement:\[([^\]]+)\]`)
	watched    = regexp.MustCompile(`resources:\[([^\]]+)\]`)
	aggregated = regexp.MustCompile(`aggregation_dimensions:\[(\[[^\]]*\](?:,\[[^\]]*\])*)\]`)
	sent       = regexp.MustCompile(`--metric-name (\w+)`)
)

// metrics that the boot scripts publish: the agent's, for each file system and each aggregation, and those sent by name. No
// node has metrics of its own: they have the cluster as their dimension.
func (b *bill) metrics(template cfn.Template) float64 {
	var scripts strings.Builder
	texts(template["Mappings"], &scripts)
	libraries, err := packed.Libraries(template)
	if err != nil {
		b.fail("the boot libraries: %v", err)
	}
	for _, library := range libraries {
		scripts.WriteString(library)
	}
	count := func(pattern *regexp.Regexp, separator string) int {
		match := pattern.FindStringSubmatch(scripts.String())
		if match == nil {
			b.fail("the boot scripts do not say %v: which metrics do they send?", pattern)
			return 0
		}
		return strings.Count(match[1], separator) + 1
	}
	named := map[string]bool{}
	for _, match := range sent.FindAllStringSubmatch(scripts.String(), -1) {
		named[match[1]] = true
	}
	return float64(count(measured, ",")*(count(watched, ",")+count(aggregated, "],[")) + len(named))
}

func texts(value any, out *strings.Builder) {
	switch v := value.(type) {
	case string:
		out.WriteString(v)
	case []any:
		for _, element := range v {
			texts(element, out)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			texts(v[key], out)
		}
	}
}

// options are what may be added to a cluster, each by parameters.
var options = []struct {
	what string
	set  pairs
}{
	{"data volumes of 500 GiB", pairs{"DiskSize": "500"}},
	{"TURN with a domain of its own", pairs{"TurnDomainName": "turn.example.com", "TurnCertificateARN": "given"}},
	{"alarms", pairs{"AlarmTopicArn": "given"}},
	{"recordings in S3", pairs{"RecordingsStorage": "S3"}},
	{"a warm pool of one", pairs{"WarmPoolSize": "1"}},
	{"no snapshots", pairs{"SnapshotRetentionDays": "0"}},
	{"Master Nodes behind NAT", pairs{"LoadBalancerSubnets": "subnet-d,subnet-e,subnet-f"}},
}

// fleets are the numbers of Media Nodes that the growth is shown for.
var fleets = []int{1, 2, 5, 10, 20}

// document is docs/cost.md, or the same for other parameters and assumptions.
func document(template cfn.Template, prices catalog, set pairs) (string, error) {
	base, err := estimate(template, prices, set)
	if err != nil {
		return "", err
	}
	other := func(more pairs) (*bill, error) {
		all := maps.Clone(set)
		if all == nil {
			all = pairs{}
		}
		maps.Copy(all, more)
		return estimate(template, prices, all)
	}
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	row := func(cells ...string) { say("| %s |", strings.Join(cells, " | ")) }

	say(`# What it costs

What AWS charges in a month, counted in the synthesized template by `+"`make cost`"+`. This page is its output; a test holds
it to template and prices (`+"`go test ./internal/cost -update`"+` writes it anew).

**The prices are list prices of %s as of %s, on demand, Linux, without taxes and free allowances. They were not fetched from
AWS**: [what was compared with what](#prices). Take the [AWS Pricing Calculator](https://calculator.aws) for a budget. Not in
the sums: [what calls send to clients](#traffic-to-clients), which may cost more than all else; traffic between zones; a licence
of OpenVidu PRO; hosted zone and domain.
`, prices.Region, prices.Date)
	if len(set) > 0 {
		say("Parameters other than their defaults: %s.\n", strings.Join(sortedPairs(set), ", "))
	}
	say("## By component\n")
	row("component", "what", "quantity", "price in USD", "USD a month")
	row("---", "---", "--:", "--:", "--:")
	for _, component := range base.components() {
		for _, l := range base.lines {
			if l.component == component {
				price := prices.Prices[l.price]
				row(component, describe(l), amount(l.quantity), fmt.Sprintf("%s / %s", plain(price.Usd), price.Unit), money(l.usd))
			}
		}
		row("", "**"+component+"**", "", "", "**"+money(base.of(component))+"**")
	}
	row("", "**Together**", "", "", "**"+money(base.of(""))+"**")

	bills := map[int]*bill{}
	for _, fleet := range fleets {
		if bills[fleet], err = other(pairs{"InitialNumberOfMediaNodes": fmt.Sprint(fleet)}); err != nil {
			return "", err
		}
	}
	var growing []string
	first, last := bills[fleets[0]], bills[fleets[len(fleets)-1]]
	for _, component := range last.components() {
		if first.of(component) != last.of(component) {
			growing = append(growing, component)
		}
	}
	say("\n## How it grows with the Media Nodes\n\nUSD a month, with so many Media Nodes all the time.\n")
	row(append(append([]string{"Media Nodes"}, growing...), "all else", "together")...)
	row(slices.Repeat([]string{"--:"}, len(growing)+3)...)
	for _, fleet := range fleets {
		cells := []string{fmt.Sprint(fleet)}
		rest := bills[fleet].of("")
		for _, component := range growing {
			rest -= bills[fleet].of(component)
			cells = append(cells, money(bills[fleet].of(component)))
		}
		row(append(cells, money(rest), money(bills[fleet].of("")))...)
	}
	each := (last.of("") - first.of("")) / float64(fleets[len(fleets)-1]-fleets[0])
	say("\nEach further Media Node costs %s USD a month, or %s USD an hour: what Auto Scaling starts for a busy hour, it ends after.", money(each),
		strconv.FormatFloat(each/base.assumed("hours"), 'f', 3, 64))

	say("\n## What options add\n")
	row("option", "parameters", "USD a month")
	row("---", "---", "--:")
	for _, option := range options {
		with, err := other(option.set)
		if err != nil {
			return "", err
		}
		row(option.what, "`"+strings.Join(sortedPairs(option.set), "`, `")+"`", fmt.Sprintf("%+.2f", with.of("")-base.of("")))
	}

	out.WriteString("\n## Traffic to clients\n\nWhat clients send is free. What they receive costs, by GB; the price falls beyond 10 TB a month.\n\n")
	row("sent to clients, on average over the month", "GB", "USD a month")
	row("--:", "--:", "--:")
	for _, mbit := range []float64{1, 10, 100} {
		gb := mbit / 8 / 1000 * 3600 * base.assumed("hours")
		row(plain(mbit)+" Mbit/s", amount(gb), money(gb*prices.Prices["data transfer out"].Usd))
	}

	say("\n## Assumptions\n\nChange one with `go run ./internal/cost -assume name=value`, a parameter of the template with `-set Parameter=value`; both\nmay be repeated. Each subnet is taken to be in a zone of its own; three are assumed.\n")
	row("name", "value", "meaning")
	row("---", "--:", "---")
	for _, name := range slices.Sorted(maps.Keys(prices.Assumptions)) {
		row("`"+name+"`", plain(prices.Assumptions[name].Value), prices.Assumptions[name].Meaning)
	}

	say("\n## Prices\n\nOf %s, as of %s, in [`prices.json`](../internal/cost/prices.json). *Not confirmed*: no copy of the price was found to compare it with.\n", prices.Region, prices.Date)
	row("what", "USD", "AWS's page", "seen in")
	row("---", "--:", "---", "---")
	for _, name := range slices.Sorted(maps.Keys(prices.Prices)) {
		p := prices.Prices[name]
		row(name, plain(p.Usd)+" / "+p.Unit, p.Source, cmp.Or(p.Seen, "*not confirmed*"))
	}
	return out.String(), nil
}

func describe(l line) string {
	if l.item == "instances" {
		return l.price
	}
	return l.item
}

func sortedPairs(of pairs) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		out = append(out, name+"="+of[name])
	}
	return out
}

func money(usd float64) string { return strconv.FormatFloat(usd, 'f', 2, 64) }

// amount leaves out digits that nobody pays for.
func amount(quantity float64) string { return plain(math.Round(quantity*100) / 100) }

func plain(number float64) string { return strconv.FormatFloat(number, 'f', -1, 64) }
