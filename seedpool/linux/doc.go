// Package linux is one of the two doors to the kernel (the other is seedpool/ptrace): cgroups, pidfds, namespaces, mounts, credentials, named pipes,
// userfaultfd, file systems in memory.
//
// A wrapper has no policy. It retries EINTR, returns an owning type rather than a number, and its error names the call and the object. Whoever needs to
// know whether this kernel can do a thing asks Probes, which tries it.
//
// What is owned: a Pidfd and every *os.File that is returned, by the caller. A Cgroup is only a name and may be copied; its directories are there from
// Create to Remove, whoever calls them. A thread that has entered a namespace is thrown away (Enter). There are no locks and no state but the list of cgroup
// hierarchies, read once.
//
// Kernel needs: cgroup v2 freezer (5.2), cgroup.kill (5.14), clone into cgroup (5.7), open_tree and move_mount (5.2), openat2 (5.6), statx mount ids (5.8),
// pidfd with PIDFD_NONBLOCK (5.10), mount_setattr (5.12); PIDFD_INFO_EXIT (6.15) gives the exit status of a process that is not our child, without it the
// parent has to tell; overlays of very many layers need fsconfig lowerdir+ (6.7); memory that instances share needs tmpfs with noswap (6.4) and
// userfaultfd with minor faults on shared memory (5.14).
package linux
