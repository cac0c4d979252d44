// Package linux is one of the two doors to the kernel (the other is seedpool/ptrace): cgroups, pidfds, namespaces, mounts, credentials, named pipes.
//
// A wrapper has no policy. It retries EINTR, returns an owning type rather than a number, and its error names the call and the object. Whoever needs to
// know whether this kernel can do a thing asks Probes, which tries it.
//
// Kernel needs: cgroup v2 freezer (5.2), cgroup.kill (5.14), clone into cgroup (5.7), open_tree and move_mount (5.2), mount_setattr (5.12), pidfd (5.3);
// PIDFD_INFO_EXIT (6.15) gives the exit status of a process that is not our child, without it the parent has to tell.
package linux
