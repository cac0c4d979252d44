package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func wakeCommand() *cli.Command {
	return &cli.Command{
		Name:      "wake",
		Usage:     "have a sleeping container go on",
		ArgsUsage: "ID",
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return withTask(ctx, cmd, func(id string, c api.TasksService) error {
				resp, err := c.Wake(ctx, &api.WakeTaskRequest{Id: id})
				if err != nil {
					return err
				}
				var took int64
				for _, p := range resp.Phases {
					took += p.Nanoseconds
				}
				fmt.Fprintf(cmd.Root().Writer, "%s is awake, pid %d, %s ms\n", id, resp.Pid, millis(took))
				return nil
			})
		},
	}
}
