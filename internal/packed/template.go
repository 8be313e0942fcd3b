package packed

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
)

// Libraries gives the boot libraries of a template in clear, by the logical id of the parameter that holds their first part.
func Libraries(template map[string]any) (map[string]string, error) {
	out := map[string]string{}
	for first, parts := range parameters(template) {
		clear, err := joined(template, parts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", first, err)
		}
		out[first] = clear
	}
	return out, nil
}

// Rewrite gives a copy of a template in which every boot script and every boot library is what change makes of it. Nodes of the copy load its
// libraries: their names and checksums are new.
func Rewrite(template map[string]any, change func(script string) string) (map[string]any, error) {
	copied, err := replaced(template, nil)
	if err != nil {
		return nil, err
	}
	var failed error
	copied, _ = walk(copied, func(text string) string {
		return line.ReplaceAllStringFunc(text, func(found string) string {
			clear, err := Unpack(found)
			if err == nil {
				found, err = Pack(change(clear))
			}
			if err != nil && failed == nil {
				failed = err
			}
			return found
		})
	}).(map[string]any)
	if failed != nil {
		return nil, failed
	}
	sums := map[string]string{}
	for _, parts := range parameters(copied) {
		was, err := joined(copied, parts)
		if err != nil {
			return nil, err
		}
		is := change(was)
		encoded, err := Encode(is)
		if err != nil {
			return nil, err
		}
		size := (len(encoded) + len(parts) - 1) / len(parts)
		for _, id := range parts {
			properties(copied, id)["Value"] = encoded[:min(size, len(encoded))]
			encoded = encoded[min(size, len(encoded)):]
		}
		sums[sum(was)] = sum(is)
	}
	return replaced(copied, sums)
}

// pathDigits of the checksum stand in the names of parameters.
const pathDigits = 16

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// replaced gives a copy with other checksums.
func replaced(template map[string]any, sums map[string]string) (map[string]any, error) {
	content, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	text := string(content)
	for was, is := range sums {
		text = strings.ReplaceAll(text, was, is)
		text = strings.ReplaceAll(text, was[:pathDigits], is[:pathDigits])
	}
	var out map[string]any
	err = json.Unmarshal([]byte(text), &out)
	return out, err
}

func walk(value any, change func(string) string) any {
	switch v := value.(type) {
	case map[string]any:
		for key, one := range v {
			v[key] = walk(one, change)
		}
	case []any:
		for i, one := range v {
			v[i] = walk(one, change)
		}
	case string:
		return change(v)
	}
	return value
}

func properties(template map[string]any, id string) map[string]any {
	resources, _ := template["Resources"].(map[string]any)
	resource, _ := resources[id].(map[string]any)
	properties, _ := resource["Properties"].(map[string]any)
	return properties
}

// parameters gives the logical ids of each library's parameters in their order, by the first.
func parameters(template map[string]any) map[string][]string {
	const suffix = "Library1"
	out := map[string][]string{}
	resources, _ := template["Resources"].(map[string]any)
	for id, resource := range resources {
		if resource.(map[string]any)["Type"] != "AWS::SSM::Parameter" || !strings.HasSuffix(id, suffix) {
			continue
		}
		for part := 1; ; part++ {
			next := fmt.Sprint(strings.TrimSuffix(id, "1"), part)
			if resources[next] == nil {
				break
			}
			out[id] = append(out[id], next)
		}
	}
	return out
}

// joined gives the library in clear. That of the golden template is: lines in the place of its first part.
func joined(template map[string]any, parts []string) (string, error) {
	var encoded strings.Builder
	if lines, ok := properties(template, parts[0])["Value"].([]any); ok {
		for _, line := range lines {
			fmt.Fprint(&encoded, line)
		}
		return encoded.String(), nil
	}
	for _, id := range parts {
		value, _ := properties(template, id)["Value"].(string)
		encoded.WriteString(value)
	}
	return Decode(encoded.String())
}
