package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/urfave/cli/v3"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func poolSetCommand() *cli.Command {
	return &cli.Command{
		Name:      "set",
		Usage:     "keep this many spares of a seed frozen and ready, and more while many are started",
		ArgsUsage: "NAME",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "spares", Usage: "how `MANY` (0 drains the pool)", Required: true},
			&cli.IntFlag{Name: "max", Usage: "up to how `MANY` as demand says; a burst of starts raises it, quiet lowers it again"},
			&cli.Int32Flag{Name: "priority", Usage: "pools of a higher `PRIORITY` are filled first, and give their spares back last when memory is short; 0 if never set"},
			&cli.BoolFlag{Name: "wait", Usage: "return when they are ready"},
			&cli.DurationFlag{Name: "timeout", Usage: "how long --wait waits", Value: 2 * time.Minute},
			jsonFlag(),
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			name, err := named(cmd, "the seed's name")
			if err != nil {
				return err
			}
			spares := cmd.Int("spares")
			if spares < 0 || spares > math.MaxInt16 {
				return fmt.Errorf("--spares %d is not between 0 and %d", spares, math.MaxInt16)
			}
			most := cmd.Int("max")
			if cmd.IsSet("max") && (most < spares || most > math.MaxInt16) {
				return fmt.Errorf("--max %d is not between --spares %d and %d", most, spares, math.MaxInt16)
			}
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			request := &api.SetPoolRequest{Namespace: cmd.String("namespace"), Seed: name, Spares: uint32(spares), Max: uint32(most)}
			if cmd.IsSet("priority") {
				request.Priority = proto.Int32(cmd.Int32("priority"))
			}
			pool, err := c.Seeds.SetPool(ctx, request)
			if err != nil {
				return fmt.Errorf("set pool: %w", err)
			}
			if cmd.Bool("wait") {
				if pool, err = waitPool(ctx, c.Seeds, pool, cmd.Duration("timeout")); err != nil {
					return err
				}
			}
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, pool)
			}
			_, err = fmt.Fprintf(cmd.Root().Writer, "%s: %d of %d spares ready\n", pool.Name, pool.Ready, pool.Want)
			return err
		},
	}
}

// waitPool asks until as many spares are ready as are wanted. The API has no subscription yet, and whoever waits wants to go on at once: twenty questions a
// second cost little.
func waitPool(ctx context.Context, seeds api.SeedsClient, pool *api.PoolInfo, timeout time.Duration) (*api.PoolInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	show := newProgress()
	defer show.end()
	for {
		list, err := seeds.ListPools(ctx, &api.ListPoolsRequest{Namespace: pool.Namespace})
		if err != nil {
			return nil, fmt.Errorf("list pools: %w", err)
		}
		for _, p := range list.Pools {
			if p.Seed == pool.Seed {
				pool = p
			}
		}
		if pool.Ready >= pool.Want {
			return pool, nil
		}
		show.show("spares", fmt.Sprintf("%d of %d ready", pool.Ready, pool.Want))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for spares of %s: %d of %d ready, last error: %s: %w", pool.Name, pool.Ready, pool.Want, orNone(pool.LastError), ctx.Err())
		case <-tick.C:
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
