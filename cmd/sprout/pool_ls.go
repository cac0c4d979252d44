package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func poolListCommand() *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list pools",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Seeds.ListPools(ctx, &api.ListPoolsRequest{Namespace: cmd.String("namespace")})
			if err != nil {
				return fmt.Errorf("list pools: %w", err)
			}
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, list.Pools...)
			}
			rows := make([][]string, 0, len(list.Pools))
			for _, p := range list.Pools {
				rows = append(rows, []string{p.Name, fmt.Sprintf("%d-%d", p.Min, p.Max), fmt.Sprint(p.Priority), fmt.Sprint(p.Want), fmt.Sprint(p.Ready), fmt.Sprint(p.Making), fmt.Sprint(p.ClaimedTotal), fmt.Sprint(p.EvictedTotal), fmt.Sprint(p.FailedTotal), fmt.Sprint(p.KeeperPid), p.LastError})
			}
			return table(cmd.Root().Writer, "SEED BOUNDS PRIORITY WANT READY MAKING CLAIMED EVICTED FAILED KEEPER ERROR", rows)
		},
	}
}
