// Package keeper is the process that holds one seed in RAM: the parent of every instance made from it. There is one keeper for each seed in use; it is a
// child of sproutd only by birth and lives on when sproutd is restarted or killed.
//
// Life of a keeper: Spawn starts `sproutd keeper` in a session and, if it is to restore, a mount namespace of its own; Main prepares that for CRIU, serves the Keeper
// service on its socket, and says so to Spawn. Make makes a frozen instance. Retire lets the keeper end with its last instance.
//
// The keeper of a seed whose instances are booted, one by one (mode prestart), has runc make each, adopts it, and has no template, no shared memory and no CRIU.
//
// Life of the seed's memory: the first request for an instance that shares its memory has a hot image made, once; it is there until sproutd has it given up, when no instance has it, or the keeper ends, and each
// instance's own memory beside it is served until the instance has ended. With the image comes a guard, a child that outlives the keeper as long as an instance that shares is
// there, and kills those whose shim ends, too; another takes its place when it is killed. An instance that cannot share, and one that somebody waits for while the image
// is not ready, is given memory of its own; the answer says why.
//
// Life of the seed's template, if instances are to be cloned: the first request for a clone has it made, once, in a pid namespace whose first process is a holder
// (Hold). It is frozen; awake is only its zygote, in a cgroup beside it. When the keeper retires, or sproutd has it give the template up, it ends both; after that the next request has another made. When it is killed, the zygote loses its socket and
// ends, the holder ends the template and stays until the last clone has ended, and sproutd removes cgroups and files. A zygote that was killed makes no more
// clones: its template is ended, clones go on, and the next request for a clone has another template made, a few times. A holder that is killed takes template, zygote and clones with it, as a container's init does its container.
//
// Life of an instance here: its standard streams are pipes, which the keeper holds open at both ends until Forget, when the container's shim has opened
// them at /proc/<keeper>/fd; its process is waited for until it ends, and its wait status is written to the directory's exit file. What others need then
// is in the file system, and shared memory is held by the container's shim, too, so a keeper that is killed takes nothing with it: idle instances are
// found by their cgroups and ended by sproutd, running containers go on, their mounts are their own, and the kernel hands the exit status to the shim. A
// keeper whose socket was removed or replaced can not be asked for anything any more: it ends with its last instance. One that is killed while it makes an
// instance takes CRIU with it; what is left of the instance is in its cgroup and is killed by the next owner. A clone is nobody's child who waits for it: the kernel
// keeps its status for those who have its pidfd.
//
// Dump writes an instance that runs to disk, as a delta against its seed's image, and leaves it frozen, for its shim to end; it is made again like any other, from its own image, on the pipes that the shim has kept,
// by whichever keeper its seed has then.
//
// Lock order: server.mu is a leaf; nothing slow is done under it. guard.mu is held while a memory's own is taken.
package keeper
