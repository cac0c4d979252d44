// Package shim is the process that owns the containers of one pod, or one lone container: containerd's task service, version 3.
//
// # Two kinds of tasks
//
// A container that was woken, from a spare, by fork or by restore, is a wokenTask of this package. Every other is the business of containerd's own runc task service, which
// is embedded unchanged as the cold rung. Each request goes to one of the two by the container's id; both publish through one queue, so that containerd sees the
// events of a pod in the order in which they happened.
//
// # Life
//
// A shim is started by the launcher (`sprout-shim serve`) with its socket, or by sproutd beforehand (`sprout-shim idle`), to be told later which container it is
// for. From then on both are the same; an idle one takes only a container that gets nothing from it that containerd would not have given (surroundings.go). It is
// the reaper of what is reparented to it, writes its log into the bundle's named pipe `log`, and ends when containerd asks it to and no task is left, or by
// SIGTERM. sproutd may come and go: without it everything starts cold.
//
// As soon as it knows its first container it reads the bundle, and, when containerd has connected and sproutd has foreseen the rung, it claims a spare and moves it in, or has
// a clone made (reserve.go). CreateTask goes on from there, or gives the instance back and goes its own way; so does a shim that ends without a CreateTask, and sproutd
// for one that dies.
//
// An instance is told which one it is while it is frozen (identity.go), and that it was woken before Start is over (afterwake.go).
//
// # Sleep
//
//	running ──▶ dozing ──▶ asleep ──▶ waking ──▶ running
//	   ◀── refused ──┘        ◀── failed ──┘
//
// `sprout sleep` and `sprout wake` ask the shim itself (tasks.go). Asleep a task is an image below sproutd's state directory, its cgroup, its files, and what the shim holds
// of it: the pipes of its standard streams and its network namespace. The processes are frozen before the image is called whole, and ended after that: at any moment either
// they run or there is all of them. To containerd it is paused: resume wakes it. SIGKILL ends it, any other signal wakes it first; exec, pause and update are refused.
// Woken it has another pid on the host, the same ones inside, and is told who it is as at its start.
//
// A shim that dies leaves its containers running. containerd then runs the launcher's `delete`, which becomes Cleanup of this package: it ends and removes what is
// left and tells how the container ended.
//
// # Files
//
// In the bundle, beside those of containerd's runc shim:
//
//   - sprout.instance: what Cleanup must know of a woken container; JSON of boundInstance, written before Create returns.
//   - sprout.address: where the shim serves, written when it learns of its first container; Cleanup ends one that containerd has forgotten.
//   - sprout.exit: how the task ended; JSON of exit, written when everything of it is gone: the launcher's `delete` then has nothing to do.
//
// Below the run directory: the record of the start (seedpool.Paths.StartRecord), written after Start has returned, removed with the task.
//
// # Locks
//
// service.mu is a leaf. For those of woken tasks see wokenTask.
package shim
