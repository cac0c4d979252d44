// Package restore makes instances from CRIU images, and the images from a running container. It speaks to an unmodified `criu swrk` itself: runc is not
// on the path.
//
// Life of an image: Dump writes it from a container whose file system is a spec's (mounts that are neither the root nor the kernel's own are external, so
// that nothing is packed into the image but memory and state). Life of an instance: Stage builds its mounts outside CRIU; Restore starts CRIU inside the
// instance's final cgroup, so that memory is charged there, and hands over root, mounts, network namespace and standard streams; when every task stands in
// its last ptrace stop, CRIU leaves the cgroup and the cgroup is frozen, so that the app has not run one instruction when Restore returns.
//
// CRIU caches what it found out about the kernel, and on a kernel without CAP_SYS_RESOURCE cannot raise a limit it does not need: Isolate gives it a
// mount namespace with a tmpfs for the first and a plain file over fs.nr_open for the second. Nothing of it is visible on the host.
//
// An image is untrusted input: Check refuses what is not a whole image of this architecture before CRIU sees it.
//
// Needs CRIU 4.2 (kernels from 6.16 on), cgroup v2 freezer.
package restore
