package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func seedCommand() *cli.Command {
	return &cli.Command{
		Name:     "seed",
		Usage:    "bake, list and check seeds",
		Commands: []*cli.Command{seedBakeCommand(), seedListCommand(), seedInspectCommand(), seedVerifyCommand(), seedRemoveCommand(), seedGCCommand()},
	}
}

// seedRef names a seed of the namespace that the user works in.
func seedRef(cmd *cli.Command, name string) *api.SeedRef {
	return &api.SeedRef{Namespace: cmd.String("namespace"), Name: name}
}

// seedNames are those of all seeds of the namespace, each of which has a pool.
func seedNames(ctx context.Context, cmd *cli.Command, c *seedpool.Client) (names []string, err error) {
	list, err := c.Seeds.ListSeeds(ctx, &api.ListSeedsRequest{Namespace: cmd.String("namespace")})
	if err != nil {
		return nil, fmt.Errorf("list seeds: %w", err)
	}
	for _, s := range list.Seeds {
		names = append(names, s.Name)
	}
	return names, nil
}

func seedRow(s *api.SeedInfo) []string {
	phase := s.Phase
	if s.Reason != "" {
		phase += " (" + s.Reason + ")"
	}
	mode := s.Mode
	if s.Automatic {
		mode += " (automatic)"
	}
	return []string{
		s.Namespace, s.Name, s.Id, s.Image, mode, phase, bytesText(s.ImageBytes + s.RootfsBytes),
		fmt.Sprintf("%d/%d", s.SparesReady, s.SparesWant), age(s.CreatedUnixNanoseconds),
	}
}
