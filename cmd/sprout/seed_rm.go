package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func seedRemoveCommand() *cli.Command {
	return &cli.Command{
		Name:        "rm",
		Usage:       "remove seeds, their spares and their pools",
		ArgsUsage:   "NAME...",
		Description: "Containers that were started from a seed go on; the next start of its image is a cold one.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "every seed of the namespace"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list := cmd.Args().Slice()
			switch {
			case cmd.Bool("all") && len(list) > 0:
				return errors.New("name seeds or give --all, not both")
			case cmd.Bool("all"):
				seeds, err := c.Seeds.ListSeeds(ctx, &api.ListSeedsRequest{Namespace: cmd.String("namespace")})
				if err != nil {
					return fmt.Errorf("list seeds: %w", err)
				}
				for _, s := range seeds.Seeds {
					list = append(list, s.Name)
				}
			case len(list) == 0:
				return hint(errMissing("the seed's name"), "usage: sprout seed rm NAME..., or --all")
			}
			for _, name := range list {
				if _, err := c.Seeds.RemoveSeed(ctx, seedRef(cmd, name)); err != nil {
					return fmt.Errorf("remove seed: %w", err)
				}
				fmt.Fprintln(cmd.Root().Writer, name)
			}
			return nil
		},
	}
}
