package seedpool

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sproutrun/sprout/seedpool/restore"
)

// cpuFields are the lines of /proc/cpuinfo that say what a program can find out about the CPU and may have based its code on.
var cpuFields = []string{"vendor_id", "cpu family", "model", "model name", "flags"}

// hostKey is what a seed's images depend on besides the container: a part for each, the same for all seeds that are baked now.
func hostKey(ctx context.Context, criu restore.CRIU) (map[string]string, error) {
	kernel, err := kernelVersion()
	if err != nil {
		return nil, err
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("read cpu: %w", err)
	}
	version, err := criu.Version(ctx)
	if err != nil {
		return nil, err
	}
	parts := ownKey()
	parts[PartKernel] = digest([]byte(kernel))
	parts[PartCPU] = digest([]byte(cpuModel(string(cpuinfo))))
	parts[PartCRIU] = digest([]byte(version))
	return parts, nil
}

// ownKey is what there is of it without CRIU.
func ownKey() map[string]string { return map[string]string{PartSprout: digest([]byte(Version))} }

func kernelVersion() (string, error) {
	var parts []string
	for _, file := range []string{"/proc/sys/kernel/osrelease", "/proc/sys/kernel/version"} {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read kernel version: %w", err)
		}
		parts = append(parts, strings.TrimSpace(string(data)))
	}
	return strings.Join(parts, " "), nil
}

// cpuModel is the first processor's fields, the flags sorted. All processors of a machine that sprout runs on are alike.
func cpuModel(cpuinfo string) string {
	var lines []string
	scan := bufio.NewScanner(strings.NewReader(cpuinfo))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() && scan.Text() != "" {
		name, value, _ := strings.Cut(scan.Text(), ":")
		name = strings.TrimSpace(name)
		if !slices.Contains(cpuFields, name) {
			continue
		}
		words := strings.Fields(value)
		if name == "flags" {
			slices.Sort(words)
		}
		lines = append(lines, name+" "+strings.Join(words, " "))
	}
	return strings.Join(lines, "\n")
}
