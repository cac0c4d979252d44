package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// boot makes the process by booting the app: it shares nothing with another instance.
func (m *making) boot(ctx context.Context) error {
	ready, err := bake.ReadinessOf(m.request.Boot.Ready)
	if err != nil {
		return err
	}
	output, err := m.output()
	defer closeFiles(output...)
	if err != nil {
		return err
	}
	m.spec.Linux.CgroupsPath = m.made.cgroup.Path
	pid, phases, err := bake.Boot(ctx, bake.BootOptions{
		ID: "sprout-" + m.request.Id, Dir: m.request.Dir, Overlay: m.request.Overlay, Spec: m.spec, Ready: ready, Warmup: int(m.request.Boot.Warmup), Trim: m.request.Boot.Trim,
		RuncPath: m.request.Boot.Runc, NetNS: m.options.NetNS, Cgroup: m.made.cgroup, Stdio: m.options.Stdio, Output: output,
	})
	m.phases = append(m.phases, phases...)
	if failed, ok := errors.AsType[*bake.Error](err); ok {
		// The app's own words are what helps: all of it is the message.
		return status.Error(codes.FailedPrecondition, failed.Report())
	}
	if err != nil {
		return err
	}
	if err := m.made.adopt(pid); err != nil {
		return errors.Join(err, m.made.destroy(pid))
	}
	return nil
}

// output opens reading ends of the streams to which the app writes.
func (m *making) output() (ends []*os.File, err error) {
	for _, path := range []string{m.made.message.Stdout, m.made.message.Stderr} {
		end, err := linux.ReadFifo(path)
		if err != nil {
			return ends, fmt.Errorf("open output: %w", err)
		}
		ends = append(ends, end)
	}
	return ends, nil
}
