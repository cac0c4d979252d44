// Package seedpool holds the seeds of one node, keeps spares of them ready, and gives them to the shims that ask. It is most of sproutd; shims, snapshotter and
// command line import it for the key of a container (KeyOf), the reason codes, the paths and the client.
//
// # Life of a seed
//
//	bake: boot, ready, warm up, dump (package bake) → layer committed → memory stored, if the page store is to have it → files sealed
//	→ one instance tried → row: it counts
//	ready ──▶ bad (a file is not as it was baked)          ready ──▶ stale (another kernel, CPU, CRIU or sprout; not kept, judged at each start)
//	any of them ──▶ removed: row, then spares, keeper, files, layer
//	stale, or its image's name is another image's now ──▶ baked again as it was baked (rebuild.go): its successor takes name and pool in one step with its removal
//
// That is mode clone. A seed of mode prestart has no image: a layer with nothing in it, the spec, and how its spares are booted, one by one (prestart.go). It is tried
// like the other, and counts; what changes on the machine does not make it stale, but for sprout itself.
//
// A container that was started cold for want of a seed may ask for one by an annotation, or the configuration for it (auto.go): its shim's report of the start is the order, and
// sproutd bakes one seed after the other, of an instance of its own (autobake.go). Orders are not kept. Such a seed is removed when it is not used for long.
//
// A seed belongs to one containerd namespace and is never seen from another. Bad and stale seeds are shown with their reason and never woken. A seed is a
// cache entry: it may be dropped at any time, and goes with its image.
//
// Before a keeper reads a seed's files, their sha256 sums have been right once in this boot, and stat says that they were not touched since (files.go).
// Memory in the page store (Pages), which has sums of its own, is written out as plain files beside copies of the images, once in a boot (pages.go).
//
// # Life of an instance
//
//	making ──▶ ready ──▶ claimed ──▶ bound ──▶ dying ──▶ (no row)
//	   └──────restored───▶┘ any ─────────────────▶┘
//
// phase.go has the table. making: a keeper clones, restores or boots it, while no start is under way (calm.go). ready: a spare, frozen in its own cgroup, in its pool. claimed: a
// container's shim has it. Its files become the container's snapshot while the shim binds it; before that it cannot be bound. bound: it is the container; the row
// stays only so that recovery leaves it alone, until the task is deleted. dying: it is being removed.
//
// A bound instance may be put to disk and be made again, any number of times (sleep.go): its row, which stays bound, says so while it is there or on its way. sleeping,
// not whole: being written, the container is frozen, or runs on if that was cut; whole: the image counts until the instance is seen running again.
// The image is a delta against the seed's, never against an earlier one; the seed may go meanwhile, its memory stays as a link (sleeper.go). Sums are compared
// at each wake: what is damaged sleeps on.
//
// # How many spares
//
// A pool has as many spares as the largest burst of starts of late has needed, within its bounds (demand.go); in quiet that halves each half-life, and what two bursts in a row have
// needed in twelve. Starts that find no spare have instances made, a few at a time, in their order (turns.go). One spare is made after the
// other, of the emptiest pool first (refill.go), of a higher priority before all others; one that is too old is replaced when all are full. While memory is short
// (pressure.go: little available, tasks waiting for it, spares near a limit) spares are given back, those of the lowest priority and then of the fullest pool first, and none
// are made; what runs is never touched.
//
// A template (templates.go) is made after a start that was restored and could have been a clone, or for a spare, and given up when nothing was cloned from it for long and its pool
// wants no spares. While memory is short and there are no spares left, the template that was used least recently goes, then copies of seeds in memory that no instance shares.
// What was given up is made again when it is wanted next. A start asks for a clone only while a template stands, and not for a while after clones have failed.
//
// Equal memory of spares that were booted is merged if their seed asks for it (merge.go, merge_burst.go).
//
// # State
//
// Two databases (bbolt; store.go). What must outlive the machine, each change synced:
//
//	<StateDir>/sprout.db
//	├── meta       version: "1"
//	├── seeds      <seed id>: api.SeedMeta
//	└── pools      <seed id>: api.PoolRow, for pools that want spares
//
//	<StateDir>/templates/<seed id>   what a template was made from, with symlinks to what is large; its keeper's, removed with it or, if that was killed, by us
//
// What ends with this boot, not synced: it outlives kill -9, which is all it must, and no claim waits for a disk:
//
//	<RunDir>/instances-<boot id>.db
//	├── meta       version: "1"
//	├── instances  <instance id>: api.InstanceRow
//	└── sums       <seed id>: what stat said of its files when their sums were right
//
// Files:
//
//	<StateDir>/pages/             the page store (package snapshotter/pages), by seed id
//	<StateDir>/images-<boot id>/<seed id>/  images with the memory that is in the page store
//	<StateDir>/sleeping/<instance id>/  images/ of an instance that sleeps, spec.json (what it has mounted), sums: gone with its row, and so with the boot
//	<StateDir>/sleeping/<instance id>/images/parent/  links to its seed's memory: of that the images have only what differs
//	<StateDir>/seeds/<seed id>/   images/ (CRIU's), spec.json (it was baked with), request.json (what the bake was asked for), sums (of all these, as sha256sum writes them), meta.json (the row, for people)
//	<RunDir>/instances/<id>/      CRIU's log; exit status; mount points of the keeper; seed (its id, for people)
//	<RunDir>/bakes/<seed id>/     work of a bake (package bake)
//	<RunDir>/keepers/<seed id>.sock and what the keeper has beside it (package keeper)
//	<RunDir>/merging.json         settings of ksmd to be put back, during a burst (merge_burst.go)
//	<RunDir>/starts/<ns>/<id>.json  records of starts, written by shims
//
// # What a crash leaves
//
// Seeds: files first, then the row; on removal the row first. A directory, a layer or memory without a row was cut, by a crash of a bake or
// a removal, and is removed.
// What recovery removes because no row names it is looked for now and then while sproutd serves, too (gc.go).
// Instances: the row first, in phase making, before anything else of it exists; it is deleted last. So what has no row is nobody's, and what is found in making
// or dying is destroyed. A spare is moved to claimed before the answer: two callers never have the same one. sproutd may be killed at any moment; keepers, spares
// and containers go on, and the next one (recover.go) takes the spares back that are alive, frozen and kept. No container start waits for that.
//
// A claim that its shim never confirms is destroyed when the shim is dead, or, if it did not say which process it is, when bind_timeout is over (order.go). The
// snapshot of the container is renewed only while the shim waits for the answer; afterwards it may run on it, cold, and only our label is taken off.
//
// # Locks
//
//	Pool.busy[container]    held over claim (until the files are handed over), restore, discard of one container: they touch its snapshot
//	  instance.end          held while an instance is destroyed
//	    seed.load           held while files are checked and the keeper is started
//	      Pool.changes      held over a change of a seed's or pool's row
//	        Pool.mu         all maps and rows in memory; held over writes of boot's database, which wait for nothing
//	          keepers.mu, calm.mu, memoryGuard.mu, events.mu    leaves
//
// Rows in memory (seed.meta, instance.row) are replaced, never changed: they may be read after Pool.mu was released.
//
// # Kernel needs
//
// Those of packages linux, restore and keeper: cgroup v2 with freezer and cgroup.kill, pidfd, overlayfs. Merging needs a kernel that says which processes offer memory
// (ksm_mergeable in /proc/PID/ksm_stat).
package seedpool
