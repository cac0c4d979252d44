package keeper

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// MakeTemplate makes the template if there is none.
func (s *server) MakeTemplate(ctx context.Context, r *api.MakeRequest) (*api.Empty, error) {
	spec := new(specs.Spec)
	if err := json.Unmarshal(r.Spec, spec); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("parse spec: %w", err))
	}
	_, err := s.templates.current().get(ctx, s.config, r, spec)
	return &api.Empty{}, errgrpc.ToGRPC(err)
}

// GiveUp ends what is only kept for later instances.
func (s *server) GiveUp(ctx context.Context, r *api.GiveUpRequest) (*api.GiveUpResponse, error) {
	had := new(api.GiveUpResponse)
	if r.Template {
		if ended := s.templates.giveUp(); ended != nil {
			had.Template = true
			select {
			case <-ended:
			case <-ctx.Done():
				return nil, errgrpc.ToGRPC(ctx.Err())
			}
		}
	}
	if r.Memory {
		had.Memory = s.cool()
	}
	return had, nil
}

// cool lets go of the hot image, if there is one that no instance shares.
func (s *server) cool() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.making) > 0 || !s.heat.stands() {
		return false
	}
	for _, i := range s.instances {
		if i.memory != nil {
			return false
		}
	}
	old := s.heat
	s.heat = newHeat()
	old.end()
	return true
}
