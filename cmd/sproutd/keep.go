package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/sproutrun/sprout/seedpool/keeper"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// keep is the keeper process; its command line is keeper.Config.Args.
func keep(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sproutd keeper", flag.ContinueOnError)
	seed := flags.String("seed", "", "id of the seed")
	socket := flags.String("socket", "", "socket to serve on")
	criu := flags.String("criu", "", "the program; empty: instances are booted")
	merge := flags.Bool("merge", false, "instances offer their memory to be merged")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *criu != "" {
		if err := ownMounts(); err != nil {
			return err
		}
	}
	// The signals that end sproutd are not for the keeper: its instances would lose their parent.
	return keeper.Main(context.WithoutCancel(ctx), keeper.Config{Seed: *seed, Socket: *socket, CRIU: restore.CRIU{Path: *criu}, Merge: *merge})
}

// ownMounts refuses a keeper that was started by hand: it lays mounts over /run, and would do so for everybody. That of a sproutd that has ended since has
// another parent, whose mounts cannot always be looked at.
func ownMounts() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if parents, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid())); err == nil && parents == own {
		return errors.New("a keeper needs a mount namespace of its own: sproutd starts it")
	}
	return nil
}
