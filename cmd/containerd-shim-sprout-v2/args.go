package main

import (
	"flag"
	"fmt"
	"io"
	"runtime/debug"
)

// args are the arguments that every containerd since 1.2 gives a shim.
type args struct {
	namespace string
	id        string
	address   string // of containerd's gRPC socket
	publisher string // containerd's binary
	bundle    string // with delete only
	debug     bool
	info      bool
	version   bool
	verb      string
}

func parseArgs(argv []string) (args, error) {
	var a args
	flags := flag.NewFlagSet("containerd-shim-sprout-v2", flag.ContinueOnError)
	flags.StringVar(&a.namespace, "namespace", "", "namespace that owns the shim")
	flags.StringVar(&a.id, "id", "", "id of the task")
	flags.StringVar(&a.address, "address", "", "address of containerd's gRPC socket")
	flags.StringVar(&a.publisher, "publish-binary", "", "containerd's binary")
	flags.StringVar(&a.bundle, "bundle", "", "path to the bundle, if not the working directory")
	flags.BoolVar(&a.debug, "debug", false, "log more")
	flags.BoolVar(&a.info, "info", false, "read the options from standard input, print what the runtime can do as protobuf")
	flags.BoolVar(&a.version, "v", false, "print the version")
	flags.BoolVar(&a.version, "version", false, "print the version")
	if err := flags.Parse(argv); err != nil {
		return args{}, fmt.Errorf("parse arguments: %w", err)
	}
	a.verb = flags.Arg(0)
	return a, nil
}

// version is sprout's own; seedpool.Version is the same and TestVersionIsSprouts holds them together.
const version = "0.1.0"

func printVersion(w io.Writer) error {
	revision, goVersion := "unknown", "unknown"
	if build, ok := debug.ReadBuildInfo(); ok {
		goVersion = build.GoVersion
		for _, s := range build.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	_, err := fmt.Fprintf(w, "containerd-shim-sprout-v2:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n\n", version, revision, goVersion)
	return err
}
