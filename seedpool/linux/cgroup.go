package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// hierarchies is found once: a cgroup file system is not mounted or unmounted while the host runs.
var hierarchies = sync.OnceValues(findHierarchies)

func findHierarchies() ([]string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2" || m.Root != "/" || !strings.HasPrefix(m.Mountpoint, "/sys/fs/cgroup"), false
	})
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	seen := map[string]bool{}
	var v1, v2 []string
	for _, m := range mounts {
		if seen[m.Mountpoint] {
			continue
		}
		seen[m.Mountpoint] = true
		if m.FSType == "cgroup2" {
			v2 = append(v2, m.Mountpoint)
		} else {
			v1 = append(v1, m.Mountpoint)
		}
	}
	if len(v2) == 0 {
		return nil, errors.New("find cgroup hierarchies: no cgroup2 file system is mounted below /sys/fs/cgroup")
	}
	// cgroup2 mounted over /sys/fs/cgroup hides the hierarchies below it: then it is the only one.
	if v2[len(v2)-1] == "/sys/fs/cgroup" {
		return []string{"/sys/fs/cgroup"}, nil
	}
	sort.Strings(v1)
	return append(v1, v2[0]), nil
}

// Hierarchies returns the mount points of every cgroup hierarchy, v1 ones first, the v2 one last.
func Hierarchies() ([]string, error) { return hierarchies() }

// UnifiedRoot returns the mount point of cgroup v2: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid host.
func UnifiedRoot() (string, error) {
	list, err := hierarchies()
	if err != nil {
		return "", err
	}
	return list[len(list)-1], nil
}

// Cgroup is one path in every hierarchy.
type Cgroup struct {
	// Path below each hierarchy's root, beginning with a slash.
	Path string
}

// unified is a file of the cgroup in the v2 hierarchy.
func (c Cgroup) unified(file string) (string, error) {
	root, err := UnifiedRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, c.Path, file), nil
}

// Create makes the cgroup in every hierarchy; one that exists is left as it is.
func (c Cgroup) Create() error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range list {
		dir := filepath.Join(root, c.Path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup %s: %w", c.Path, err)
		}
		if err := inheritCPUSet(root, dir); err != nil {
			return fmt.Errorf("create cgroup %s: %w", c.Path, err)
		}
	}
	return nil
}

// inheritCPUSet fills the empty cpuset.cpus and cpuset.mems of a new v1 cpuset from its parent: no task can enter while they are empty.
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
		if err := os.WriteFile(filepath.Join(dir, file), above, 0); err != nil {
			return err
		}
	}
	return nil
}

// Open returns the v2 directory, as clone3's CLONE_INTO_CGROUP and syscall.SysProcAttr.CgroupFD want it.
func (c Cgroup) Open() (*os.File, error) {
	dir, err := c.unified("")
	if err != nil {
		return nil, err
	}
	return os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// Attach moves a process with all its threads into the cgroup in every hierarchy.
func (c Cgroup) Attach(pid int) error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range list {
		if err := attach(filepath.Join(root, c.Path), pid); err != nil {
			return fmt.Errorf("attach %d to cgroup %s: %w", pid, c.Path, err)
		}
	}
	return nil
}

// AttachUnified moves a process in the v2 hierarchy only.
func (c Cgroup) AttachUnified(pid int) error {
	dir, err := c.unified("")
	if err != nil {
		return err
	}
	if err := attach(dir, pid); err != nil {
		return fmt.Errorf("attach %d to cgroup %s: %w", pid, c.Path, err)
	}
	return nil
}

func attach(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// Procs lists the processes of the cgroup in the v2 hierarchy; a cgroup that does not exist has none.
func (c Cgroup) Procs() ([]int, error) {
	file, err := c.unified("cgroup.procs")
	if err != nil {
		return nil, err
	}
	return readProcs(file)
}

func readProcs(file string) ([]int, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
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

// Kill ends every process of the cgroup and of those below it, frozen or not (cgroup.kill). A cgroup that does not exist has none.
func (c Cgroup) Kill() error {
	file, err := c.unified("cgroup.kill")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kill cgroup %s: %w", c.Path, err)
	}
	return nil
}

// WaitEmpty returns when the v2 cgroup and those below it have no process left, or does not exist.
func (c Cgroup) WaitEmpty(ctx context.Context) error {
	if err := c.waitEvent(ctx, "populated", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("wait for cgroup %s to be empty: %w", c.Path, err)
	}
	return nil
}

// Remove deletes the cgroup and those below it in every hierarchy. It must be empty; one that does not exist is no error. A process that is
// ending keeps its v1 cgroup busy for a moment longer than its v2 one, hence the second look.
func (c Cgroup) Remove() error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range list {
		if err := removeTree(filepath.Join(root, c.Path)); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", c.Path, err))
		}
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range list {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return rmdirWhenIdle(dir)
}
