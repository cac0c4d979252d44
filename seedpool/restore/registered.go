package restore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// storePrefix begins the names of stores.
const storePrefix = "sprout-store-"

// errStray means that a process maps a store and nobody is told of its faults: it sees the store's pages where it has dropped them.
var errStray = errors.New("nobody serves its memory")

// mostLooks bounds how often processes that came meanwhile are looked for.
const mostLooks = 100

// checkRegistered makes sure that every mapping of a store in a cgroup's processes has its faults wait for who serves them.
func checkRegistered(c linux.Cgroup) error {
	looked := make(map[int]bool)
	for range mostLooks {
		pids, err := c.ProcsBelow()
		if err != nil {
			return err
		}
		before := len(looked)
		for _, pid := range pids {
			if looked[pid] {
				continue
			}
			looked[pid] = true
			if err := checkProcess(pid); err != nil {
				return fmt.Errorf("process %d: %w", pid, err)
			}
		}
		if len(looked) == before {
			return nil
		}
	}
	return fmt.Errorf("cgroup %s: new processes come all the time: %w", c.Path, errStray)
}

func checkProcess(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = checkSmaps(f)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// checkSmaps reads mappings as /proc/PID/smaps has them.
func checkSmaps(smaps io.Reader) error {
	ofStore := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		switch flags, is := strings.CutPrefix(line, "VmFlags:"); {
		case is && ofStore && !strings.Contains(flags+" ", " ui "):
			return errStray
		case strings.HasPrefix(line, "VmFlags:"):
			ofStore = false
		case strings.Contains(line, "/"+storePrefix):
			ofStore = true
		}
	}
	return lines.Err()
}
