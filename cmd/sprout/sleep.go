package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/urfave/cli/v3"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func sleepCommand() *cli.Command {
	return &cli.Command{
		Name:  "sleep",
		Usage: "put a running container to disk: it takes no memory until it is woken",
		Description: "containerd shows the task as paused. `sprout wake` and `ctr task resume` have it go on where it stopped, with the same files\n" +
			"and the same pids inside; SIGKILL ends it, any other signal wakes it first.",
		ArgsUsage: "ID",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "close-connections", Usage: "cut the connections that its clients have open, instead of refusing"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return withTask(ctx, cmd, func(id string, c api.TasksService) error {
				resp, err := c.Sleep(ctx, &api.SleepTaskRequest{Id: id, CloseConnections: cmd.Bool("close-connections")})
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.Root().Writer, "%s sleeps, %s\n", id, onDisk(resp.Bytes, resp.Full))
				return nil
			})
		},
	}
}

// withTask calls the shim that has a container.
func withTask(ctx context.Context, cmd *cli.Command, do func(id string, c api.TasksService) error) error {
	id, err := named(cmd, "the container's id")
	if err != nil {
		return err
	}
	start, err := readStart(paths(cmd), cmd.String("namespace"), id)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(start.ShimAddress, "unix://"))
	if err != nil {
		return hint(fmt.Errorf("connect to the shim of %s: %w", id, err), "its shim has ended, and the container with it")
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	if err = do(id, api.NewTasksClient(client)); err == nil {
		return nil
	}
	if reason, ok := seedpool.ReasonOf(err); ok {
		return hint(fmt.Errorf("%w (%s)", errgrpc.ToNative(err), reason), reason.Hint())
	}
	return errgrpc.ToNative(err)
}
