package main

import (
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/cxapi"
	constructs10 "github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
	"github.com/cdklabs/cdk-nag-go/cdknag/v2"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// oneFinding is how cdk-nag writes, and compliance.Accept takes, a finding of a rule that has many, or an expression for some.
var oneFinding = regexp.MustCompile(`^(.+?)\[(.+)\]$`)

// The whole app against two rule packs of cdk-nag. What does not follow a rule says why, beside the resource in the code; and
// says nothing that is not needed.
func TestRulesOfCdkNagAreFollowedOrTheReasonIsGiven(t *testing.T) {
	dir := t.TempDir()
	app := newApp(dir)
	stack := newStack(app, "OpenViduHA")

	unused := map[string]bool{}
	for _, node := range *stack.Node().FindAll(constructs10.ConstructOrder_PREORDER) {
		for _, accepted := range compliance.Of(node) {
			// Made unlike any other, so that the report tells which was used.
			reason := fmt.Sprintf("%s: %s: %s", *node.Node().Path(), accepted.Rule, accepted.Reason)
			suppression := &cdknag.NagPackSuppression{Id: &accepted.Rule, Reason: &reason}
			if match := oneFinding.FindStringSubmatch(accepted.Rule); match != nil {
				suppression.Id, suppression.AppliesTo = &match[1], &[]any{match[2]}
				if strings.HasPrefix(match[2], "/") {
					suppression.AppliesTo = &[]any{&cdknag.RegexAppliesTo{Regex: &match[2]}}
				}
			}
			cdknag.NagSuppressions_AddResourceSuppressions(node, &[]*cdknag.NagPackSuppression{suppression}, jsii.Bool(true))
			unused[reason] = true
		}
	}
	aspects := awscdk.Aspects_Of(app)
	aspects.Add(cdknag.NewAwsSolutionsChecks(nil), nil)
	aspects.Add(cdknag.NewNIST80053R5Checks(nil), nil)

	for _, message := range *app.Synth(nil).GetStackByName(stack.StackName()).Messages() {
		if message.Level != cxapi.SynthesisMessageLevel_INFO {
			t.Errorf("%s: %v", *message.Id, message.Entry.Data)
		}
	}
	for _, pack := range []string{"AwsSolutions", "NIST.800.53.R5"} {
		file, err := os.Open(filepath.Join(dir, pack+"-OpenViduHA-NagReport.csv"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		rows, err := csv.NewReader(file).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		compliant := 0
		for _, row := range rows {
			switch reason := row[3]; row[2] {
			case "Compliant":
				compliant++
			case "Suppressed":
				if i := strings.Index(reason, "] "); strings.HasPrefix(reason, "[") && i > 0 {
					reason = reason[i+2:] // behind the finding
				}
				delete(unused, reason)
			}
		}
		if compliant < 40 {
			t.Errorf("%s: %d checks were passed; did the pack run?", pack, compliant)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(unused)) {
		t.Errorf("nothing is found where this was accepted: %s", reason)
	}
}

func TestReasonsForRulesStayOutOfTheTemplate(t *testing.T) {
	for _, word := range []string{"cdk_nag", "AwsSolutions", "NIST.800", "openvidu:accepted"} {
		if strings.Contains(string(written), word) {
			t.Errorf("the template tells of %s", word)
		}
	}
}
