// Package docs_test holds the documentation to the repository: links, pictures, and what it quotes from the scripts.
package docs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const repository = "../.."

// glob gives files of the repository, by their paths in it.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(repository, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s (%v)", pattern, err)
	}
	for i := range found {
		if found[i], err = filepath.Rel(repository, found[i]); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func pages(t *testing.T) []string {
	return append(glob(t, "*.md"), glob(t, "docs/*.md")...)
}

var (
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	code    = regexp.MustCompile("`[^`\n]+`")
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	linked  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	noWord  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// prose is a page without its blocks of code.
func prose(t *testing.T, page string) string { return fenced.ReplaceAllString(read(t, page), "") }

// links of a page: what stands between the parentheses.
func links(t *testing.T, page string) []string {
	var out []string
	for _, found := range link.FindAllStringSubmatch(code.ReplaceAllString(prose(t, page), "code"), -1) {
		out = append(out, found[1])
	}
	return out
}

// anchors of a page, as GitHub makes them of its headings.
func anchors(t *testing.T, page string) map[string]bool {
	out := map[string]bool{}
	for _, found := range heading.FindAllStringSubmatch(prose(t, page), -1) {
		text := strings.ToLower(linked.ReplaceAllString(found[1], "$1"))
		first := strings.ReplaceAll(noWord.ReplaceAllString(text, ""), " ", "-")
		anchor := first
		for i := 1; out[anchor]; i++ {
			anchor = fmt.Sprintf("%s-%d", first, i)
		}
		out[anchor] = true
	}
	return out
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	count := 0
	for _, page := range pages(t) {
		for _, target := range links(t, page) {
			to, err := url.Parse(target)
			if err != nil {
				t.Errorf("%s: %s: %v", page, target, err)
				continue
			}
			if to.Scheme != "" {
				continue // to the web, which a test does not ask
			}
			count++
			file := page
			if to.Path != "" {
				file = filepath.Join(filepath.Dir(page), to.Path)
			}
			if _, err := os.Stat(filepath.Join(repository, file)); err != nil || strings.HasPrefix(file, "..") {
				t.Errorf("%s: %s: there is no %s", page, target, file)
				continue
			}
			if to.Fragment != "" && !anchors(t, file)[to.Fragment] {
				t.Errorf("%s: %s: %s has no such heading; it has %v", page, target, file, slices.Sorted(maps.Keys(anchors(t, file))))
			}
		}
	}
	if count < 50 {
		t.Errorf("%d links were found; are they still seen?", count)
	}
}

func TestReadmeLeadsToEveryPage(t *testing.T) {
	to := links(t, "README.md")
	for _, page := range glob(t, "docs/*.md") {
		if !slices.Contains(to, page) {
			t.Errorf("README.md has no link to %s", page)
		}
	}
}

func TestPicturesAreWellFormedShownAndOfTheirSource(t *testing.T) {
	shown := map[string]bool{}
	for _, page := range pages(t) {
		for _, target := range links(t, page) {
			shown[filepath.Join(filepath.Dir(page), target)] = true
		}
	}
	pictures := glob(t, "docs/pictures/*.svg")
	for _, picture := range pictures {
		text := read(t, picture)
		decoder, root := xml.NewDecoder(strings.NewReader(text)), ""
		for {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("%s: %v", picture, err)
				break
			}
			if element, ok := token.(xml.StartElement); ok && root == "" {
				root = element.Name.Local
			}
		}
		if root != "svg" {
			t.Errorf("%s: its root is %q", picture, root)
		}
		if !strings.Contains(text, `fill="#fff"`) && !strings.Contains(text, `fill="white"`) {
			t.Errorf("%s has no white ground: on a dark page its text cannot be read", picture)
		}
		if !shown[picture] {
			t.Errorf("no page shows %s", picture)
		}
	}
	for _, source := range glob(t, "docs/pictures/*.dot") {
		picture := strings.TrimSuffix(source, ".dot") + ".svg"
		mark := fmt.Sprintf("<!-- drawn from %x -->", sha256.Sum256([]byte(read(t, source))))
		if !slices.Contains(pictures, picture) || !strings.Contains(read(t, picture), mark) {
			t.Errorf("%s changed since %s was drawn; run: make pictures", source, picture)
		}
	}
}

const bootstrap = "constructs/internal/bootstrap/"

var (
	stepOfScript = regexp.MustCompile(`(?m)^\s+step (\w+)`)
	stepOfTable  = regexp.MustCompile("(?m)^\\| `(\\w+)` \\|")
	stepOfDrawn  = regexp.MustCompile(`(?m)^  %s\d+ \[.* label="(\w+)"\]$`)
)

func names(found [][]string) []string {
	var out []string
	for _, one := range found {
		// A warm pool's node reports too: told once.
		if !slices.Contains(out, one[1]) {
			out = append(out, one[1])
		}
	}
	return out
}

func TestBootIsToldAndDrawnStepByStep(t *testing.T) {
	_, tables, _ := strings.Cut(read(t, "docs/boot.md"), "\n## Master Node\n")
	ofMaster, rest, _ := strings.Cut(tables, "\n## Media Node\n")
	ofMedia, _, _ := strings.Cut(rest, "\n## ")
	for script, c := range map[string]struct{ told, lane, notDrawn string }{
		"master.sh": {ofMaster, "m", ""},
		"media.sh":  {ofMedia, "d", "pull_images"},
	} {
		steps := names(stepOfScript.FindAllStringSubmatch(read(t, bootstrap+script), -1))
		told := names(stepOfTable.FindAllStringSubmatch(c.told, -1))
		// The script has the warm pool's branch, with report_ready, before the rest.
		slices.Sort(steps)
		if got := slices.Sorted(slices.Values(told)); !slices.Equal(got, steps) || len(steps) < 10 {
			t.Errorf("%s has the steps\n%v, docs/boot.md tells\n%v", script, steps, got)
		}
		drawn := regexp.MustCompile(strings.Replace(stepOfDrawn.String(), "%s", c.lane, 1))
		want := slices.DeleteFunc(slices.Clone(told), func(name string) bool { return name == c.notDrawn })
		if got := names(drawn.FindAllStringSubmatch(read(t, "docs/pictures/boot.dot"), -1)); !slices.Equal(got, want) {
			t.Errorf("%s: docs/pictures/boot.dot draws\n%v, docs/boot.md tells\n%v", script, got, want)
		}
	}
}

var failedStep = regexp.MustCompile(`^(\w+) failed$`)

// Every message in the first column is one of the code's. … stands for what differs.
func TestTroubleshootingQuotesTheMessagesOfTheCode(t *testing.T) {
	var sources bytes.Buffer
	for _, pattern := range []string{bootstrap + "*.sh", bootstrap + "library/*.sh", "constructs/internal/functions/preflight.js",
		"constructs/internal/functions/credentials.js", "constructs/internal/functions/respond.js",
		"constructs/internal/functions/launches.js", "parameters.go"} {
		for _, file := range glob(t, pattern) {
			sources.WriteString(read(t, file))
		}
	}
	steps := names(stepOfScript.FindAllStringSubmatch(sources.String(), -1))
	// What resources are called stands in the golden template.
	template := read(t, "testdata/OpenViduHA.template.json")
	count := 0
	for _, line := range strings.Split(read(t, "docs/troubleshooting.md"), "\n") {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) < 2 {
			continue
		}
		for _, quoted := range code.FindAllString(cells[0], -1) {
			for _, part := range strings.Split(strings.Trim(quoted, "`"), "…") {
				part = strings.TrimSpace(part)
				failed := failedStep.FindStringSubmatch(part)
				switch {
				case len(part) < 3:
				case failed != nil && slices.Contains(steps, failed[1]), strings.Contains(sources.String(), part), strings.Contains(template, `"`+part+`"`):
					count++
				default:
					t.Errorf("docs/troubleshooting.md: %s: nothing in the code says %q", quoted, part)
				}
			}
		}
	}
	if count < 50 {
		t.Errorf("%d parts of messages were found; are they still seen?", count)
	}
}
