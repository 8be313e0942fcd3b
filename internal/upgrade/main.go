// Command upgrade says what CloudFormation does to each resource when a stack of one template is updated to another one:
// notes for the users of a release, as a Markdown table.
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	"github.com/openvidu-ha/openvidu-ha/internal/packed"
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "upgrade [FROM [TO]]: what an update of a stack does; FROM: the newest of testdata/released, TO: testdata/OpenViduHA.template.json")
	}
	flag.Parse()
	if err := run(flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	if from == "" {
		if from = newest("testdata/released"); from == "" {
			return errors.New("testdata/released holds no release: give the template to update from, or see CONTRIBUTING.md, Releases")
		}
	}
	if to == "" {
		to = "testdata/OpenViduHA.template.json"
	}
	var templates [2]cfn.Template
	for i, name := range []string{from, to} {
		content, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(content, &templates[i])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	changes, err := compare(templates[0], templates[1])
	if err != nil {
		return err
	}
	fmt.Printf("An update from %v to %v:\n\n%s", version(templates[0]), version(templates[1]), table(changes))
	return nil
}

func version(t cfn.Template) any { return cfn.At(t, "Metadata", "OpenViduHA", "Version") }

// newest release of a folder, by semantic version; "" if there is none.
func newest(folder string) string {
	const suffix = ".template.json"
	names, _ := filepath.Glob(filepath.Join(folder, "*"+suffix))
	of := func(name string) string { return "v" + strings.TrimSuffix(filepath.Base(name), suffix) }
	slices.SortFunc(names, func(a, b string) int { return semver.Compare(of(a), of(b)) })
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1]
}

// effect of an update on a resource, the worst first.
type effect int

const (
	refused effect = iota
	replaced
	removed
	kept
	rolled
	moved
	ranAgain
	changed
	added
)

var words = map[effect]string{
	refused:  "**refused by AWS: it cannot change**",
	replaced: "**replaced by a new one**",
	removed:  "**removed**",
	kept:     "leaves the stack, and is kept",
	rolled:   "in place; its instance is replaced, one group after the other",
	moved:    "exists under other conditions",
	ranAgain: "runs again; what it returns may change what refers to it",
	changed:  "in place",
	added:    "new",
}

// change of one resource.
type change struct {
	id, kind string
	effect   effect
	because  []string // properties and attributes
}

// replacing properties by resource type: see schemas.py.
//
//go:embed replacing.json
var replacingJson []byte

