package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func seedInspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show one seed: what it holds and what a container must have in common with it",
		ArgsUsage: "NAME",
		Flags:     []cli.Flag{jsonFlag()},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			name, err := named(cmd, "the seed's name")
			if err != nil {
				return err
			}
			c, err := dial(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			seed, err := c.Seeds.InspectSeed(ctx, seedRef(cmd, name))
			if err != nil {
				return fmt.Errorf("inspect seed: %w", err)
			}
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, seed)
			}
			return describeSeed(cmd, seed)
		},
	}
}

func describeSeed(cmd *cli.Command, s *api.SeedInfo) error {
	phase := s.Phase
	if s.Reason != "" {
		phase += ": " + s.Reason
	}
	rows := [][]string{
		{"id", s.Id},
		{"namespace", s.Namespace},
		{"image", s.Image},
		{"mode", s.Mode},
		{"phase", phase},
		{"created", time.Unix(0, s.CreatedUnixNanoseconds).Format(time.RFC3339)},
		{"used", usedText(s)},
		{"spares", fmt.Sprintf("%d of %d ready", s.SparesReady, s.SparesWant)},
		{"late env", strings.Join(s.LateEnv, " ")},
		{"late mounts", strings.Join(s.LateMounts, " ")},
		{"after wake", seedpool.AfterWakeText(s.AfterWake)},
		{"key parts", names(s.Key.GetParts())},
		{"key env", names(s.Key.GetEnv())},
		{"key mounts", names(s.Key.GetMounts())},
	}
	if s.Automatic {
		rows = append(rows, []string{"automatic", "baked by sproutd of a container that was started cold; removed when unused for long"})
	}
	if s.Rebuild != nil {
		rows = append(rows, []string{"rebuild", rebuildText(s.Rebuild)})
	}
	if s.Mode == seedpool.ModeClone {
		rows = append(rows, [][]string{
			{"memory image", bytesText(s.ImageBytes)},
			{"pages on disk", pagesText(s.Pages)},
			{"rootfs layer", bytesText(s.RootfsBytes)},
			{"processes", fmt.Sprintf("%d (%d threads)", s.Processes, s.Threads)},
			{"forkable", forkText(s)},
			{"template", s.Template},
		}...)
	}
	if s.Merging != "" {
		rows = append(rows, []string{"merging", s.Merging})
	}
	return table(cmd.Root().Writer, "SEED "+s.Name, rows)
}

// usedText says when a container was last started from a seed.
func usedText(s *api.SeedInfo) string {
	if s.UsedUnixNanoseconds == 0 {
		return "never"
	}
	return age(s.UsedUnixNanoseconds) + " ago"
}

// rebuildText says how it goes with baking a seed again.
func rebuildText(r *api.Rebuild) string {
	switch {
	case r.Running:
		return "is being baked"
	case r.Failures == 0:
		return "is due"
	}
	return fmt.Sprintf("failed %d times, again at %s: %s", r.Failures, time.Unix(0, r.AgainUnixNanoseconds).Format(time.RFC3339), r.Error)
}

// pagesText says what a seed's memory takes in the page store.
func pagesText(u *api.PagesUsage) string {
	if u == nil {
		return "in plain files"
	}
	return fmt.Sprintf("%d: %d unique in %s, %d shared with other seeds in %s, %d of zeros",
		u.Pages, u.Unique, bytesText(u.UniqueBytes), u.Shared, bytesText(u.SharedBytes), u.Zeros)
}

// forkText says whether a seed's instances are cloned.
func forkText(s *api.SeedInfo) string {
	if s.Unforkable == "" {
		return s.Forkable
	}
	return s.Forkable + ": " + s.Unforkable
}

func names(m map[string]string) string {
	list := make([]string, 0, len(m))
	for name := range m {
		list = append(list, name)
	}
	sort.Strings(list)
	return strings.Join(list, " ")
}
