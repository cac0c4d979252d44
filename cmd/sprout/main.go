// Command sprout is what a person types: it bakes seeds, sets pools, and says how each container was started and why.
//
// One file a verb; ui.go holds the rules of output. It talks to sproutd over its API socket, and to containerd only to turn an image into the spec that
// `ctr run` would have made (spec.go).
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/sproutrun/sprout/seedpool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().Run(ctx, os.Args); err != nil {
		complain(err)
		os.Exit(1)
	}
}

func root() *cli.Command {
	return &cli.Command{
		Name:  "sprout",
		Usage: "start containers by waking them",
		Description: "Bake a seed of an application once, then every container of the same image and spec that is started with\n" +
			"--runtime io.containerd.sprout.v2 --snapshotter sprout wakes up instead of booting.",
		Version: seedpool.Version,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "run-dir", Usage: "sproutd's run `DIR`", Value: seedpool.RunDirFromEnv()},
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "containerd `NAMESPACE`", Value: "default", Sources: cli.EnvVars("CONTAINERD_NAMESPACE")},
			&cli.StringFlag{Name: "address", Aliases: []string{"a"}, Usage: "containerd's `SOCKET`", Value: "/run/containerd/containerd.sock", Sources: cli.EnvVars("CONTAINERD_ADDRESS")},
		},
		Commands:              []*cli.Command{seedCommand(), poolCommand(), psCommand(), topCommand(), sleepCommand(), wakeCommand(), explainCommand(), eventsCommand(), gcCommand(), doctorCommand()},
		Suggest:               true,
		EnableShellCompletion: true,
		// The errors are printed once, by main.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	}
}

// paths are sproutd's sockets and directories for the run directory that the user named.
func paths(cmd *cli.Command) seedpool.Paths {
	return seedpool.Paths{RunDir: cmd.String("run-dir")}
}

// dial connects to sproutd.
func dial(ctx context.Context, cmd *cli.Command) (*seedpool.Client, error) {
	c, err := seedpool.Dial(ctx, paths(cmd).APISocket())
	if err != nil {
		return nil, hint(err, "is sproutd running? `systemctl start sproutd`, or name its run directory with --run-dir")
	}
	return c, nil
}

// named is the one positional argument of a verb, or an error that says what is missing.
func named(cmd *cli.Command, what string) (string, error) {
	switch cmd.Args().Len() {
	case 1:
		return cmd.Args().First(), nil
	case 0:
		return "", hint(errMissing(what), "usage: "+cmd.FullName()+" "+cmd.ArgsUsage)
	default:
		return "", hint(errExtra(cmd.Args().Get(1)), "usage: "+cmd.FullName()+" "+cmd.ArgsUsage)
	}
}

// namesOrAll are the positional arguments of a verb, or with --all everything that there is.
func namesOrAll(cmd *cli.Command, all func() ([]string, error)) ([]string, error) {
	names := cmd.Args().Slice()
	switch {
	case cmd.Bool("all") && len(names) > 0:
		return nil, errors.New("name seeds or give --all, not both")
	case cmd.Bool("all"):
		return all()
	case len(names) == 0:
		return nil, hint(errMissing("the seed's name"), "usage: "+cmd.FullName()+" "+cmd.ArgsUsage+", or --all")
	}
	return names, nil
}

// allNamespacesFlag is the flag of every verb that can look beyond one namespace, and scope what the user wants to see: a namespace, or with the flag all, which is empty.
func allNamespacesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "of all containerd namespaces"}
}

func scope(cmd *cli.Command) string {
	if cmd.Bool("all-namespaces") {
		return ""
	}
	return cmd.String("namespace")
}
