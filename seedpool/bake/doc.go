// Package bake makes the images of a seed: it boots an app in a sacrificial container, waits until the app is ready, warms it up
// and dumps it with CRIU. It knows no pool and no store: the caller names the seed, commits what the app wrote to its rootfs and
// verifies the images.
//
// # Life of a bake
//
//		prepare → boot → ready → warmup → settle → dump → clean
//
//	  - prepare writes [Options].Dir: bake.json first (what [CleanupDir] must end), then the adapted spec.
//	  - boot has runc create and start the container. Its overlay is mounted in a mount namespace of one thread that is thrown away
//	    when the container runs, so the mount ends with the container and the host's mount table never shows it. Its network
//	    namespace is fresh, with lo up and nothing else. Its standard streams are three pipes whose other ends are ours: stdin stays
//	    open and silent, stdout and stderr are read line by line.
//	  - ready asks the app, from inside its network namespace, until it answers.
//	  - warmup sends it requests; a JVM that has answered nothing needs seconds for its first answer even when it is woken.
//	  - settle waits until no TCP connection is left: what is not in the image cannot be wrong when it is woken. Then it waits until
//	    the app rests, for some seconds at most.
//	  - dump leaves no process behind.
//
// A spare of mode prestart is booted by [Boot] with the same steps, but for the last: it is frozen and goes on to live, as a child of the process that has called. Its JVMs
// may be trimmed before (trim.go).
//
// From boot to settle the app's death is noticed at once by its pidfd. Whatever happens, Run returns only when the process, the
// cgroup, the namespaces, runc's state and Dir are gone; after a failure the images are gone too. After a kill -9 of the baking process
// CleanupDir does the same from what is on disk.
//
// # On disk
//
//	<Dir>/bake.json     {"id","cgroup"}: written and synced before anything else exists
//	<Dir>/config.json   the adapted spec; Dir is runc's bundle (0700: the spec holds the app's environment)
//	<Dir>/rootfs        empty; mount point in the private mount namespace
//	<Dir>/runc          runc's --root;  <Dir>/runc.log its log
//	<Dir>/work          CRIU's log and statistics
//
// # Kernel needs
//
// pidfd (5.3), cgroup v2 with cgroup.kill (5.14), overlayfs. The exit status of an app that dies while it is baked is known from
// Linux 6.15 on (PIDFD_GET_INFO).
package bake
