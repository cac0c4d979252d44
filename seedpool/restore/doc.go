// Package restore makes instances from CRIU images, and the images from a running container. It speaks to an unmodified `criu swrk` itself: runc is not
// on the path.
//
// Life of an image: Dump writes it from a container whose file system is a spec's. Mounts are external, apart from those of the kernel's own file systems, so
// that CRIU packs nothing but memory and state; the files of tmpfs mounts, which CRIU would pack with tar processes, are packed by us.
//
// Life of an instance: Stage builds its mounts outside CRIU. Restore starts CRIU inside the instance's final cgroup, so that memory is charged there, and hands
// over root, mounts, network namespace and standard streams. When every task stands in its last ptrace stop, CRIU leaves the cgroup and the cgroup is frozen:
// the app has not run one instruction when Restore returns. What fails, is cancelled or killed on the way is killed by its cgroup, and only then is CRIU let
// go or killed: its tasks would run without it. That it dies by itself in the two or three ms before the freeze is seen at once, but not before.
//
// # On disk
//
//	<images>/*.img           CRIU's images
//	<images>/mount-<n>.tar   the files of the spec's n-th mount, a tmpfs; none: there were no files
//	<work>/{dump,restore}.log
//
// An image is untrusted input: Check, which Restore begins with, refuses what is not a whole image of this architecture before CRIU sees it.
//
// # Kernel needs
//
// CRIU 4.2 (kernels from 6.16 on), cgroup v2 freezer. CRIU caches what it found out about the kernel, and without CAP_SYS_RESOURCE cannot raise a limit that it
// does not need: Isolate gives it a mount namespace with a tmpfs for the first and a plain file over fs.nr_open for the second. Nothing of it is seen on the
// host. Without that capability a container with processes of several users cannot be dumped.
package restore
