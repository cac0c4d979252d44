package seedpool

import (
	"context"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Report implements api.PoolService. A container that has started on another rung has no use for what was claimed for it: its shim had given up waiting.
func (s *service) Report(ctx context.Context, r *api.ReportRequest) (_ *api.ReportResponse, err error) {
	defer func() { err = toGRPC("report start", err) }()
	start := r.Start
	if start == nil {
		return nil, fail(errdefs.ErrInvalidArgument, "start is missing")
	}
	if err := checkContainer(start.Namespace, start.Id); err != nil {
		return nil, err
	}
	p := s.pool
	p.metrics.started(start)
	p.noteDemand(start.Seed)
	if Rung(start.Rung) == RungRestore {
		p.wantTemplate(start.Seed)
	}
	p.tellStart(start)
	answer := &api.ReportResponse{}
	if Rung(start.Rung) == RungCold {
		answer.Automatic = p.seedForNext(ctx, r)
		p.tasks.Go(func() {
			unlock, err := p.lockContainer(p.life, start.Namespace, start.Id)
			if err != nil {
				return // the pool is closing: recovery does it
			}
			defer unlock()
			p.abandoned(p.life, claimant{namespace: start.Namespace, container: start.Id})
		})
	}
	return answer, nil
}
