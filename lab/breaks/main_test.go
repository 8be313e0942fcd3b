package main

import (
	"os"
	"testing"
)

// The scripts change; a break that no longer fits would be noticed only by who runs them all.
func TestEveryBreakFitsTheTemplateOnce(t *testing.T) {
	content, err := os.ReadFile("../../cdk.out/OpenViduHA.template.json")
	if err != nil {
		t.Fatal(err, "; run: go run . in the repository's root")
	}
	for _, b := range spoils {
		if _, err := b.spoilt(content); err != nil {
			t.Error(err)
		}
	}
}
