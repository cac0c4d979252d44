package seedpool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

// bootedStreams are the keys of the standard streams of what is booted: it gets all three.
var bootedStreams = [3]string{"stdin", "stdout", "stderr"}

// layOut stores a seed of mode prestart: what its spares are booted with, and a layer with nothing in it. Each spare writes to files of its own. Whether it boots is
// seen when it is tried.
func (p *Pool) layOut(ctx context.Context, id string, o *order) (*seed, error) {
	spec, err := bake.Adapt(o.spec, o.request.LateMounts, "")
	if err != nil {
		return nil, &bake.Error{Step: bake.StepPrepare, Err: err}
	}
	if o.request.Deterministic {
		withoutSalt(spec.Process)
	}
	if err := p.rootfs.CommitSeed(ctx, id); err != nil {
		return nil, err
	}
	m := p.describe(id, o, &bake.Result{Spec: spec, StdioKeys: bootedStreams})
	m.Boot = &api.Boot{Ready: m.Ready, Warmup: o.request.Warmup, Merge: o.request.Merge, Deterministic: o.request.Deterministic, Trim: o.request.Trim}
	s := p.newSeed(m)
	if err := s.dir.seal(m, spec); err != nil {
		return nil, fmt.Errorf("store seed: %w", err)
	}
	return s, nil
}

// withoutSalt has runtimes that can be told so by a variable order their tables alike in each boot, unless the container's own variables say otherwise. The container's
// key does not have it: it is a matter of how its spares are booted.
func withoutSalt(process *specs.Process) {
	for _, variable := range process.Env {
		if strings.HasPrefix(variable, "PYTHONHASHSEED=") {
			return
		}
	}
	process.Env = append(process.Env, "PYTHONHASHSEED=0")
}

// bootSpare has the seed's keeper boot an instance.
func (p *Pool) bootSpare(ctx context.Context, from *loaded, r *api.MakeRequest) (*api.MakeResponse, error) {
	if r.AtOnce {
		return nil, errors.New("nobody waits for a boot")
	}
	r.Boot = proto.CloneOf(from.meta.Boot)
	r.Boot.Runc = lookPath(p.config.Runc)
	return from.keeper.make(ctx, r)
}

// bootTimeout is how long a spare may take to boot beside all else; 0: it does not boot.
func bootTimeout(m *api.SeedMeta) time.Duration {
	if m.Boot == nil {
		return 0
	}
	return time.Duration(m.Boot.Ready.GetTimeoutNanoseconds())
}

// isPrestart says whether a seed's spares are booted. One that was removed is not known to be.
func (p *Pool) isPrestart(seedID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.seeds[seedID]
	return s != nil && s.booted
}

// metaOf is what is kept of a seed, as it is now.
func (p *Pool) metaOf(s *seed) *api.SeedMeta {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.meta
}
