package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// TemplateOptions say what to make a template of and where.
type TemplateOptions struct {
	// Options are as for an instance; its memory is the template's own. What CRIU restores from is written to WorkDir, which must be empty.
	Options
	// PIDNS and MountNS are the holder's: the template is one of its processes, and CRIU sees its /proc. In MountNS is what was staged.
	PIDNS, MountNS *os.File
	// Caps are the capabilities that the template gets, bit n is capability n: what it takes to make clones of it.
	Caps uint64
}

// TemplatePID is the template's number in the holder's pid namespace: an init's, as a container's first process is, in its image.
const TemplatePID = 1 + templateBase

// Template restores an image as a process that is never to run: frozen, and stopped for when its cgroup is thawed. It says what the process was before it was given
// more privileges and other ids. The error is an *Error; it wraps ErrNoTemplate if this image can never be cloned.
func Template(ctx context.Context, c CRIU, o TemplateOptions) (pid int, origin *Origin, err error) {
	if err := Check(o.ImagesDir); err != nil {
		return 0, nil, fmt.Errorf("make template: %w", err)
	}
	if origin, err = editTemplate(o.ImagesDir, o.WorkDir, o.Caps); err != nil {
		return 0, nil, fmt.Errorf("make template: %w", err)
	}
	if pid, _, err = restore(ctx, c, &restoring{o: o.Options, template: &o}); err != nil {
		return 0, nil, err
	}
	return pid, origin, nil
}

// asTemplate changes a request: what CRIU knows of our directories by our number it could not find, since in its pid namespace we have none.
func (t *TemplateOptions) asTemplate(opts *rpc.CriuOpts) {
	opts.ImagesDirFd, opts.WorkDirFd, opts.ImagesDir = proto.Int32(-1), nil, proto.String(t.WorkDir)
	opts.LeaveStopped = proto.Bool(true)
}

// start starts CRIU in the holder's namespaces and in the template's cgroup. The thread that does that ends at once, so that CRIU does not end with it: it ends with
// the pid namespace.
func (t *TemplateOptions) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Pdeathsig = 0
	return linux.Enter([]linux.NS{{File: t.PIDNS}, {File: t.MountNS}}, func() error {
		if err := t.Cgroup.AttachThread(); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// pid is the one process that is in the template's cgroup: its number as we see it.
func (t *TemplateOptions) pid() (int, error) {
	pids, err := t.Cgroup.Procs()
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("template has processes %v: %w", pids, errors.ErrUnsupported)
	}
	return pids[0], nil
}
