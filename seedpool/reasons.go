package seedpool

import "github.com/sproutrun/sprout/seedpool/keeper"

// Rung is one way to start a container.
type Rung string

// The rungs, fastest first.
const (
	RungThaw    Rung = "thaw"
	RungFork    Rung = "fork"
	RungRestore Rung = "restore"
	RungCold    Rung = "cold"
)

// Reason is a code that says why a rung was passed over or failed. Codes are kept in records and metrics: they are never renamed.
type Reason string

// Why there is no seed for a container.
const (
	// ReasonNoSeed: nothing was baked from this image in this containerd namespace.
	ReasonNoSeed Reason = "no-seed"
	// ReasonKeyDiffers: there is a seed of the image, but its app saw something else than this container would.
	ReasonKeyDiffers Reason = "key-differs"
	// ReasonSeedBad: the seed is damaged.
	ReasonSeedBad Reason = "seed-bad"
	// ReasonSeedStale: the seed was baked under another kernel, CPU, CRIU or sprout.
	ReasonSeedStale Reason = "seed-stale"
)

// Why a container cannot be woken, whatever the seed.
const (
	ReasonTTY               Reason = "tty"
	ReasonCheckpoint        Reason = "checkpoint"
	ReasonUserNamespace     Reason = "user-namespace"
	ReasonSharedNamespace   Reason = "shared-namespace"
	ReasonSystemdCgroup     Reason = "systemd-cgroup"
	ReasonUpperNotEmpty     Reason = "upper-not-empty"
	ReasonNotOurSnapshotter Reason = "not-our-snapshotter"
	ReasonDisabled          Reason = "disabled"
)

// Why one rung does not fit or has failed.
const (
	// ReasonPrestart: each instance of the seed is booted on its own, so that there is no image to restore or clone one from.
	ReasonPrestart      Reason = "prestart"
	ReasonHostNetwork   Reason = "host-network"
	ReasonNetnsPath     Reason = "netns-path"
	ReasonOwnNamespaces Reason = "own-namespaces"
	ReasonNoSpare       Reason = "no-spare"
	ReasonSpareDied     Reason = "spare-died"
	ReasonSproutdDown   Reason = "sproutd-down"
	ReasonClaimFailed   Reason = "claim-failed"
	ReasonRestoreFailed Reason = "restore-failed"
	ReasonBindFailed    Reason = "bind-failed"
	ReasonCredsDiffer   Reason = "creds-differ"
	ReasonDiskFull      Reason = "disk-full"
	ReasonKeyFailed     Reason = "key-failed"
	// ReasonBusy: too many other starts were having instances made.
	ReasonBusy Reason = "busy"
)

// Why an instance was not cloned.
const (
	// ReasonNotForkable: the seed's process has something that a clone could not have; the detail names all of it.
	ReasonNotForkable Reason = "not-forkable"
	// ReasonNoTemplate: the seed's template is not there: it was not needed yet, is being made, or was given up.
	ReasonNoTemplate Reason = "no-template"
	ReasonForkFailed Reason = "fork-failed"
)

// Why an instance was restored with memory of its own although it was to share the seed's. It is no slower than that.
const (
	ReasonMemoryNotReady  Reason = keeper.ReasonNotReady
	ReasonMemoryNotShared Reason = keeper.ReasonNotShared
)

// Why a container was not put to sleep: it runs on.
const (
	ReasonCold            Reason = "cold"
	ReasonExecs           Reason = "execs"
	ReasonConnections     Reason = "connections"
	ReasonKeeperGone      Reason = "keeper-gone"
	ReasonDumpFailed      Reason = "dump-failed"
	ReasonForeignResource Reason = "foreign-resource"
)

// ReasonImageDamaged says why a container was not woken: the image that it sleeps in is not as it was written. It sleeps on.
const ReasonImageDamaged Reason = "image-damaged"

