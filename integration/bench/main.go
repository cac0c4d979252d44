// Command bench measures sprout beside stock runc, in one run, and writes every figure that the README quotes.
//
//	go run ./integration/bench [-section start,idle,fork,pool,restore,memory,merge,sleep] [-out _out]
//
// It starts a containerd and a sproutd of its own (package stack), bakes the demo images, and writes results.json, results.txt and results.svg to
// OUT/bench: a list of {section, app, rung, metric, unit, n, median, p99}. A figure whose container was started by another rung than the one that is
// measured is an error, not a figure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sproutrun/sprout/integration/stack"
)

// section is one part of the benchmark, run against a stack of its own.
type section struct {
	name   string
	images []string
	// config is appended to sproutd's configuration.
	config string
	run    func(ctx context.Context, s *stack.Stack, r *results) error
}

var sections = []section{
	{"start", []string{"python-demo", "node-demo", "tomcat-demo"}, stack.Restoring, benchStart},
	{"idle", []string{"python-demo"}, "", benchIdle},
	{"fork", []string{"python-demo", "node-demo", "tomcat-demo"}, stack.Cloning, benchFork},
	{"pool", []string{"tomcat-demo"}, stack.Cloning, benchPool},
	{"restore", []string{"python-demo", "node-demo", "tomcat-demo", "gunicorn-demo"}, stack.Restoring + "[restore]\nshared = false\n", benchRestore(eager)},
	{"restore", []string{"python-demo", "node-demo", "tomcat-demo", "gunicorn-demo"}, stack.Restoring + "[restore]\nshared = true\n", benchRestore(shared)},
	{"memory", []string{"python-demo", "node-demo", "tomcat-demo"}, stack.Restoring + "[restore]\nshared = true\n", benchMemory},
	{"merge", []string{"python-demo"}, "", benchMerge},
	{"sleep", []string{"python-demo", "node-demo", "tomcat-demo"}, stack.Restoring, benchSleep},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	out := flag.String("out", "_out", "build directory: bin and images are read below it, bench is written")
	want := flag.String("section", os.Getenv("SECTION"), "sections to run, separated by commas (default: all)")
	flag.Parse()
	dir, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	chosen, err := choose(*want)
	if err != nil {
		return err
	}
	r := newResults()
	for _, sec := range chosen {
		if err := runSection(ctx, dir, sec, r); err != nil {
			return fmt.Errorf("section %s: %w", sec.name, err)
		}
	}
	return r.write(filepath.Join(dir, "bench"))
}

func choose(want string) ([]section, error) {
	if want == "" {
		return sections, nil
	}
	var chosen []section
	for _, name := range strings.Split(want, ",") {
		found := false
		for _, sec := range sections {
			if sec.name == name {
				chosen, found = append(chosen, sec), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no section %q", name)
		}
	}
	return chosen, nil
}

func runSection(ctx context.Context, out string, sec section, r *results) (err error) {
	s, err := stack.Start(ctx, stack.Options{Out: out, Config: sec.config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.ImportFor(ctx, []string{stack.OverlaySnapshotter, stack.Snapshotter}, sec.images...); err != nil {
		return err
	}
	return sec.run(ctx, s, r)
}
