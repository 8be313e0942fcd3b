package lab

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

// deliver sends an event to the targets of every rule of the stack that matches it.
//
// Amazon EventBridge User Guide, "Rules": a disabled rule matches nothing; "Amazon EventBridge event patterns": a rule without a
// pattern is a schedule.
func (s *Stack) deliver(event map[string]any) {
	s.mu.Lock()
	var matching []string
	for id, properties := range s.applied {
		if s.kinds[id] == "AWS::Events::Rule" && properties["State"] != "DISABLED" && properties["EventPattern"] != nil {
			matching = append(matching, id)
		}
	}
	s.mu.Unlock()
	for _, id := range matching {
		s.mu.Lock()
		properties := s.applied[id]
		s.mu.Unlock()
		matches, err := matchEvent(properties["EventPattern"], event)
		if err != nil {
			s.complain("%s: %s", id, err)
		}
		if !matches {
			continue
		}
		for _, t := range cfn.List(properties["Targets"]) {
			s.deliverTo(id, t, event)
		}
	}
}

func (s *Stack) deliverTo(rule string, t any, event map[string]any) {
	function := s.functionOf(cfn.At(t, "Arn"))
	if function == "" {
		return // an alarm's topic, a queue: nobody in the stack
	}
	if !s.mayInvoke(function, rule) {
		s.complain("%s: no AWS::Lambda::Permission lets events.amazonaws.com invoke %s", rule, function)
		return
	}
	input := any(event)
	switch {
	case cfn.At(t, "InputPath") != nil || cfn.At(t, "InputTransformer") != nil:
		s.complain("%s: the lab knows neither InputPath nor InputTransformer", rule)
		return
	case cfn.At(t, "Input") != nil:
		must(json.Unmarshal([]byte(fmt.Sprint(cfn.At(t, "Input"))), &input))
	}
	go s.invokeAsync(function, input)
}

// functionOf is the logical id of the stack's function with an ARN.
func (s *Stack) functionOf(wanted any) string {
	for id, kind := range s.existing() {
		if kind == "AWS::Lambda::Function" && s.attribute(id, "Arn") == wanted {
			return id
		}
	}
	return ""
}

// mayInvoke tells whether a permission lets EventBridge invoke a function for a rule.
//
// Amazon EventBridge User Guide, "Using resource-based policies for Amazon EventBridge": the target Lambda function's policy must
// allow lambda:InvokeFunction to events.amazonaws.com, for the rule's ARN where it names a source.
func (s *Stack) mayInvoke(function, rule string) bool {
	for id, kind := range s.existing() {
		if kind != "AWS::Lambda::Permission" {
			continue
		}
		s.mu.Lock()
		properties := s.applied[id]
		s.mu.Unlock()
		named := fmt.Sprint(properties["FunctionName"])
		if named != s.attribute(function, "") && named != s.attribute(function, "Arn") {
			continue
		}
		source := properties["SourceArn"]
		if properties["Action"] == "lambda:InvokeFunction" && properties["Principal"] == "events.amazonaws.com" && (source == nil || source == s.attribute(rule, "Arn")) {
			return true
		}
	}
	return false
}

// invokeAsync runs a function with an event as EventBridge does.
//
// AWS Lambda Developer Guide, "How Lambda handles errors and retries with asynchronous invocation": a failed invocation is tried
// again after one minute and after two more, or as often as MaximumRetryAttempts says.
func (s *Stack) invokeAsync(function string, event any) {
	retries := 2
	for id, kind := range s.existing() {
		if kind == "AWS::Lambda::EventInvokeConfig" {
			s.mu.Lock()
			properties := s.applied[id]
			s.mu.Unlock()
			if properties["FunctionName"] == s.attribute(function, "") && properties["MaximumRetryAttempts"] != nil {
				retries = int(number(properties["MaximumRetryAttempts"]))
			}
		}
	}
	for try := 0; !s.over(); try++ {
		_, _, err := s.run(function, event)
		if err == nil || try == retries || !s.within(nil, s.scaled(time.Duration(try+1)*time.Minute)) {
			return
		}
	}
}

// matchEvent tells whether an event matches a pattern.
//
// Amazon EventBridge User Guide, "Creating Amazon EventBridge event patterns" and "Comparison operators": every field of the pattern
// must be in the event; a list matches when one of its elements does; in a list of the event, when one of that list's does.
func matchEvent(pattern any, event any) (bool, error) {
	fields, ok := pattern.(map[string]any)
	if !ok {
		return false, fmt.Errorf("%v is no event pattern", pattern)
	}
	values, _ := event.(map[string]any)
	for key, wanted := range fields {
		if strings.HasPrefix(key, "$") {
			return false, fmt.Errorf("the lab does not know %s in event patterns", key)
		}
		value, present := values[key]
		if nested, ok := wanted.(map[string]any); ok {
			if matches, err := matchEvent(nested, value); !matches || err != nil {
				return false, err
			}
			continue
		}
		alternatives, ok := wanted.([]any)
		if !ok {
			return false, fmt.Errorf("%s of an event pattern is no list", key)
		}
		found := false
		for _, alternative := range alternatives {
			matches, err := matchValue(alternative, value, present)
			if err != nil {
				return false, err
			}
			found = found || matches
		}
		if !found {
			return false, nil
		}
	}
	return true, nil
}

func matchValue(wanted, value any, present bool) (bool, error) {
	if list, ok := value.([]any); ok {
		for _, element := range list {
			if matches, err := matchValue(wanted, element, true); matches || err != nil {
				return matches, err
			}
		}
		return false, nil
	}
	operators, ok := wanted.(map[string]any)
	if !ok {
		return present && fmt.Sprint(wanted) == fmt.Sprint(value) && (wanted == nil) == (value == nil), nil
	}
	text, isText := value.(string)
	for operator, operand := range operators {
		is := func(compare func(text, operand string) bool) bool {
			return isText && compare(text, fmt.Sprint(operand))
		}
		switch operator {
		case "exists":
			return present == (operand == true), nil
		case "prefix":
			return is(strings.HasPrefix), nil
		case "suffix":
			return is(strings.HasSuffix), nil
		case "equals-ignore-case":
			return is(strings.EqualFold), nil
		case "wildcard":
			return is(func(text, operand string) bool {
				parts := strings.Split(operand, "*")
				if !strings.HasPrefix(text, parts[0]) {
					return false
				}
				text = text[len(parts[0]):]
				for n, part := range parts[1:] {
					if n == len(parts)-2 {
						return strings.HasSuffix(text, part)
					}
					at := strings.Index(text, part)
					if at < 0 {
						return false
					}
					text = text[at+len(part):]
				}
				return text == ""
			}), nil
		case "anything-but":
			if nested, ok := operand.(map[string]any); ok {
				matches, err := matchValue(nested, value, present)
				return present && !matches, err
			}
			return present && !slices.ContainsFunc(cfn.List(operand), func(other any) bool { return fmt.Sprint(other) == fmt.Sprint(value) }), nil
		}
		return false, fmt.Errorf("the lab does not know the operator %s of event patterns", operator)
	}
	return false, nil
}
