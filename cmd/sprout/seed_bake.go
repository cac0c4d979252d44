package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

func seedBakeCommand() *cli.Command {
	return &cli.Command{
		Name:      "bake",
		Usage:     "boot an image once, wait until it is ready, and keep it as a seed",
		ArgsUsage: "[-- ARGS...]",
		// A mount and a variable may have commas in them, as with ctr.
		DisableSliceFlagSeparator: true,
		Description: "A container wakes from the seed when its spec is the one that was baked: give the same options as to `ctr run`. There are two modes.\n" +
			"prestart: each spare is booted on its own, made ready, warmed up and frozen. Nothing random is shared; without a ready spare a start is cold.\n" +
			"clone: the app is booted once, made ready, warmed up and stored, and all instances wake with that memory: the same random numbers, cached UUIDs\n" +
			"and session keys, until the app draws new ones. They are made in milliseconds, may share their memory, and need no spare.\n" +
			"What an instance is it finds in /run/sprout: generation, entropy, env (the late variables) and instance; --after-wake tells it to look.",
		Flags: append(specFlags(),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the seed", Required: true},
			&cli.StringFlag{Name: "ready", Usage: "`CHECK` that says the app is up: http://:8080/path, tcp://:6379, log=REGEXP, file=PATH, exec=COMMAND", Required: true},
			&cli.DurationFlag{Name: "ready-timeout", Usage: "how long the app may take", Value: 2 * time.Minute},
			&cli.StringFlag{Name: "mode", Usage: "`MODE` prestart or clone, see above", Value: seedpool.ModePrestart},
			&cli.IntFlag{Name: "warmup", Usage: "send `N` requests before the memory is taken, or a spare is frozen; one is the least a JVM needs to wake quickly", Value: 0},
			&cli.BoolFlag{Name: "trim", Usage: "of mode prestart: have JVMs (HotSpot with G1) collect their garbage and give memory back before a spare is frozen"},
			&cli.BoolFlag{Name: "merge", Usage: "of mode prestart: have the kernel merge equal memory of the spares; of one containerd namespace only, since who shares memory can tell by time what is in it"},
			&cli.BoolFlag{Name: "deterministic", Usage: "of mode prestart: boot spares without address randomization and with PYTHONHASHSEED=0, so that more is equal; an attacker who knows one knows all"},
			&cli.StringSliceFlag{Name: "late-env", Usage: "`NAME` of a variable that may differ between containers"},
			&cli.StringSliceFlag{Name: "late-mount", Usage: "`PATH` of a mount that may differ or be absent when baked"},
			&cli.BoolFlag{Name: "allow-secrets", Usage: "of mode clone: bake variables and mounts that look secret, too: their values end in the memory image, and in every instance"},
			&cli.StringFlag{Name: "after-wake", Usage: "`ACTION` that tells the app it was woken, before its start is over: signal=URG, http://:8080/path, exec=COMMAND"},
			&cli.DurationFlag{Name: "after-wake-timeout", Usage: "how long http and exec may take", Value: seedpool.DefaultAfterWakeTimeout},
			&cli.BoolFlag{Name: "after-wake-optional", Usage: "a container in which it fails runs on; else it is ended, and its start is an error"},
			jsonFlag(),
		),
		Action: runBake,
	}
}

func runBake(ctx context.Context, cmd *cli.Command) error {
	ready, err := bake.ParseReadiness(cmd.String("ready"))
	if err != nil {
		return fmt.Errorf("--ready: %w", err)
	}
	ready.Timeout = cmd.Duration("ready-timeout")
	var afterWake *api.AfterWake
	if cmd.IsSet("after-wake") {
		if afterWake, err = seedpool.ParseAfterWake(cmd.String("after-wake"), cmd.Duration("after-wake-timeout"), cmd.Bool("after-wake-optional")); err != nil {
			return fmt.Errorf("--after-wake: %w", err)
		}
	}
	if cmd.Int("warmup") < 0 {
		return fmt.Errorf("--warmup %d is negative", cmd.Int("warmup"))
	}
	c, err := dial(ctx, cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	image, err := resolve(ctx, cmd)
	if err != nil {
		return err
	}
	spec, err := json.Marshal(image.spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	if cmd.String("mode") == seedpool.ModeClone && afterWake == nil {
		notice("all instances of a seed wake with the same random state, and the app is not told: see \"Who am I?\" in the README")
	}
	stream, err := c.Seeds.Bake(ctx, &api.BakeRequest{
		Namespace: cmd.String("namespace"), Name: cmd.String("name"), Image: image.name, ChainId: image.chainID, Spec: spec,
		Ready: ready.API(), Warmup: uint32(cmd.Int("warmup")), Mode: cmd.String("mode"),
		LateEnv: cmd.StringSlice("late-env"), LateMounts: cmd.StringSlice("late-mount"), AfterWake: afterWake, AllowSecrets: cmd.Bool("allow-secrets"),
		Trim: cmd.Bool("trim"), Merge: cmd.Bool("merge"), Deterministic: cmd.Bool("deterministic"),
	})
	if err != nil {
		return fmt.Errorf("bake: %w", err)
	}
	seed, err := follow(stream)
	if err != nil {
		return fmt.Errorf("bake: %w", err)
	}
	if cmd.Bool("json") {
		return printJSON(os.Stdout, seed)
	}
	if seed.Mode == seedpool.ModePrestart {
		_, err = fmt.Fprintf(cmd.Root().Writer, "%s: %s, one instance was booted and has answered; `sprout pool set %s --spares N` keeps spares of it\n", seed.Name, seed.Id, seed.Name)
		return err
	}
	_, err = fmt.Fprintf(cmd.Root().Writer, "%s: %s, %d processes, %s of memory, %s of files\n", seed.Name, seed.Id, seed.Processes, bytesText(seed.ImageBytes), bytesText(seed.RootfsBytes))
	return err
}

// follow shows what the baker does and returns the seed.
func follow(stream api.Seeds_BakeClient) (*api.SeedInfo, error) {
	show := newProgress()
	defer show.end()
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("sproutd ended the bake without a seed")
		}
		if err != nil {
			return nil, err
		}
		if event.Seed != nil {
			return event.Seed, nil
		}
		text := event.Message
		if event.Total > 0 {
			text = fmt.Sprintf("%s %d/%d", text, event.Done, event.Total)
		}
		show.show(event.Step, text)
	}
}
