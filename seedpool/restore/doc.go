// Package restore makes instances from CRIU images, and the images from a running container. It speaks to an unmodified `criu swrk` itself: runc is not
// on the path.
//
// Life of an image: Dump writes it from a container whose file system is a spec's. Mounts are external, apart from those of the kernel's own file systems, so
// that CRIU packs nothing but memory and state; the files of tmpfs mounts, which CRIU would pack with tar processes, are packed by us. Of a container that is to be woken
// again (Rest) the processes stay, frozen: when Dump has returned the image is whole, and they have run nothing that is not in it. The image of an instance that shares its
// memory (below) is that of one that does not: unshare adds the pages that CRIU takes for a file's, and only those that the instance still has, or a page that the app has
// dropped would be there again when it is woken. In the image of a clone the files that it runs, which are mapped in its template's mounts, are those at the same place in its
// own, if they are the same (outside.go).
//
// Life of a delta: Dump writes a whole image; Subtract writes another without the pages that are the same in the image of the seed, which becomes its parent as CRIU
// knows it. Only what the whole image has is taken from there: a page that was dropped is in neither pagemap entry, and reads as zeros. A delta has one parent, and that has none.
//
// Life of an instance: Stage builds its mounts outside CRIU. Restore starts CRIU inside the instance's final cgroup, so that memory is charged there, and hands
// over root, mounts, network namespace and standard streams. When every task stands in its last ptrace stop, CRIU leaves the cgroup and the cgroup is frozen:
// the app has not run one instruction when Restore returns. What fails, is cancelled or killed on the way is killed by its cgroup, and only then is CRIU let
// go or killed: its tasks would run without it. That it dies by itself in the two or three ms before the freeze is seen at once, but not before.
//
// Life of an instance's namespaces: process and mount namespace are CRIU's to make, the network namespace is given. IPC and UTS namespaces are taken out of an image when
// it is dumped, if there is nothing in them (namespaces.go), so that an instance can be made in those of a pod, or in new ones, in which CRIU is started.
//
// Life of a hot image: NewHot reads an image once and makes, in a file system in memory, one in which the large anonymous mappings are private mappings
// of a store (convert says which), sealed against everybody. Instances restored with a Memory of it have no copy of those pages but the store's own,
// until they write. What sets a file's mapping apart from anonymous memory is what is there after the app has dropped a page (madvise, mremap, a child's
// too): the file's page instead of zeros. A userfaultfd mends it, which is CRIU's own for lazy pages: we map every page of the store before the app
// runs, and answer every fault after that with zeros. Because nothing else can take a page away (Memory says why) the server has no state: another
// process with a duplicate serves as well: the keeper serves, and the shim of a running instance holds duplicates (Offer, Hold). When the keeper dies the shim
// serves on; when the shim goes the keeper ends the instance. When both are killed at once a third process (Guard, Protect) still has duplicates: a thread that faults
// waits, and the instance is killed before it has seen anything else. What no process can hold is the userfaultfd of a child whose fork was read by a keeper that is killed
// before it has sent it on, some microseconds: such a child is found by its mappings (Lost), or killed with its parent, a few ms later.
//
// What MADV_FREE says of such a mapping is EINVAL, as kernels before 4.5 did of all: Go and jemalloc drop the pages then by MADV_DONTNEED (their sources), and python, node,
// java, php and redis, in ordinary use, were not seen to ask for it.
//
// Life of a template: Template edits a copy of the image (template_image.go: what becomes of each file), has CRIU restore it as a process of a holder's pid namespace,
// stopped and frozen, and says what it was (Origin). Package fork makes clones of it. What is mapped of an image's files is the template's in all of them.
//
// # On disk
//
//	<images>/*.img           CRIU's images
//	<images>/parent/         pagemaps and pages of the image that this one is a delta against
//	<images>/mount-<n>.tar   the files of the spec's n-th mount, a tmpfs; none: there were no files
//	<images>/watches.json    what inotify descriptors watch, which CRIU's files do not say any more; none: nothing
//	<work>/{dump,restore}.log
//
// An image is untrusted input: Check, which Restore begins with, refuses what is not a whole image of this architecture before CRIU sees it.
//
// # Kernel needs
//
// CRIU 4.2 (kernels from 6.16 on), cgroup v2 freezer; for hot images Linux 6.4 (tmpfs without swap).
//
// CRIU caches what it found out about the kernel, and without CAP_SYS_RESOURCE cannot raise a limit that it
// does not need: Isolate gives it a mount namespace with a tmpfs for the first and a plain file over fs.nr_open for the second. Nothing of it is seen on the
// host. CRIU also makes a directory in /tmp for each restore, and leaves it when it is killed: /tmp is a tmpfs of that namespace, too, in which only what is
// needed of the host's is shown (tmp.go). Without CAP_SYS_RESOURCE a container with processes of several users cannot be dumped.
package restore