// compare gives the changes, the worst first. Parameters are taken to keep their values, as an update leaves them.
func compare(old, fresh cfn.Template) ([]change, error) {
	var replacing map[string][]string
	if err := json.Unmarshal(replacingJson, &replacing); err != nil {
		return nil, err
	}
	// What EC2 and CloudFormation cannot change, though the schemas do not say so: of a volume all but size and performance
	// (ModifyVolume), and a wait condition altogether ("Updates are not supported").
	replacing["AWS::EC2::Volume"] = append(replacing["AWS::EC2::Volume"], "AvailabilityZone", "Encrypted", "KmsKeyId", "SnapshotId")
	unchangeable := map[string][]string{"AWS::CloudFormation::WaitCondition": {"Count", "Handle", "Timeout"}}

	changes := map[string]*change{}
	note := func(id string, resource any, e effect, because string) {
		c, ok := changes[id]
		if !ok {
			c = &change{id: id, kind: fmt.Sprint(cfn.At(resource, "Type")), effect: e}
			changes[id] = c
		}
		c.effect = min(c.effect, e)
		if because != "" && !slices.Contains(c.because, because) {
			c.because = append(c.because, because)
		}
	}
	before, after := old.Section("Resources"), fresh.Section("Resources")
	var unknown []error
	// property of a resource changes: what that does.
	property := func(id, name string) {
		resource := after[id]
		kind := fmt.Sprint(cfn.At(resource, "Type"))
		properties, known := replacing[kind]
		switch {
		case strings.HasPrefix(kind, "Custom::"):
			e := ranAgain
			if name == "ServiceToken" {
				e = refused
			}
			note(id, resource, e, name)
		case !known:
			unknown = append(unknown, fmt.Errorf("%s: nothing is known of %s: run make schemas", id, kind))
		case slices.Contains(unchangeable[kind], name):
			note(id, resource, refused, name)
		case kind == "AWS::AutoScaling::AutoScalingGroup" && (name == "LaunchTemplate" || name == "VPCZoneIdentifier"):
			// These replace a group that has the policy AutoScalingReplacingUpdate, which no group here has.
			e := changed
			if cfn.At(resource, "UpdatePolicy", "AutoScalingRollingUpdate") != nil {
				e = rolled
			}
			note(id, resource, e, name)
		case slices.Contains(properties, name):
			note(id, resource, replaced, name)
		default:
			note(id, resource, changed, name)
		}
	}

	for id, resource := range before {
		switch {
		case after[id] == nil && strings.HasPrefix(fmt.Sprint(cfn.At(resource, "DeletionPolicy")), "Retain"):
			note(id, resource, kept, "")
		case after[id] == nil:
			note(id, resource, removed, "")
		case cfn.At(resource, "Type") != cfn.At(after[id], "Type"):
			note(id, after[id], replaced, "Type")
		}
	}
	for id, resource := range after {
		if before[id] == nil {
			note(id, resource, added, "")
			continue
		}
		for _, name := range keys(before[id], resource, "Properties") {
			if !reflect.DeepEqual(expand(old, cfn.At(before[id], "Properties", name)), expand(fresh, cfn.At(resource, "Properties", name))) {
				property(id, name)
			}
		}
		for _, name := range keys(before[id], resource) {
			if name == "Type" || name == "Properties" || name == "DependsOn" { // the order alone changes no resource
				continue
			}
			if !reflect.DeepEqual(expand(old, cfn.At(before[id], name)), expand(fresh, cfn.At(resource, name))) {
				e := changed
				if name == "Condition" {
					e = moved
				}
				note(id, resource, e, name)
			}
		}
	}
	// What refers to a replaced resource, or to a changed launch template, hence its newest version, changes with it.
	for settled := false; !settled; {
		settled = true
		for id, resource := range after {
			properties, _ := cfn.At(resource, "Properties").(map[string]any)
			for name, value := range properties {
				if c := changes[id]; before[id] == nil || c != nil && slices.Contains(c.because, name) {
					continue
				}
				referred := map[string]bool{}
				cfn.References(value, referred)
				for target := range referred {
					if c := changes[target]; c != nil && (c.effect == replaced || c.kind == "AWS::EC2::LaunchTemplate") {
						property(id, name)
						settled = false
						break
					}
				}
				if len(unknown) > 0 {
					return nil, errors.Join(unknown...)
				}
			}
		}
	}
	list := slices.Collect(maps.Values(changes))
	slices.SortFunc(list, func(a, b *change) int {
		if a.effect != b.effect {
			return int(a.effect - b.effect)
		}
		return strings.Compare(a.id, b.id)
	})
	var out []change
	for _, c := range list {
		slices.Sort(c.because)
		out = append(out, *c)
	}
	return out, errors.Join(unknown...)
}

// keys of two objects, at a path, together.
func keys(a, b any, path ...string) []string {
	all := map[string]bool{}
	for _, object := range []any{cfn.At(a, path...), cfn.At(b, path...)} {
		object, _ := object.(map[string]any)
		for key := range object {
			all[key] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// expand what stands elsewhere in the template, mappings and conditions, so that golden and published templates compare.
func expand(t cfn.Template, value any) any {
	switch v := value.(type) {
	case []any:
		out := []any{}
		for _, element := range v {
			out = append(out, expand(t, element))
		}
		return out
	case map[string]any:
		if list, ok := v["Fn::FindInMap"].([]any); ok && len(list) == 3 {
			if found := cfn.At(t, "Mappings", fmt.Sprint(list[0]), fmt.Sprint(list[1]), fmt.Sprint(list[2])); found != nil {
				return expand(t, found)
			}
		}
		out := map[string]any{}
		for key, element := range v {
			out[key] = expand(t, element)
		}
		return out
	case string:
		if condition := cfn.At(t, "Conditions", v); condition != nil {
			return []any{v, expand(t, condition)}
		}
		if clear, err := packed.Unpack(v); err == nil {
			v = clear
		}
		if lines := strings.SplitAfter(v, "\n"); len(lines) > 3 { // as the golden template has them
			out := []any{}
			for _, line := range lines {
				out = append(out, line)
			}
			return out
		}
	}
	return value
}

// unmentioned are the resources that an update takes away or replaces, and that a text does not name.
func unmentioned(text string, changes []change) []string {
	var ids []string
	for _, c := range changes {
		if c.effect <= kept && !strings.Contains(text, "`"+c.id+"`") {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// table in Markdown.
func table(changes []change) string {
	if len(changes) == 0 {
		return "Nothing changes.\n"
	}
	text := "| resource | type | what an update does | because of |\n|---|---|---|---|\n"
	for _, c := range changes {
		text += fmt.Sprintf("| `%s` | %s | %s | %s |\n", c.id, c.kind, words[c.effect], strings.Join(c.because, ", "))
	}
	return text
}
