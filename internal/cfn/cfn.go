// Package cfn resolves a CloudFormation template for given parameters: the little of CloudFormation that the tests and the
// lab need.
package cfn

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Template is a template as CloudFormation reads it.
type Template map[string]any

// Section of the Template, such as Resources.
func (t Template) Section(name string) map[string]any {
	section, _ := t[name].(map[string]any)
	return section
}

// At walks down keys; nil where one is missing.
func At(value any, keys ...string) any {
	if t, ok := value.(Template); ok {
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

// Deployment is a template with values for its parameters.
type Deployment struct {
	// Template that is deployed.
	Template Template
	// Values of parameters and pseudo parameters.
	Values map[string]any
	// Attribute gives what a resource returns for Ref (attribute "") and Fn::GetAtt.
	Attribute func(id, attribute string) any
	// Resources whose conditions hold, unresolved.
	Resources map[string]any
	// Fail is told what cannot be resolved.
	Fail func(format string, args ...any)
}

// noValue is what AWS::NoValue resolves to: the property, or the element of a list, is left out.
type noValue struct{}

// Deploy decides which resources exist. Pseudo parameters have sample values, unless parameters give others.
func Deploy(source Template, parameters map[string]any, attribute func(id, attribute string) any, fail func(format string, args ...any)) *Deployment {
	d := &Deployment{Template: source, Attribute: attribute, Fail: fail, Resources: map[string]any{}, Values: map[string]any{
		"AWS::Region": "eu-west-1", "AWS::Partition": "aws", "AWS::AccountId": "123456789012", "AWS::URLSuffix": "amazonaws.com",
		"AWS::StackName": "openvidu", "AWS::NoValue": noValue{},
		"AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/openvidu/11111111-2222-3333-4444-555555555555",
	}}
	for name, parameter := range source.Section("Parameters") {
		if value, ok := parameter.(map[string]any)["Default"]; ok {
			d.Values[name] = value
		}
	}
	maps.Copy(d.Values, parameters)
	for name, parameter := range source.Section("Parameters") {
		// As CloudFormation has it: a list of one empty text when nothing is given.
		if text, ok := d.Values[name].(string); ok && At(parameter, "Type") == "CommaDelimitedList" {
			var elements []any
			for _, element := range strings.Split(text, ",") {
				elements = append(elements, strings.TrimSpace(element))
			}
			d.Values[name] = elements
		}
	}
	if d.Attribute == nil {
		d.Attribute = func(id, attribute string) any { return id + "." + attribute }
	}
	for id, resource := range source.Section("Resources") {
		if d.Holds(At(resource, "Condition")) {
			d.Resources[id] = resource
		}
	}
	return d
}

// Holds tells whether a condition is true; no condition always is.
func (d *Deployment) Holds(condition any) bool {
	if condition == nil {
		return true
	}
	expression, ok := d.Template.Section("Conditions")[condition.(string)]
	if !ok {
		d.Fail("condition %v does not exist", condition)
		return false
	}
	return d.Resolve(expression).(bool)
}

func (d *Deployment) reference(id, attribute string) any {
	if value, ok := d.Values[id]; ok && attribute == "" {
		return value
	}
	if _, ok := d.Resources[id]; !ok {
		d.Fail("%s.%s is referred to, but does not exist in this deployment", id, attribute)
		return nil
	}
	return d.Attribute(id, attribute)
}

var subVariable = regexp.MustCompile(`\$\{([^!}]+)\}`)

// Resolve computes the functions in a value.
func (d *Deployment) Resolve(value any) any {
	switch v := value.(type) {
	case []any:
		out := []any{}
		for _, element := range v {
			if resolved := d.Resolve(element); resolved != (noValue{}) {
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
			if resolved := d.Resolve(element); resolved != (noValue{}) {
				out[key] = resolved
			}
		}
		return out
	}
	return value
}

func (d *Deployment) call(name string, argument any) any {
	list, _ := argument.([]any)
	switch name {
	case "Ref":
		return d.reference(argument.(string), "")
	case "Condition":
		return d.Holds(argument)
	case "Fn::GetAtt":
		return d.reference(list[0].(string), list[1].(string))
	case "Fn::If":
		if d.Holds(list[0]) {
			return d.Resolve(list[1])
		}
		return d.Resolve(list[2])
	case "Fn::Equals":
		return fmt.Sprint(d.Resolve(list[0])) == fmt.Sprint(d.Resolve(list[1]))
	case "Fn::Not":
		return !d.Resolve(list[0]).(bool)
	case "Fn::And":
		return !slices.Contains(d.Resolve(list).([]any), any(false))
	case "Fn::Or":
		return slices.Contains(d.Resolve(list).([]any), any(true))
	case "Fn::Join":
		var parts []string
		for _, part := range d.Resolve(list[1]).([]any) {
			parts = append(parts, fmt.Sprint(part))
		}
		return strings.Join(parts, list[0].(string))
	case "Fn::Split":
		var parts []any
		for _, part := range strings.Split(d.Resolve(list[1]).(string), list[0].(string)) {
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
				return fmt.Sprint(d.Resolve(value))
			}
			id, attribute, _ := strings.Cut(name, ".")
			return fmt.Sprint(d.reference(id, attribute))
		})
	case "Fn::FindInMap":
		return At(d.Template.Section("Mappings"), list[0].(string), list[1].(string), list[2].(string))
	case "Fn::Base64":
		return d.Resolve(argument)
	}
	d.Fail("%s is not known here", name)
	return nil
}

// OfType gives the deployed resources of a type, resolved.
func (d *Deployment) OfType(resourceType string) map[string]map[string]any {
	out := map[string]map[string]any{}
	for id, resource := range d.Resources {
		if At(resource, "Type") == resourceType {
			out[id] = d.Resolve(At(resource, "Properties")).(map[string]any)
		}
	}
	return out
}

// References of a value: the logical ids that it refers to, by whatever function.
func References(value any, found map[string]bool) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			References(element, found)
		}
	case map[string]any:
		for key, element := range v {
			switch key {
			case "Ref":
				found[element.(string)] = true
			case "Fn::GetAtt":
				found[element.([]any)[0].(string)] = true
			case "DependsOn":
				for _, id := range List(element) {
					found[id.(string)] = true
				}
			case "Fn::Sub":
				text := element
				if list, ok := element.([]any); ok {
					text = list[0]
					References(list[1], found)
				}
				for _, match := range subVariable.FindAllStringSubmatch(text.(string), -1) {
					id, _, _ := strings.Cut(match[1], ".")
					found[id] = true
				}
			default:
				References(element, found)
			}
		}
	}
}

// List of one value, or the list that it is.
func List(value any) []any {
	if list, ok := value.([]any); ok {
		return list
	}
	if value == nil {
		return nil
	}
	return []any{value}
}
