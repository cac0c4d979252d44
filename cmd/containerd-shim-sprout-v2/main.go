// Command containerd-shim-sprout-v2 is what containerd runs for the runtime io.containerd.sprout.v2: the launcher. It lives for a millisecond or two, links the
// standard library only (containerd's packages cost 4 ms to initialize, more than the rest of a woken start) and knows these verbs:
//
//   - start: print the address of the shim that serves the container: that of its pod when it lives; else an idle shim of sproutd's; else a new one that is
//     started here. The last always works: sproutd is never needed for a container to start.
//   - delete: print how the container ended. What the shim has deleted needs no work; what it has left goes by `sprout-shim cleanup`.
//   - -info: print what the runtime can do, by `sprout-shim info`.
//   - -v: print the version.
//
// containerd speaks one of two dialects to `start`. From 2.3 on it sends a protobuf BootstrapParams on standard input and reads a protobuf BootstrapResult; before,
// everything was in flags and environment, standard input held the runtime's options, and the answer was JSON. Standard output and error are one pipe that
// containerd reads to its end: nothing else may be printed, and no child may inherit it.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "containerd-shim-sprout-v2: %s\n", err)
		os.Exit(1)
	}
}

func run(args []string, stdin *os.File, stdout io.Writer) error {
	a, err := parseArgs(args)
	if err != nil {
		return err
	}
	switch {
	case a.version:
		return printVersion(stdout)
	case a.info:
		return execShim(a, "info")
	case a.namespace == "" || a.id == "":
		return fmt.Errorf("parse arguments: -namespace and -id are needed")
	case a.verb == "start":
		return start(a, stdin, stdout)
	case a.verb == "delete":
		return remove(a, stdout)
	}
	return fmt.Errorf("parse arguments: unknown verb %q", a.verb)
}
