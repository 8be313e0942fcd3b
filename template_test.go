package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// template is a synthesized template as CloudFormation reads it.
type template map[string]any

func (t template) section(name string) map[string]any {
	section, _ := t[name].(map[string]any)
	return section
}

// at walks down keys; nil where one is missing.
func at(value any, keys ...string) any {
	if t, ok := value.(template); ok {
		value = map[string]any(t)
	}
	for _, key := range keys {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[key]
	}
	return value
}

// deployment is a template with values for its parameters: the little of CloudFormation that the tests need.
type deployment struct {
	t      *testing.T
	source template
	values map[string]any // parameters and pseudo parameters
	// attribute gives what a resource returns for Ref (attribute "") and Fn::GetAtt.
	attribute func(id, attribute string) any
	resources map[string]any
}

// noValue is what AWS::NoValue resolves to: the property, or the element of a list, is left out.
type noValue struct{}

func deploy(t *testing.T, source template, parameters map[string]any, attribute func(id, attribute string) any) *deployment {
	t.Helper()
	d := &deployment{t: t, source: source, attribute: attribute, resources: map[string]any{}, values: map[string]any{
		"AWS::Region": "eu-west-1", "AWS::Partition": "aws", "AWS::AccountId": "123456789012", "AWS::URLSuffix": "amazonaws.com",
		"AWS::StackName": "openvidu", "AWS::NoValue": noValue{},
		"AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/openvidu/11111111-2222-3333-4444-555555555555",
	}}
	for name, parameter := range source.section("Parameters") {
		if value, ok := parameter.(map[string]any)["Default"]; ok {
			d.values[name] = value
		}
	}
	maps.Copy(d.values, parameters)
	if d.attribute == nil {
		d.attribute = func(id, attribute string) any { return id + "." + attribute }
	}
	for id, resource := range source.section("Resources") {
		if d.holds(at(resource, "Condition")) {
			d.resources[id] = resource
		}
	}
	return d
}

func (d *deployment) holds(condition any) bool {
	if condition == nil {
		return true
	}
	expression, ok := d.source.section("Conditions")[condition.(string)]
	if !ok {
		d.t.Fatalf("condition %v does not exist", condition)
	}
	return d.resolve(expression).(bool)
}

func (d *deployment) reference(id, attribute string) any {
	if value, ok := d.values[id]; ok && attribute == "" {
		return value
	}
	if _, ok := d.resources[id]; !ok {
		d.t.Errorf("%s.%s is referred to, but does not exist in this deployment", id, attribute)
		return nil
	}
	return d.attribute(id, attribute)
}

var subVariable = regexp.MustCompile(`\$\{([^!}]+)\}`)

func (d *deployment) resolve(value any) any {
	switch v := value.(type) {
	case []any:
		out := []any{}
		for _, element := range v {
			if resolved := d.resolve(element); resolved != (noValue{}) {
				out = append(out, resolved)
			}
		}
		return out
	case map[string]any:
		if len(v) == 1 {
			for name, argument := range v {
				if name == "Ref" || name == "Condition" || strings.HasPrefix(name, "Fn::") {
					return d.call(name, argument)
				}
			}
		}
		out := map[string]any{}
		for key, element := range v {
			if resolved := d.resolve(element); resolved != (noValue{}) {
				out[key] = resolved
			}
		}
		return out
	}
	return value
}

func (d *deployment) call(name string, argument any) any {
	list, _ := argument.([]any)
	switch name {
	case "Ref":
		return d.reference(argument.(string), "")
	case "Condition":
		return d.holds(argument)
	case "Fn::GetAtt":
		return d.reference(list[0].(string), list[1].(string))
	case "Fn::If":
		if d.holds(list[0]) {
			return d.resolve(list[1])
		}
		return d.resolve(list[2])
	case "Fn::Equals":
		return fmt.Sprint(d.resolve(list[0])) == fmt.Sprint(d.resolve(list[1]))
	case "Fn::Not":
		return !d.resolve(list[0]).(bool)
	case "Fn::And":
		return !slices.Contains(d.resolve(list).([]any), any(false))
	case "Fn::Or":
		return slices.Contains(d.resolve(list).([]any), any(true))
	case "Fn::Join":
		var parts []string
		for _, part := range d.resolve(list[1]).([]any) {
			parts = append(parts, fmt.Sprint(part))
		}
		return strings.Join(parts, list[0].(string))
	case "Fn::Split":
		var parts []any
		for _, part := range strings.Split(d.resolve(list[1]).(string), list[0].(string)) {
			parts = append(parts, part)
		}
		return parts
	case "Fn::Sub":
		text, local := argument, map[string]any{}
		if list != nil {
			text, local = list[0], list[1].(map[string]any)
		}
		return subVariable.ReplaceAllStringFunc(text.(string), func(match string) string {
			name := match[2 : len(match)-1]
			if value, ok := local[name]; ok {
				return fmt.Sprint(d.resolve(value))
			}
			id, attribute, _ := strings.Cut(name, ".")
			return fmt.Sprint(d.reference(id, attribute))
		})
	case "Fn::FindInMap":
		return at(d.source.section("Mappings"), list[0].(string), list[1].(string), list[2].(string))
	case "Fn::Base64":
		return d.resolve(argument)
	}
	d.t.Fatalf("%s is not known here", name)
	return nil
}

// ofType gives the deployed resources of a type, resolved.
func (d *deployment) ofType(resourceType string) map[string]map[string]any {
	out := map[string]map[string]any{}
	for id, resource := range d.resources {
		if at(resource, "Type") == resourceType {
			out[id] = d.resolve(at(resource, "Properties")).(map[string]any)
		}
	}
	return out
}

// references of a value: the logical ids that it refers to, by whatever function.
func references(value any, found map[string]bool) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			references(element, found)
		}
	case map[string]any:
		for key, element := range v {
			switch key {
			case "Ref":
				found[element.(string)] = true
			case "Fn::GetAtt":
				found[element.([]any)[0].(string)] = true
			case "DependsOn":
				for _, id := range asList(element) {
					found[id.(string)] = true
				}
			case "Fn::Sub":
				text := element
				if list, ok := element.([]any); ok {
					text = list[0]
					references(list[1], found)
				}
				for _, match := range subVariable.FindAllStringSubmatch(text.(string), -1) {
					id, _, _ := strings.Cut(match[1], ".")
					found[id] = true
				}
			default:
				references(element, found)
			}
		}
	}
}

func asList(value any) []any {
	if list, ok := value.([]any); ok {
		return list
	}
	if value == nil {
		return nil
	}
	return []any{value}
}