// hints are what a person can do about each reason.
var hints = map[Reason]string{
	ReasonNoSeed:            "bake one: sprout seed bake --image IMAGE --name NAME --ready http://:PORT/",
	ReasonKeyDiffers:        "start with the options that were baked, bake a seed with these, or declare what may differ with --late-env and --late-mount",
	ReasonSeedBad:           "bake the seed again; `sprout seed verify NAME` says what is damaged",
	ReasonSeedStale:         "wait until sproutd has baked it again (`sprout seed inspect NAME` says how that goes), or do it: kernel, CPU, CRIU or sprout have changed since",
	ReasonTTY:               "a terminal belongs to one container only: start without -t",
	ReasonCheckpoint:        "the container is restored from a checkpoint of its own, as asked",
	ReasonUserNamespace:     "containers with a user namespace start cold",
	ReasonSharedNamespace:   "a spare shares no namespace: containers that do are cloned or restored; those that share a PID or mount namespace start cold",
	ReasonSystemdCgroup:     "use the cgroupfs driver: a systemd scope cannot be joined by a woken process",
	ReasonUpperNotEmpty:     "the container was written to before: only its first start can be a wake",
	ReasonNotOurSnapshotter: "start with --snapshotter sprout",
	ReasonDisabled:          "waking is switched off for this container",
	ReasonPrestart:          "keep more spares (sprout pool set NAME --spares N), or bake with --mode clone if instances may share random state",
	ReasonHostNetwork:       "a spare has a network namespace of its own: containers in the host's are cloned or restored instead",
	ReasonNetnsPath:         "a spare has a network namespace of its own: containers that join one are cloned or restored instead",
	ReasonOwnNamespaces:     "the app has SysV objects, or the capability to change settings of its IPC and UTS namespaces: it cannot join a pod's",
	ReasonNoSpare:           "keep more spares: sprout pool set NAME --spares N",
	ReasonSpareDied:         "look for the out-of-memory killer and for kill commands; the pool makes new spares by itself",
	ReasonSproutdDown:       "start sproutd; `sprout doctor` says more",
	ReasonClaimFailed:       "the detail and sproutd's log say why",
	ReasonRestoreFailed:     "the detail has the end of CRIU's log; `sprout doctor` checks CRIU",
	ReasonBindFailed:        "the detail says which step could not be done",
	ReasonCredsDiffer:       "the woken process had more rights than the spec grants and was killed; bake the seed again with the same user and capabilities",
	ReasonDiskFull:          "free space below sproutd's state and run directories",
	ReasonMemoryNotReady:    "nothing: the seed's memory is read once after its keeper has started, and later starts share it",
	ReasonMemoryNotShared:   "the detail and the keeper's log say why; [restore] shared = false stops the attempts",
	ReasonNotForkable:       "`sprout seed inspect NAME` lists what stands in the way, and what can be done about it",
	ReasonNoTemplate:        "nothing: the template is made after the start, for those that come later; [fork] idle says how long it is kept",
	ReasonForkFailed:        "the detail and the keeper's log say why; [fork] enabled = false stops the attempts",
	ReasonKeyFailed:         "the detail names what no woken container can have, or could not be read: such containers start cold",
	ReasonBusy:              "keep more spares (sprout pool set NAME --spares N --max M): [pool] wakes_parallel bounds how many instances are made for starts at a time",
	ReasonCold:              "only containers that were woken can sleep: bake a seed of this one",
	ReasonExecs:             "end the processes that were added to it, or wait for them",
	ReasonConnections:       "wait until its clients have gone, or give --close-connections",
	ReasonKeeperGone:        "nothing: the process that made it was killed, and nobody else can put it to sleep",
	ReasonDumpFailed:        "the detail has what CRIU says",
	ReasonImageDamaged:      "remove the container: what it had in memory is lost; look for what has changed the file that the detail names",
	ReasonForeignResource:   "the detail names what it has in common with somebody outside",
}

// Hint is one line for a person: what to do about the reason. Empty for a code that is not known.
func (r Reason) Hint() string { return hints[r] }
