package main

import (
	"context"
	"flag"

	"github.com/sproutrun/sprout/seedpool/keeper"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// keep is the keeper process; its command line is keeper.Config.Args.
func keep(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sproutd keeper", flag.ContinueOnError)
	seed := flags.String("seed", "", "id of the seed")
	socket := flags.String("socket", "", "socket to serve on")
	criu := flags.String("criu", "criu", "the program")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// The signals that end sproutd are not for the keeper: its instances would lose their parent.
	return keeper.Main(context.WithoutCancel(ctx), keeper.Config{Seed: *seed, Socket: *socket, CRIU: restore.CRIU{Path: *criu}})
}
