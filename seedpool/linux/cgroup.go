package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is one path in every hierarchy. It cannot lead out of a hierarchy: ".." ends at the root.
type Cgroup struct {
	// Path below each hierarchy's root, beginning with a slash.
	Path string
}

// in is the cgroup's directory in one hierarchy.
func (c Cgroup) in(root string) string { return filepath.Join(root, path.Clean("/"+c.Path)) }

// unified is a file of the cgroup in the v2 hierarchy, or with "" its directory.
func (c Cgroup) unified(file string) (string, error) {
	root, err := UnifiedRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(c.in(root), file), nil
}

// errRootCgroup keeps a missing path from being taken for the host itself.
var errRootCgroup = errors.New("it is the root of the hierarchy")

func (c Cgroup) notRoot() error {
	if path.Clean("/"+c.Path) == "/" {
		return errRootCgroup
	}
	return nil
}

// Create makes the cgroup in every hierarchy; one that exists is left as it is. A v1 cpuset takes its parent's CPUs and memory nodes.
func (c Cgroup) Create() error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range list {
		if err := os.MkdirAll(c.in(root), 0o755); err != nil {
			return fmt.Errorf("create cgroup %s: %w", c.Path, err)
		}
		if err := inheritCPUSet(root, c.in(root)); err != nil {
			return fmt.Errorf("create cgroup %s: %w", c.Path, err)
		}
	}
	return nil
}

// inheritCPUSet fills the empty cpuset.cpus and cpuset.mems of a new v1 cpuset from its parent: no task can enter while they are empty.
// A v2 cpuset that is empty uses its parent's, and its root has no such file.
func inheritCPUSet(root, dir string) error {
	if _, err := os.Stat(filepath.Join(root, "cpuset.mems")); err != nil || dir == root {
		return nil
	}
	if err := inheritCPUSet(root, filepath.Dir(dir)); err != nil {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(have)) != "" {
			continue
		}
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := writeControl(filepath.Join(dir, file), strings.TrimSpace(string(above))); err != nil {
			return err
		}
	}
	return nil
}

// writeControl writes a file of a kernel file system in one write. It makes none: there, O_CREAT turns "no such file" into "permission denied".
func writeControl(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Open returns the v2 directory, as clone3's CLONE_INTO_CGROUP and syscall.SysProcAttr.CgroupFD want it.
func (c Cgroup) Open() (*os.File, error) {
	dir, err := c.unified("")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return f, nil
}

// Attach moves a process with all its threads into the cgroup in every hierarchy. Memory that it has touched stays charged where it was. A process that
// has ended is ESRCH.
//
// v2 is the first: what the process forks between two of the moves is then at least where Freeze and Kill find it. Only a process that is frozen, or
// a cgroup that is, makes sure that no child stays behind in a v1 hierarchy.
func (c Cgroup) Attach(pid int) error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range slices.Backward(list) {
		if err := c.attach(root, pid); err != nil {
			return err
		}
	}
	return nil
}

// AttachLegacy moves a process into the cgroup in every v1 hierarchy.
func (c Cgroup) AttachLegacy(pid int) error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range list[:len(list)-1] {
		if err := c.attach(root, pid); err != nil {
			return err
		}
	}
	return nil
}

// AttachUnified moves a process with all its threads in the v2 hierarchy only.
func (c Cgroup) AttachUnified(pid int) error {
	root, err := UnifiedRoot()
	if err != nil {
		return err
	}
	return c.attach(root, pid)
}

func (c Cgroup) attach(root string, pid int) error {
	// To the kernel, process 0 is the one that writes.
	if pid <= 0 {
		return fmt.Errorf("attach %d to cgroup %s: %w", pid, c.Path, unix.ESRCH)
	}
	if err := writeControl(filepath.Join(c.in(root), "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("attach %d to cgroup %s: %w", pid, c.Path, err)
	}
	return nil
}

// Procs lists the processes of the cgroup in the v2 hierarchy, not those of cgroups below it; a cgroup that does not exist has none.
func (c Cgroup) Procs() ([]int, error) {
	root, err := UnifiedRoot()
	if err != nil {
		return nil, err
	}
	pids, err := readProcs(c.in(root))
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", c.Path, err)
	}
	return pids, nil
}

// ProcsBelow lists the processes of the cgroup and of those below it in the v2 hierarchy. Cgroups that come and go meanwhile may be missed.
func (c Cgroup) ProcsBelow() (pids []int, err error) {
	root, err := c.unified("")
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if isGone(err) || err == nil && !entry.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		procs, err := readProcs(dir)
		pids = append(pids, procs...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list processes below cgroup %s: %w", c.Path, err)
	}
	return pids, nil
}

func readProcs(dir string) ([]int, error) {
	file := filepath.Join(dir, "cgroup.procs")
	data, err := os.ReadFile(file)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(data))
	pids := make([]int, 0, len(fields))
	for _, field := range fields {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// isGone says whether an error means that a cgroup does not exist: ENODEV comes from a file that was open when it was removed.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// Kill ends every process of the v2 cgroup and of those below it, frozen or not (cgroup.kill), and does not wait. A cgroup that does not exist has none. What a
// MoveFrozen that was cut has left held in v1's freezer is let go, and dies, too.
func (c Cgroup) Kill() error {
	dir, err := c.unified("")
	if err != nil {
		return err
	}
	if err := c.notRoot(); err != nil {
		return fmt.Errorf("kill cgroup %q: %w", c.Path, err)
	}
	err = writeControl(filepath.Join(dir, "cgroup.kill"), "1")
	if isGone(err) {
		if _, missing := os.Stat(dir); isGone(missing) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("kill cgroup %s: %w", c.Path, err)
	}
	pids, err := c.Procs()
	if err != nil {
		return err
	}
	if err := c.thawLegacy(pids); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", c.Path, err)
	}
	return nil
}

// WaitEmpty returns when the v2 cgroup and those below it have no living process left, or does not exist. A zombie does not count.
func (c Cgroup) WaitEmpty(ctx context.Context) error {
	if err := c.waitEvent(ctx, "populated", "0"); err != nil && !isGone(err) {
		return fmt.Errorf("wait for cgroup %s to be empty: %w", c.Path, err)
	}
	return nil
}

// CPU returns the time for which tasks have run while they were in the v2 cgroup or below it, those that have ended too. It is 0 for a cgroup that
// does not exist. The kernel keeps it on every kind of host, with the cpu controller and without (cgroup-v2.rst, cpu.stat).
func (c Cgroup) CPU() (time.Duration, error) {
	file, err := c.unified("cpu.stat")
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(file)
	if isGone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read CPU time of cgroup %s: %w", c.Path, err)
	}
	usec, err := strconv.ParseInt(flatKey(string(data), "usage_usec"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read CPU time of cgroup %s: %w", c.Path, err)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// flatKey returns the value of a line "key value", or "".
func flatKey(data, key string) string {
	for line := range strings.Lines(data) {
		if k, value, ok := strings.Cut(line, " "); ok && k == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
