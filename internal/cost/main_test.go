package main

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

var update = flag.Bool("update", false, "write docs/cost.md anew (and fail, so that nobody forgets to look)")

// The golden is the template: a test of the app holds it to that.
func golden(t *testing.T) cfn.Template {
	t.Helper()
	template, err := read(filepath.Join("..", "..", "testdata", "OpenViduHA.template.json"))
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func TestDocumentTellsWhatTheTemplateCosts(t *testing.T) {
	prices, err := readCatalog(nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := document(golden(t), prices, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "docs", "cost.md")
	written, err := os.ReadFile(path)
	if err == nil && string(written) == want {
		return
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was written: look at its diff, then run the test again", path)
	}
	t.Errorf("%s is not what template and prices give; run: go test ./internal/cost -update", path)
}

// simple prices, by which a head can check sums.
func simple(t *testing.T) catalog {
	t.Helper()
	var c catalog
	if err := json.Unmarshal([]byte(`{"prices": {
		"m": {"usd": 1}, "n": {"usd": 2}, "EBS gp3": {"usd": 0.5}, "EBS snapshot": {"usd": 0.25}, "Network Load Balancer": {"usd": 10},
		"NLCU": {"usd": 1}, "public IPv4 address": {"usd": 100}, "NAT gateway": {"usd": 1000}, "NAT data": {"usd": 3}, "secret": {"usd": 7},
		"metric": {"usd": 0.1}, "metric request": {"usd": 0.001}, "alarm": {"usd": 5}, "dashboard": {"usd": 6}, "logs": {"usd": 4},
		"Lambda": {"usd": 0.01}, "S3 Standard": {"usd": 8}
	}, "assumptions": {
		"hours": {"value": 10}, "balancedGb": {"value": 2}, "snapshotUsed": {"value": 0.5}, "snapshotChanged": {"value": 0.1},
		"logGb": {"value": 3}, "metricRequests": {"value": 60}, "detailedMetrics": {"value": 7}, "functionGbSeconds": {"value": 100},
		"s3Gb": {"value": 20}, "natGb": {"value": 5}, "privateMedia": {"value": 0}
	}}`), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

var small = pairs{"MasterNodeInstanceType": "m", "MediaNodeInstanceType": "n", "MasterNodeRootVolumeSize": "20", "MediaNodeRootVolumeSize": "30",
	"DiskSize": "100", "InitialNumberOfMediaNodes": "3", "SnapshotRetentionDays": "3"}

func with(more pairs) pairs {
	out := pairs{}
	for _, from := range []pairs{small, more} {
		for name, value := range from {
			out[name] = value
		}
	}
	return out
}

func TestQuantitiesAreCountedInTheTemplate(t *testing.T) {
	for name, c := range map[string]struct {
		set, assume pairs
		want        map[string]float64
	}{
		"public nodes": {nil, nil, map[string]float64{
			"Master Nodes/instances":                          4 * 10 * 1,
			"Master Nodes/root volumes":                       4 * 20 * 0.5,
			"Master Nodes/data volumes":                       4 * 100 * 0.5,
			"Media Nodes/instances":                           3 * 10 * 2,
			"Media Nodes/root volumes":                        3 * 30 * 0.5,
			"Media Nodes/detailed monitoring":                 3 * 7 * 0.1,
			"Snapshots/3 of each data volume":                 400 * (0.5 + 2*0.1) * 0.25,
			"Load balancers/hours":                            10 * 10,
			"Load balancers/traffic":                          3 * 2 * 10 * 1,
			addresses + "/of nodes":                           7 * 10 * 100,
			addresses + "/of load balancers, one a zone":      3 * 10 * 100,
			"Secrets Manager/secrets":                         2 * 7,
			"CloudWatch/logs":                                 7 * 3 * 4,
			"CloudWatch/metrics of the nodes":                 5 * 0.1, // "/" and /opt/openvidu, their maximum, minutes of draining, installers that changed
			"CloudWatch/requests that send metrics":           7 * 60 * 10 * 0.001,
			"CloudWatch/dashboard":                            6,
			"Lambda/functions of the stack":                   1,
			"together, which is the sum of what stands above": 40 + 40 + 200 + 60 + 45 + 2.1 + 70 + 100 + 60 + 7000 + 3000 + 14 + 84 + 0.5 + 4.2 + 6 + 1,
		}},
		"data volumes that go with the stack cost the same": {pairs{"RetainVolumes": "false"}, nil, map[string]float64{"Master Nodes/data volumes": 200}},
		"no snapshots": {pairs{"SnapshotRetentionDays": "0"}, nil, map[string]float64{"Snapshots/0 of each data volume": 0}},
		"a second load balancer, where TURN has a domain": {pairs{"TurnDomainName": "t.example.com", "TurnCertificateARN": "arn"}, nil, map[string]float64{
			"Load balancers/hours": 2 * 100, "Load balancers/traffic": 2 * 60, addresses + "/of load balancers, one a zone": 2 * 3000}},
		"alarms":                   {pairs{"AlarmTopicArn": "arn"}, nil, map[string]float64{"CloudWatch/alarms": 7 * 5}},
		"one more alarm with TURN": {pairs{"AlarmTopicArn": "arn", "TurnDomainName": "t.example.com", "TurnCertificateARN": "arn"}, nil, map[string]float64{"CloudWatch/alarms": 8 * 5}},
		"S3":                       {pairs{"RecordingsStorage": "S3"}, nil, map[string]float64{"S3/recordings, logs, metrics": 160}},
		"S3, in buckets that exist": {pairs{"RecordingsStorage": "S3", "S3AppDataBucketName": "one", "S3ClusterDataBucketName": "two"}, nil,
			map[string]float64{"S3/recordings, logs, metrics": 160}},
		"warm pool": {pairs{"WarmPoolSize": "2"}, nil, map[string]float64{"Warm pool/root volumes of stopped nodes": 2 * 30 * 0.5, "Media Nodes/instances": 60}},
		"four zones": {pairs{"OpenViduMasterNodeSubnets": "a,b", "OpenViduMediaNodeSubnets": "b,c, d"}, nil,
			map[string]float64{addresses + "/of load balancers, one a zone": 4000}},
		"masters behind NAT": {pairs{"LoadBalancerSubnets": "x,y", "OpenViduMasterNodeSubnets": "a,b"}, nil, map[string]float64{
			addresses + "/of nodes": 3 * 10 * 100, addresses + "/of load balancers, one a zone": 2000, addresses + "/of NAT gateways": 2000,
			"NAT gateways/hours, one a zone": 2 * 10 * 1000, "NAT gateways/traffic": 4 * 5 * 3}},
		"all nodes behind NAT": {pairs{"LoadBalancerSubnets": "x,y", "OpenViduMasterNodeSubnets": "a,b", "OpenViduMediaNodeSubnets": "b,c"}, pairs{"privateMedia": "1"},
			map[string]float64{addresses + "/of nodes": 0, "NAT gateways/hours, one a zone": 3 * 10 * 1000, "NAT gateways/traffic": 7 * 5 * 3}},
	} {
		prices := simple(t)
		for assumption := range c.assume {
			changed := prices.Assumptions[assumption]
			changed.Value = 1
			prices.Assumptions[assumption] = changed
		}
		b, err := estimate(golden(t), prices, with(c.set))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := map[string]float64{"together, which is the sum of what stands above": b.of("")}
		for _, l := range b.lines {
			got[l.component+"/"+l.item] += l.usd
		}
		if name == "public nodes" && len(got) != len(c.want) {
			t.Errorf("%s: %d lines, want %d: %v", name, len(got), len(c.want), got)
		}
		for item, want := range c.want {
			if math.Abs(got[item]-want) > 1e-9 {
				t.Errorf("%s: %s costs %v, want %v", name, item, got[item], want)
			}
		}
	}
}

func TestWhatCannotBePricedIsNamed(t *testing.T) {
	prices, err := readCatalog(nil)
	if err != nil {
		t.Fatal(err)
	}
	silent := golden(t)
	silent["Mappings"] = map[string]any{}
	for _, id := range []string{"MasterLibrary1", "MediaLibrary1"} {
		delete(silent.Section("Resources"), id)
	}
	for _, c := range []struct {
		template cfn.Template
		set      pairs
		want     []string
	}{
		{golden(t), pairs{"MediaNodeInstanceType": "x9.huge"}, []string{"Media Nodes", `no price of "x9.huge"`, "c6a.xlarge"}},
		{golden(t), pairs{"MediaNodes": "3"}, []string{`no parameter "MediaNodes"`, "InitialNumberOfMediaNodes"}},
		{golden(t), pairs{"DiskSize": "much"}, []string{"VolumesRetained1: much is not a number"}},
		{silent, nil, []string{"boot scripts do not say"}},
	} {
		if _, err := document(c.template, prices, c.set); err == nil {
			t.Errorf("%v is priced", c.set)
		} else {
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v: %q does not say %q", c.set, err, part)
				}
			}
		}
	}
	for text, want := range map[string]string{"snapshots=1": "snapshotUsed", "hours=many": "give a number", "hours=-1": "give a number", "hours=NaN": "give a number"} {
		assume := pairs{}
		if err := assume.Set(text); err != nil {
			t.Fatal(err)
		}
		if _, err := readCatalog(assume); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", text, err, want)
		}
	}
	if err := (pairs{}).Set("DiskSize"); err == nil {
		t.Error("a parameter without a value is taken")
	}
	if changed, err := readCatalog(pairs{"hours": "24"}); err != nil || changed.Assumptions["hours"].Value != 24 {
		t.Errorf("hours=24 gives %v, %v", changed.Assumptions["hours"].Value, err)
	}
}

func TestEveryPriceSaysWhereItIsFrom(t *testing.T) {
	prices, err := readCatalog(nil)
	if err != nil {
		t.Fatal(err)
	}
	if prices.Region == "" || prices.Date == "" {
		t.Errorf("region %q, date %q", prices.Region, prices.Date)
	}
	for name, price := range prices.Prices {
		if price.Usd <= 0 || price.Unit == "" || !strings.HasPrefix(price.Source, "https://aws.amazon.com/") || !strings.Contains(price.Source, "pricing") {
			t.Errorf("%s: %+v", name, price)
		}
	}
	for name, assumption := range prices.Assumptions {
		if assumption.Meaning == "" {
			t.Errorf("assumption %s has no meaning", name)
		}
	}
}
