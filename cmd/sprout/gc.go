package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "remove what belongs to nobody: what crashes and removals that were cut have left",
		Description: "sproutd does the same when it starts, and every [gc] interval. Seeds, spares and containers are not touched: seeds from which nothing can be woken\n" +
			"are removed by `sprout seed gc`.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what"},
			jsonFlag(),
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			done, err := c.Seeds.Collect(ctx, &api.CollectRequest{DryRun: cmd.Bool("dry-run")})
			if err != nil {
				return fmt.Errorf("collect garbage: %w", err)
			}
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, done.Garbage...)
			}
			for _, one := range done.Garbage {
				fmt.Fprintf(cmd.Root().Writer, "%s %s\n", one.Kind, one.Id)
			}
			return nil
		},
	}
}
