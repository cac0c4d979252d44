package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
	"google.golang.org/protobuf/encoding/protojson"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:        "events",
		Usage:       "follow what the pool does",
		Description: "One line for each event, until ^C: spares made, claimed, bound, destroyed and evicted, starts with their rung, seeds baked and removed.\nWith --json each line is a JSON object.",
		Flags: []cli.Flag{
			allNamespacesFlag(),
			jsonFlag(),
		},
		Action: runEvents,
	}
}

func runEvents(ctx context.Context, cmd *cli.Command) error {
	c, err := dial(ctx, cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := c.Seeds.Events(ctx, &api.EventsRequest{Namespace: scope(cmd)})
	if err != nil {
		return fmt.Errorf("follow events: %w", err)
	}
	for {
		event, err := stream.Recv()
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		if err := showEvent(cmd.Root().Writer, event, cmd.Bool("json")); err != nil {
			return err
		}
	}
}

func showEvent(w io.Writer, e *api.Event, asJSON bool) error {
	if asJSON {
		line, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n", line)
		}
		return err
	}
	if e.Lost > 0 {
		notice("%d events were lost: this terminal did not keep up", e.Lost)
	}
	words := []string{time.Unix(0, e.AtUnixNanoseconds).Format("15:04:05.000"), fmt.Sprintf("%-12s", e.Kind)}
	for _, part := range []struct{ name, value string }{
		{"seed", e.Seed}, {"instance", e.Instance}, {"container", e.Container}, {"rung", e.Rung},
	} {
		if part.value != "" {
			words = append(words, part.name+" "+part.value)
		}
	}
	if e.Detail != "" {
		words = append(words, "("+e.Detail+")")
	}
	_, err := fmt.Fprintln(w, strings.Join(words, "  "))
	return err
}
