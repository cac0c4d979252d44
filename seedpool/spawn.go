package seedpool

import (
	"context"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/keeper"
)

// spawnKeeper starts the keeper of a seed as a process of its own.
func (p *Pool) spawnKeeper(ctx context.Context, seed string, boot *api.Boot) error {
	c := keeper.Config{Seed: seed, Socket: p.paths.KeeperSocket(seed), Merge: boot.GetMerge(), Deterministic: boot.GetDeterministic()}
	if boot == nil {
		c.CRIU = p.criu
	}
	return keeper.Spawn(ctx, c)
}
