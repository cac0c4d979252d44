package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func seedListCommand() *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list seeds",
		Flags: []cli.Flag{jsonFlag(), allNamespacesFlag()},
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
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, list.Seeds...)
			}
			rows := make([][]string, 0, len(list.Seeds))
			for _, s := range list.Seeds {
				rows = append(rows, seedRow(s))
			}
			return table(cmd.Root().Writer, "NAMESPACE NAME ID IMAGE MODE PHASE SIZE SPARES AGE", rows)
		},
	}
}
