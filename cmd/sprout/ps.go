package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func psCommand() *cli.Command {
	return &cli.Command{
		Name:  "ps",
		Usage: "list the containers that sprout started, and how",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Seeds.ListStarts(ctx, &api.ListStartsRequest{Namespace: cmd.String("namespace")})
			if err != nil {
				return fmt.Errorf("list starts: %w", err)
			}
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, list.Starts...)
			}
			rows := make([][]string, 0, len(list.Starts))
			for _, s := range list.Starts {
				rows = append(rows, []string{
					s.Id, s.Rung, orDash(s.Seed), fmt.Sprint(s.Pid), millis(total(s)), fmt.Sprint(len(s.Fallbacks)), age(s.AtUnixNanoseconds), orDash(asleep(s.Rest)),
				})
			}
			return table(cmd.Root().Writer, "ID RUNG SEED PID MS FALLBACKS AGE SLEEPING", rows)
		},
	}
}

func total(s *api.Start) int64 {
	var sum int64
	for _, p := range s.Phases {
		sum += p.Nanoseconds
	}
	for _, f := range s.Fallbacks {
		sum += f.Nanoseconds
	}
	return sum
}

// asleep is what a sleeping container takes on disk; empty: it does not sleep.
func asleep(r *api.Rest) string {
	if !r.GetAsleep() {
		return ""
	}
	return onDisk(r.Bytes, r.Full)
}

// onDisk is what an image takes that its seed's memory is no part of, and what it would take with that.
func onDisk(bytes, full uint64) string { return bytesText(bytes) + " on disk, of " + bytesText(full) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
