package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkSynthesis synthesizes the whole app in a process that already runs.
func BenchmarkSynthesis(b *testing.B) {
	for b.Loop() {
		app := newApp(b.TempDir())
		newStack(app, "OpenViduHA")
		app.Synth(nil)
	}
}

// BenchmarkProgram runs the compiled program and an empty CDK app in turn, from start to written template. It reports the
// medians, their ratio, and the most memory that a process of each had (node is the largest).
func BenchmarkProgram(b *testing.B) {
	dir := b.TempDir()
	programs := []string{".", "./internal/emptyapp"}
	var binaries []string
	for i, source := range programs {
		binary := filepath.Join(dir, string(rune('a'+i)))
		if output, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, output)
		}
		binaries = append(binaries, binary)
	}
	var seconds [2][]float64
	var kilobytes [2]int64
	for b.Loop() {
		for i, binary := range binaries {
			command := exec.Command(binary)
			command.Env = append(os.Environ(), "CDK_OUTDIR="+filepath.Join(dir, "out"+string(rune('a'+i))))
			start := time.Now()
			if output, err := command.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, output)
			}
			seconds[i] = append(seconds[i], time.Since(start).Seconds())
			kilobytes[i] = max(kilobytes[i], command.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
		}
	}
	median := func(values []float64) float64 {
		slices.Sort(values)
		return values[len(values)/2]
	}
	b.ReportMetric(median(seconds[0]), "s/program")
	b.ReportMetric(median(seconds[1]), "s/empty")
	b.ReportMetric(median(seconds[0])/median(seconds[1]), "ratio")
	b.ReportMetric(float64(kilobytes[0])/1024, "MiB/program")
	b.ReportMetric(float64(kilobytes[1])/1024, "MiB/empty")
}
