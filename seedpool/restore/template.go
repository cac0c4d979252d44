package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

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

	edited []edited
	made   []TemplateProcess
}

// TemplatePID is the template's number in the holder's pid namespace: an init's, as a container's first process is, in its image.
const TemplatePID = 1 + templateBase

// TemplateProcess is one process of a template: its number as we see it, and what it was before it was given more privileges and other ids.
type TemplateProcess struct {
	PID    int
	Origin *Origin
}

// Template restores an image as a process that is never to run, or an init and its children: frozen, and stopped for when their cgroup is thawed. The first comes first.
// The error is an *Error; it wraps ErrNoTemplate if this image can never be cloned.
func Template(ctx context.Context, c CRIU, o TemplateOptions) ([]TemplateProcess, error) {
	if err := Check(o.ImagesDir); err != nil {
		return nil, fmt.Errorf("make template: %w", err)
	}
	var err error
	if o.edited, err = editTemplate(o.ImagesDir, o.WorkDir, o.Caps); err != nil {
		return nil, fmt.Errorf("make template: %w", err)
	}
	if _, _, err = restore(ctx, c, &restoring{o: o.Options, template: &o}); err != nil {
		return nil, err
	}
	return o.made, nil
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

// find tells the processes in the template's cgroup, as we see them, by the numbers that they have in the holder's pid namespace, and returns the first one's.
func (t *TemplateOptions) find() (pid int, err error) {
	list, err := t.Cgroup.Procs()
	if err != nil {
		return 0, err
	}
	pids := make(map[int]int)
	for _, pid := range list {
		own, err := linux.InnermostPID(pid)
		if err != nil {
			return 0, err
		}
		pids[own] = pid
	}
	for _, p := range t.edited {
		t.made = append(t.made, TemplateProcess{pids[int(p.pid)+templateBase], p.origin})
	}
	if len(pids) != len(t.made) || slices.ContainsFunc(t.made, func(p TemplateProcess) bool { return p.PID == 0 }) {
		return 0, fmt.Errorf("template has processes %v, its image %d: %w", pids, len(t.made), errors.ErrUnsupported)
	}
	return t.made[0].PID, nil
}
