package fork

import (
	"context"
	"fmt"

	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// silence takes from a process of a template all that it could write to files with, before its zygote is born. Its clones open and map these files anew, in roots of their
// own, and without a writer the mounts that template and clones have their programs from can be made read-only. The descriptors' numbers stay taken.
func silence(ctx context.Context, main *ptrace.Tracee, p *Process) error {
	filler, err := main.Syscall(ctx, sysEventfd2, 0, openCloexec)
	if err != nil {
		return fmt.Errorf("make filler: %w", err)
	}
	for _, f := range p.Files {
		if f.Holder != p.PID || f.Flags&accessMode == 0 || f.Kind != KindRegular && f.Kind != KindDeleted && f.Kind != KindTaken {
			continue
		}
		if _, err := main.Syscall(ctx, sysDup3, filler, uint64(f.Held), openCloexec); err != nil {
			return fmt.Errorf("replace descriptor %d: %w", f.Held, err)
		}
	}
	if _, err := main.Syscall(ctx, sysClose, filler); err != nil {
		return fmt.Errorf("close filler: %w", err)
	}
	for _, v := range p.VMAs {
		if !v.sharedFile() {
			continue
		}
		if _, err := main.Syscall(ctx, sysMmap, v.Start, v.End-v.Start, 0, mapPrivateAnonymous|mapFixed, noFile, 0); err != nil {
			return fmt.Errorf("replace mapping %x-%x: %w", v.Start, v.End, err)
		}
	}
	return nil
}
