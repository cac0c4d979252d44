package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func poolDrainCommand() *cli.Command {
	return &cli.Command{
		Name:        "drain",
		Usage:       "give the spares of seeds back, and keep none",
		ArgsUsage:   "NAME...",
		Description: "The memory is free when the command returns. Containers go on, and starts are cloned or restored. `sprout pool set` fills a pool again.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "every pool of the namespace"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			names, err := namesOrAll(cmd, func() ([]string, error) { return seedNames(ctx, cmd, c) })
			if err != nil {
				return err
			}
			for _, name := range names {
				if _, err := c.Seeds.SetPool(ctx, &api.SetPoolRequest{Namespace: cmd.String("namespace"), Seed: name}); err != nil {
					return fmt.Errorf("drain pool: %w", err)
				}
				fmt.Fprintln(cmd.Root().Writer, name)
			}
			return nil
		},
	}
}
