// Command sprout-shim is the process that owns the containers of one pod: see package shim. It is not meant to be run by hand.
//
//   - serve: run by the launcher; the socket is file descriptor 3, the parameters come as JSON from 4.
//   - idle: run by sproutd; the control socket is file descriptor 3.
//   - cleanup: run by the launcher when containerd deletes a task whose shim is gone.
//   - info: run by the launcher when containerd asks what the runtime can do.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/shim"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "sprout-shim: %s\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no verb: serve, idle, cleanup or info")
	}
	flags := flag.NewFlagSet("sprout-shim "+args[0], flag.ContinueOnError)
	namespace := flags.String("namespace", "", "containerd's namespace")
	id := flags.String("id", "", "id of the container")
	bundle := flags.String("bundle", "", "directory of the container")
	flags.String("address", "", "containerd's gRPC socket; for those who read the list of processes")
	flags.Bool("debug", false, "log more")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "serve":
		var p seedpool.ShimParams
		told := os.NewFile(4, "parameters")
		// Closed at once: no child shall inherit it.
		if err := errors.Join(json.NewDecoder(told).Decode(&p), told.Close()); err != nil {
			return fmt.Errorf("read parameters: %w", err)
		}
		return shim.Serve(ctx, os.NewFile(3, "socket"), p)
	case "idle":
		return shim.Idle(ctx, os.NewFile(3, "control"))
	case "cleanup":
		return shim.Cleanup(ctx, os.Stdout, *namespace, *id, *bundle)
	case "info":
		return shim.Info(ctx, os.Stdin, os.Stdout)
	}
	return fmt.Errorf("unknown verb %q: serve, idle, cleanup or info", args[0])
}
