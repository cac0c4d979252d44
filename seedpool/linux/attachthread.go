package linux

import (
	"fmt"
	"path/filepath"
)

// AttachThread moves the calling thread, which must be locked to its goroutine (Enter), into the cgroup in every v1 hierarchy. A process that it starts begins
// there, and with CLONE_INTO_CGROUP in the same v2 cgroup: from its first page, and before it can have made a cgroup namespace. v2 moves whole processes only.
// A thread that moves itself does not wait for an RCU grace period, as Attach does (6 to 15 ms, unless another process was moved a few ms before).
func (c Cgroup) AttachThread() error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range list[:len(list)-1] {
		// By its number it would be another one's to move, for all that the kernel looks at.
		if err := writeControl(filepath.Join(c.in(root), "tasks"), "0"); err != nil {
			return fmt.Errorf("attach thread to cgroup %s: %w", c.Path, err)
		}
	}
	return nil
}
