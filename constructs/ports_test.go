package constructs

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The document has the table that the security groups are made from.
func TestDocumentHasThePortTable(t *testing.T) {
	names := map[peer]string{
		anyone: "anyone", masterNodes: "Master Nodes", mediaNodes: "Media Nodes",
		mainLoadBalancer: "main load balancer", turnLoadBalancer: "TURN load balancer",
	}
	rows := "| to | from | protocol | ports | use | TURN domain |\n|---|---|---|---|---|---|\n"
	row := func(p port, when string) {
		numbers := fmt.Sprint(p.first)
		if p.last != p.first {
			numbers = fmt.Sprintf("%d-%d", p.first, p.last)
		}
		rows += fmt.Sprintf("| %s | %s | %s | %s | %s | %s |\n", names[p.to], names[p.from], strings.ToUpper(p.protocol), numbers, p.use, when)
	}
	for _, p := range ports {
		if p.to == turnLoadBalancer || p.from == turnLoadBalancer {
			row(p, "given")
		} else {
			row(p, "either")
		}
	}
	for _, p := range turnOnMainPorts {
		row(p, "not given")
	}

	const begin, end = "<!-- ports: written by go test ./constructs -run PortTable -update -->\n", "<!-- end of ports -->\n"
	document := filepath.Join("..", "docs", "security.md")
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	written, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table: %s%s", document, begin, end)
	}
	if written == rows {
		return
	}
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(document, []byte(before+begin+rows+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was written: look at its diff, then run the test again", document)
	}
	t.Errorf("%s has another port table; run: go test ./constructs -run PortTable -update", document)
}
