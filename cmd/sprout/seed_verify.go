package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"
)

func seedVerifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "read every byte of a seed and compare it with its checksums",
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
			result, err := c.Seeds.VerifySeed(ctx, seedRef(cmd, name))
			if err != nil {
				return fmt.Errorf("verify seed: %w", err)
			}
			if cmd.Bool("json") {
				err = printJSON(cmd.Root().Writer, result)
			} else {
				_, err = fmt.Fprintf(cmd.Root().Writer, "%s: %d files, %s, %d problems\n", name, result.Files, bytesText(result.Bytes), len(result.Problems))
				for _, problem := range result.Problems {
					fmt.Fprintln(cmd.Root().Writer, "  "+problem)
				}
			}
			if err != nil {
				return err
			}
			if len(result.Problems) > 0 {
				return hint(fmt.Errorf("seed %s is damaged and will not be woken", name), "bake it again: sprout seed bake --name "+name+" …")
			}
			return nil
		},
	}
}
