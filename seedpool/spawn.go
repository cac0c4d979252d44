package seedpool

import (
	"context"

	"github.com/sproutrun/sprout/seedpool/keeper"
)

// spawnKeeper starts the keeper of a seed as a process of its own.
func (p *Pool) spawnKeeper(ctx context.Context, seed string, boots bool) error {
	c := keeper.Config{Seed: seed, Socket: p.paths.KeeperSocket(seed)}
	if !boots {
		c.CRIU = p.criu
	}
	return keeper.Spawn(ctx, c)
}
