package main

import "github.com/urfave/cli/v3"

func poolCommand() *cli.Command {
	return &cli.Command{
		Name:     "pool",
		Usage:    "say how many spares of a seed stand ready",
		Commands: []*cli.Command{poolListCommand(), poolSetCommand(), poolDrainCommand()},
	}
}
