package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say how a container was started: rung, fallbacks with their reasons, milliseconds per phase",
		ArgsUsage: "ID",
		Flags:     []cli.Flag{jsonFlag()},
		Action: func(_ context.Context, cmd *cli.Command) error {
			id, err := named(cmd, "the container's id")
			if err != nil {
				return err
			}
			start, err := readStart(paths(cmd), cmd.String("namespace"), id)
			if err != nil {
				return err
			}
			if cmd.Bool("json") {
				return printJSON(cmd.Root().Writer, start)
			}
			return explain(cmd.Root().Writer, start)
		},
	}
}

// readStart reads the record that the shim left: it is there whether or not sproutd runs, which is when a user asks.
func readStart(p seedpool.Paths, namespace, id string) (*api.Start, error) {
	data, err := os.ReadFile(p.StartRecord(namespace, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, hint(fmt.Errorf("container %q of namespace %q has no start record", id, namespace),
			"`sprout ps` lists those that have one; a record goes with its task, and only --runtime io.containerd.sprout.v2 writes it")
	}
	if err != nil {
		return nil, fmt.Errorf("read start record: %w", err)
	}
	start := new(api.Start)
	if err := protojson.Unmarshal(data, start); err != nil {
		return nil, fmt.Errorf("read start record of %s: %w", id, err)
	}
	return start, nil
}

func explain(w io.Writer, s *api.Start) error {
	fmt.Fprintf(w, "%s  rung %s, %d fallbacks, %s ms", s.Id, s.Rung, len(s.Fallbacks), millis(total(s)))
	if s.Seed != "" {
		fmt.Fprintf(w, ", seed %s, mode %s", s.Seed, s.Mode)
	}
	fmt.Fprintln(w)
	if len(s.Fallbacks) > 0 {
		rows := make([][]string, 0, len(s.Fallbacks))
		for _, f := range s.Fallbacks {
			rows = append(rows, []string{f.Rung, f.Reason, millis(f.Nanoseconds), orDash(f.Detail)})
		}
		if err := table(w, "PASSED-OVER REASON MS DETAIL", rows); err != nil {
			return err
		}
		explainHints(w, s.Fallbacks)
	}
	if s.Automatic != "" {
		fmt.Fprintln(w, "automatic:", s.Automatic)
	}
	if err := explainPhases(w, "AHEAD MS", s.Ahead); err != nil {
		return err
	}
	if err := explainPhases(w, "PHASE MS", s.Phases); err != nil || s.Rest == nil {
		return err
	}
	return explainRest(w, s.Rest)
}

// explainRest says what a container has slept.
func explainRest(w io.Writer, r *api.Rest) error {
	if !r.Asleep {
		fmt.Fprintf(w, "woken %d times from sleep, last %s ago\n", r.Wakes, age(r.AtUnixNanoseconds))
		return explainPhases(w, "WAKE MS", r.Phases)
	}
	fmt.Fprintf(w, "asleep since %s, %s\n", age(r.AtUnixNanoseconds), onDisk(r.Bytes, r.Full))
	return explainPhases(w, "SLEEP MS", r.Phases)
}

// explainPhases prints what there is of phases. What was done ahead is no part of what the start took.
func explainPhases(w io.Writer, heading string, phases []*api.Phase) error {
	if len(phases) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(phases))
	for _, p := range phases {
		rows = append(rows, []string{p.Name, millis(p.Nanoseconds)})
	}
	return table(w, heading, rows)
}

// explainHints prints each reason's advice once.
func explainHints(w io.Writer, fallbacks []*api.Fallback) {
	seen := map[string]bool{}
	for _, f := range fallbacks {
		text := seedpool.Reason(f.Reason).Hint()
		if text == "" || seen[f.Reason] {
			continue
		}
		seen[f.Reason] = true
		fmt.Fprintf(w, "%s: %s\n", f.Reason, text)
	}
}
