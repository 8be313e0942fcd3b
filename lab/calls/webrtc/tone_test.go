// Package webrtc holds a call with libwebrtc, a Node.js program; its tests run with the Go ones.
package webrtc

import (
	"os/exec"
	"testing"
)

func TestToneAndListener(t *testing.T) {
	if out, err := exec.Command("node", "--test", "tone.test.mjs").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
