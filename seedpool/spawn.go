package seedpool

import (
	"context"

	"github.com/sproutrun/sprout/seedpool/keeper"
)

// spawnKeeper starts the keeper of a seed as a process of its own.
func (p *Pool) spawnKeeper(ctx context.Context, seed string) error {
	return keeper.Spawn(ctx, keeper.Config{Seed: seed, Socket: p.paths.KeeperSocket(seed), CRIU: p.criu})
}
