// Package nodejs installs the Node.js packages of the lab.
package nodejs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Install brings the packages of package.json in the folder of the lab from the registry, unless they are there.
func Install(lab string) error {
	wanted, err := os.Open(filepath.Join(lab, "package.json"))
	if err != nil {
		return err
	}
	defer wanted.Close()
	// One at a time: test packages run side by side.
	if err := syscall.Flock(int(wanted.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	asked, err := wanted.Stat()
	if err != nil {
		return err
	}
	lock := filepath.Join(lab, "node_modules", ".package-lock.json")
	if installed, err := os.Stat(lock); err == nil && !installed.ModTime().Before(asked.ModTime()) {
		return nil
	}
	for try := 1; ; try++ {
		command := exec.Command("npm", "install", "--no-fund", "--no-audit", "--loglevel=error", "--no-package-lock")
		command.Dir = lab
		output, err := command.CombinedOutput()
		if err == nil {
			break
		}
		if try == 3 { // a registry may fail for a moment
			return fmt.Errorf("npm install: %w: %s", err, output)
		}
	}
	now := time.Now()
	return os.Chtimes(lock, now, now)
}
