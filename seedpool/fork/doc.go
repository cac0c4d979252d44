// Package fork clones a live, multi-threaded process in user space: a fork(2) of another process, with all its threads, on a stock kernel.
//
// A Template is a stopped process. Once, NewTemplate stops its threads by ptrace, reads them (Inspect: threads, mappings, descriptors, timers, signals →
// a Process, and the list of what cannot be cloned), decides what a clone has to do (Plan, a pure function: Process → lists of system calls), writes these lists and
// a stub that runs them into a region of the template, and has its main thread fork the zygote. After that nobody is traced and the template never runs.
//
// The zygote is single-threaded, holds the whole memory of the template copy-on-write, and sleeps in recvmsg. A request brings the first lists of a clone and its
// descriptors. The zygote calls clone3, and the child is the clone: it makes its namespaces its own, replaces every inherited descriptor by one of
// its own, gives shared memory a copy, makes the other threads with the ids they had, and reports. Then it waits at the gate, not one instruction of the
// application's run: Release lets every thread become the application by rt_sigreturn, Discard ends it. A failing op is reported by list, number and purpose, and
// the clone ends; the zygote goes on.
//
// Life of a clone: requested → born → ready → released | discarded. Anything that inspect does not know is a Refusal, never a guess.
//
// What works so far: one process, or an init and its children, that is, or was, the first of its pid namespace; any number of threads; private and shared anonymous memory, MADV_DONTFORK
// undone, mlock; regular files (reopened by path in the clone's mount namespace), directories, stateless devices, pipes inside the process with what waits in them,
// eventfd, epoll, timerfd, signalfd, inotify (what is watched is found by its path in the clone's root; it watches from when all its files are open, but for those of
// the children of a tree), TCP listeners over IPv4 and IPv6, TCP sockets without a connection,
// unix sockets: listeners, pairs whose two ends are both inside with the bytes that wait in them, those whose peer is gone; UDP sockets and netlink sockets
// of few protocols with nothing to read; POSIX timers; dup'ed descriptors; itimers; unlinked files that are small;
// settings of the IPC namespace; System V memory (a copy under the same number, whose creator is root; not one that is to be removed when nobody has it); files mapped for writing, if the clone has a root of its own; standard streams that are pipes are replaced by those of the request, also where they were opened a second time;
// owners and signals of descriptors (O_ASYNC), if it is the process that has them. The clone has its own pid and mount namespace, network, IPC and UTS namespaces that are made or given,
// its own /proc, and begins in the given cgroup. Its root is a copy of the template's mounts, or a mount tree
// that comes with the request: its files are then opened there, while what is mapped privately stays the template's, whose bytes are the same.
//
// A template that was restored from an image with more privileges and other ids has an Origin: its clones have the ids of the original, every thread drops the
// capabilities, and all are given the one seccomp filter, before the release.
//
// Clocks: a template does not run, and neither do the clocks that its clones see: each has a time namespace of its own, in which CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from
// where they were when the template was stopped. So what a clone measures by them, such as the age of a worker's sign of life, is not off by the template's age. CLOCK_REALTIME is the machine's,
// and a clone that is kept frozen sees its own clocks jump when it is thawed, as every frozen process does.
//
// Trees: an init with direct children is a template of several processes, each with a zygote of its own. The init's clone is made first, up to its gate, and makes all
// that the tree shares: open files, pipes with both ends, shared memory. Then the children are made inside its namespaces, with the numbers that they had, by helpers that
// end, which makes them children of the init; what is shared they take from it (pidfd_getfd). A session cannot be entered: where children are in their init's, all processes stay in
// the template's, which has no number in the clone, and have only their process groups. gunicorn, nginx and php-fpm are cloned so. Deeper trees are refused.
//
// Memory: a clone has of its own what its first ops write: stack, list of robust futexes, signal frames, a few pages of the region. Seen by smaps in spares that had not run: 36 KiB in python,
// 48 in node, 248 in tomcat, of which most is shared memory that is copied; page tables (0.3, 2.6, 0.6 MiB) come on top, as in any process of that shape. Relocated data of libraries, heaps
// and stacks stay shared with the template, dirty as they are. What a clone has more after its first reply (15 MiB, 1.0, 6.4) the app has written.
//
// What does not: a template that still has a seccomp filter, System V semaphores and queues, deeper trees, connected TCP and connected unix sockets with a name, unix sockets that lead out of the tree, packets that wait in a socket, multicast groups, POSIX timers of a thread's clock. A template that is the first
// process of its pid namespace takes its clones with it when it ends, and its zygote too; one that was restored into a holder's does not.
//
// Locks: Template.mu, held while a clone is made.
//
// Kernel needs: x86-64; clone3 with set_tid (5.5), CLONE_INTO_CGROUP (5.7), pidfd_getfd (5.6), close_range (5.9), PTRACE_GET_RSEQ_CONFIGURATION (5.13), kcmp; time namespaces
// (5.6), without which clocks jump.
package fork
