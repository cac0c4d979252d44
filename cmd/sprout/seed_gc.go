package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// readyPhase is the phase of a seed that containers are woken from.
const readyPhase = "ready"

func seedGCCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "remove the seeds that nothing can be woken from",
		Description: "A bad seed is damaged. A stale one was baked for another kernel, CPU, CRIU or sprout: it may be right again after the next boot, so look with --dry-run.\n" +
			"What crashes leave behind needs no command: sproutd removes it.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "only say which"},
			&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "of all containerd namespaces"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			request := &api.ListSeedsRequest{Namespace: cmd.String("namespace")}
			if cmd.Bool("all-namespaces") {
				request.Namespace = ""
			}
			list, err := c.Seeds.ListSeeds(ctx, request)
			if err != nil {
				return fmt.Errorf("list seeds: %w", err)
			}
			for _, s := range list.Seeds {
				if s.Phase == readyPhase {
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
