package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func seedGCCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "remove the seeds that nothing can be woken from",
		Description: "A bad seed is damaged. A stale one was baked for another kernel, CPU, CRIU or sprout: it may be right again after the next boot, so look with --dry-run.\n" +
			"What crashes leave behind is another matter: sproutd removes it by itself, and `sprout gc` at once.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "only say which"},
			allNamespacesFlag(),
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Seeds.ListSeeds(ctx, &api.ListSeedsRequest{Namespace: scope(cmd)})
			if err != nil {
				return fmt.Errorf("list seeds: %w", err)
			}
			for _, s := range list.Seeds {
				if s.Phase == seedpool.SeedReady {
					continue
				}
				if !cmd.Bool("dry-run") {
					if _, err := c.Seeds.RemoveSeed(ctx, &api.SeedRef{Namespace: s.Namespace, Name: s.Id}); err != nil {
						return fmt.Errorf("remove seed: %w", err)
					}
				}
				fmt.Fprintf(cmd.Root().Writer, "%s/%s: %s (%s)\n", s.Namespace, s.Name, s.Phase, s.Reason)
			}
			return nil
		},
	}
}
