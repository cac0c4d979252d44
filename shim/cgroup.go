package shim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// makeCgroup makes the container's cgroup by runc's rules, with the limits of the spec, and freezes it before anything enters.
func (a *attempt) makeCgroup() error {
	if a.bundle.cgroupErr != nil {
		return a.bundle.cgroupErr
	}
	config, limits, path := a.bundle.config, a.bundle.limits, a.bundle.cgroup
	cgroup := linux.Cgroup{Path: path}
	// runc's own refusal: a container does not move in with others.
	if pids, err := cgroup.Procs(); err != nil || len(pids) > 0 {
		return errors.Join(err, fmt.Errorf("make cgroup %s: it has %d processes", path, len(pids)))
	}
	a.config, a.limits, a.cgroup = config, limits, cgroup
	a.undo = append(a.undo, func(ctx context.Context) error { return removeCgroup(ctx, cgroup) })
	return applyLimits(limits, cgroup, config.Cgroups.Resources)
}

// applyLimits makes a cgroup, freezes it, and sets its limits.
func applyLimits(limits cgroups.Manager, cgroup linux.Cgroup, resources *cgroups.Resources) error {
	if err := limits.Apply(-1); err != nil {
		return fmt.Errorf("make cgroup %s: %w", cgroup.Path, err)
	}
	if err := cgroup.SetFrozen(true); err != nil {
		return err
	}
	if err := limits.Set(resources); err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", cgroup.Path, err)
	}
	return nil
}

// cgroupOf is where a container lives by runc's rules: its path below the root of every hierarchy, and what sets its limits there.
func cgroupOf(spec *specs.Spec, id, bundle string) (*configs.Config, cgroups.Manager, string, error) {
	config, err := runcConfig(spec, id, bundle)
	if err != nil {
		return nil, nil, "", err
	}
	limits, err := manager.New(config.Cgroups)
	if err != nil {
		return nil, nil, "", err
	}
	path, err := commonPath(limits.GetPaths())
	return config, limits, path, err
}

// commonPath is the cgroup's path below the root of the v2 hierarchy. It must be the same below every other: runc places a container
// with a relative path wherever its own process is in each of them, and an instance can be in one place only.
func commonPath(paths map[string]string) (string, error) {
	root, err := linux.UnifiedRoot()
	if err != nil {
		return "", err
	}
	path, ok := strings.CutPrefix(paths[""], root)
	if !ok || !filepath.IsAbs(path) {
		return "", fmt.Errorf("find cgroup %q below %s", paths[""], root)
	}
	for controller, p := range paths {
		if !strings.HasSuffix(p, path) {
			return "", fmt.Errorf("find cgroup %s for %s: it is %s there", path, controller, p)
		}
	}
	return path, nil
}

// removeCgroup ends what is in a cgroup and removes it: the next rung, runc above all, must not find it frozen.
func removeCgroup(ctx context.Context, cgroup linux.Cgroup) error {
	if err := cgroup.Kill(); err != nil {
		return err
	}
	if err := cgroup.WaitEmpty(ctx); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return cgroup.Remove()
}

// moveIn moves every process of a spare from its cgroup into the container's. They stay frozen: the destination is.
// Memory that they have already is still charged to the cgroup in which they touched it.
func (a *attempt) moveIn() error {
	spare := linux.Cgroup{Path: a.instance.Cgroup}
	pids, err := spare.Procs()
	if err != nil {
		return err
	}
	return spare.MoveFrozen(pids, slices.Collect(maps.Values(a.limits.GetPaths())))
}
