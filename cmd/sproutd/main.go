// Command sproutd is the daemon: one for each node. It serves the snapshotter to containerd, the pool to shims, idle shims to launchers and seeds to the
// command line, and may be restarted at any time.
//
//	sproutd [--config FILE]     serve
//	sproutd config default      print the configuration with all comments
//	sproutd keeper …            the process that holds one seed; started by sproutd
//	sproutd guard               holds what instances share of memory when their keeper and shim are gone; started by a keeper
//	sproutd holder              the first process of the pid namespace of a template; started by a keeper
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/keeper"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "sproutd: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && args[0] == "keeper":
		return keep(ctx, args[1:])
	case len(args) == 1 && args[0] == keeper.HolderArg:
		return keeper.Hold()
	case len(args) == 1 && args[0] == keeper.GuardArg:
		return keeper.Guard(context.WithoutCancel(ctx))
	}
	flags := flag.NewFlagSet("sproutd", flag.ContinueOnError)
	file := flags.String("config", "", "configuration `FILE` (default "+seedpool.DefaultConfigFile+", if there is one)")
	version := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *version:
		fmt.Println("sproutd " + seedpool.Version)
		return nil
	case flags.NArg() == 2 && flags.Arg(0) == "config" && flags.Arg(1) == "default":
		fmt.Print(seedpool.Default().Commented())
		return nil
	case flags.NArg() > 0:
		return fmt.Errorf("unknown arguments %q: want none, or config default", flags.Args())
	}
	config, err := loadConfig(*file)
	if err != nil {
		return err
	}
	return serve(ctx, config)
}
