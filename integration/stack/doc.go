// Package stack runs a containerd and a sproutd of their own, in one directory, for the tests, the benchmarks and the demo.
//
// Nothing of the host's own containerd is touched: root, state, sockets, content and snapshots live below the stack's directory, containers in a
// containerd namespace of their own, instances below a cgroup of their own. Close ends every process that the stack started and removes the directory.
//
//	s, err := stack.Start(ctx, stack.Options{Out: out, Log: os.Stderr})
//	defer s.Close()
//	err = s.Import(ctx, "python-demo")
//	err = s.Sprout(ctx, "seed", "bake", …)
//
// The binaries come from Options.Out/bin (made by `make tools build`), the images from Options.Out/images.
package stack
