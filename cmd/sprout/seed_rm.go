package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"
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
			names, err := namesOrAll(cmd, func() ([]string, error) { return seedNames(ctx, cmd, c) })
			if err != nil {
				return err
			}
			for _, name := range names {
				if _, err := c.Seeds.RemoveSeed(ctx, seedRef(cmd, name)); err != nil {
					return fmt.Errorf("remove seed: %w", err)
				}
				fmt.Fprintln(cmd.Root().Writer, name)
			}
			return nil
		},
	}
}
