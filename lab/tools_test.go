package lab

import (
	"os/exec"
	"slices"
	"testing"
)

// Whoever runs the lab for the first time is told once what to install.
func TestMissingToolsAreNamedWithTheirCommand(t *testing.T) {
	without := func(tools ...string) string {
		return missing(func(name string) (string, error) {
			if slices.Contains(tools, name) {
				return "", exec.ErrNotFound
			}
			return "/usr/bin/" + name, nil
		})
	}
	expect(t, "what is said when nothing is missing", without(), "")
	expect(t, "what is said", without("mkfs.xfs", "xfs_io", "gpg", "aws"),
		"the lab needs aws, gpg, mkfs.xfs, xfs_io: apt-get install -y gpg xfsprogs && pip install awscli (docs/lab.md)")
}
