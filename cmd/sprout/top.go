package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// clearScreen puts the cursor into the corner and clears what is behind it.
const clearScreen = "\x1b[H\x1b[J"

func topCommand() *cli.Command {
	return &cli.Command{
		Name:  "top",
		Usage: "show what memory containers, spares and what stands behind them take",
		Description: "LOGICAL is every page that is mapped: what an instance would take alone. PHYSICAL counts a page that n processes share as one n-th, and adds up to\n" +
			"what the machine has spent; PRIVATE is what nobody else maps;\n" +
			"MERGED is what was found to be equal and merged (seed bake --merge). On a terminal the figures are renewed until ^C.",
		Flags: []cli.Flag{
			allNamespacesFlag(),
			&cli.DurationFlag{Name: "interval", Usage: "renew after this `TIME`", Value: 2 * time.Second},
			&cli.BoolFlag{Name: "once", Usage: "print once"},
			jsonFlag(),
		},
		Action: runTop,
	}
}

func runTop(ctx context.Context, cmd *cli.Command) error {
	interval := cmd.Duration("interval")
	if interval <= 0 {
		return fmt.Errorf("--interval %s is not more than 0", interval)
	}
	c, err := dial(ctx, cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	request := &api.UsageRequest{Namespace: scope(cmd)}
	out := cmd.Root().Writer
	live := !cmd.Bool("once") && !cmd.Bool("json") && isTerminal(os.Stdout)
	again := time.NewTicker(interval)
	defer again.Stop()
	for {
		list, err := c.Seeds.Usage(ctx, request)
		if err != nil {
			return fmt.Errorf("measure memory: %w", err)
		}
		if cmd.Bool("json") {
			return printJSON(out, list.Usages...)
		}
		if live {
			fmt.Fprint(out, clearScreen)
		}
		if err := showUsage(out, list.Usages); err != nil || !live {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}

// showUsage prints the node, its seeds, and everything of them.
func showUsage(w io.Writer, usages []*api.Usage) error {
	node := &api.Usage{Seed: "(all)"}
	var seeds []*api.Usage
	var rows [][]string
	for _, u := range usages {
		seed := &api.Usage{Namespace: u.Namespace, Seed: u.Seed}
		if n := len(seeds); n > 0 && seeds[n-1].Namespace == u.Namespace && seeds[n-1].Seed == u.Seed {
			seed = seeds[n-1]
		} else {
			seeds = append(seeds, seed)
		}
		addUsage(seed, u)
		addUsage(node, u)
		rows = append(rows, append([]string{orDash(u.Seed), u.Kind, orDash(u.Id), orDash(u.Rung)}, figures(u)...))
	}
	var sums [][]string
	for _, s := range append(seeds, node) {
		sums = append(sums, append(append([]string{orDash(s.Seed)}, figures(s)...), ratio(s)))
	}
	if err := table(w, "SEED PROCESSES LOGICAL PHYSICAL PRIVATE MERGED LOGICAL/PHYSICAL", sums); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return table(w, "SEED KIND ID RUNG PROCESSES LOGICAL PHYSICAL PRIVATE MERGED", rows)
}

func addUsage(sum, u *api.Usage) {
	sum.Processes += u.Processes
	sum.Logical += u.Logical
	sum.Physical += u.Physical
	sum.Private += u.Private
	sum.Merged += u.Merged
}

func figures(u *api.Usage) []string {
	return []string{strconv.Itoa(int(u.Processes)), bytesText(u.Logical), bytesText(u.Physical), bytesText(u.Private), bytesText(u.Merged)}
}

func ratio(u *api.Usage) string {
	if u.Physical == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(u.Logical)/float64(u.Physical))
}
