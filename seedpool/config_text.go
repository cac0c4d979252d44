package seedpool

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Commented is the configuration as a file with a comment for each key.
func (c Config) Commented() string {
	return fmt.Sprintf(`# sproutd's configuration. Every key may be left out; what stands here is the default.

# Sockets, named pipes, start records: what ends with the machine. Launchers, shims and the command line find it here too, or by SPROUT_RUN_DIR.
run_dir = %q

# Seeds, snapshots and the index: what stays.
state_dir = %q

# The cgroup, in every hierarchy, below which spares wait.
cgroup_root = %q

# CRIU 4.2 or later, and runc, which boots what is baked. Names are looked up in PATH.
criu = %q
runc = %q

# containerd's socket. sproutd asks there what the images of its seeds are now; empty: it does not.
containerd = %q

# The program sprout-shim; empty: the one beside sproutd.
shim = %q

# Shims that stand ready, so that a start does not wait for a process to begin. 0: none.
idle_shims = %d

# Spares that are made at the same time, over all seeds.
refill_parallel = %d

# The longest pause after a spare could not be made; pauses begin with a second and double.
refill_backoff = %q

# An instance whose shim has died without taking it over is destroyed after this time.
bind_timeout = %q

# Metrics are always served on run_dir/metrics.sock; a TCP address (127.0.0.1:9464) serves them there too. Anybody who can reach it can read them.
metrics_address = %q

# debug, info, warn or error.
log_level = %q

[restore]
# true: instances of a seed share one copy of its memory, which the seed's keeper holds, as long as they do not change it. Ten then take a third of the memory, or less.
# Containers that share it cannot be checkpointed before they have slept once, and one whose keeper and shim are killed at once is killed, too.
shared = %t

# Only if the seed's image is at least as large: a smaller one is copied sooner than mapped.
from = %q

[pages]
# Seeds that are baked from now on keep their memory in a store that compresses it and has each page once for all seeds of a namespace, and as plain files, too,
# while they are in use. false: in plain files.
store = %t

# What the store may take on disk; a bake that needs more fails. 0B: no bound.
quota = %q

[fork]
# true: instances are cloned from the seed's template, a stopped process in memory, where that is possible: in milliseconds, and sharing all memory that they do not
# change. What cannot be cloned is restored.
enabled = %t

# A template is made for the first start that could have been cloned, and for spares. One from which nothing was cloned for this time, and whose pool wants no spares, is given
# up; the next start that could have been cloned has it made again. 0s: it is given up only when memory is short.
idle = %q

[seeds]
# true: a seed that is stale, or whose image's name stands for another image now, is baked again as it was baked, in the background. false: a person has to.
rebuild = %t

# What all seeds together may take on disk, beside the page store. A bake that needs more removes seeds without a pool, those not used for longest first, or fails. 0B: no bound.
disk = %q

# A container that is started cold for want of a seed may have sproutd bake one, in the background and of an instance of its own, so that the next one like it is woken. A
# container asks for that by annotations: sprout.dev/auto=true (mode prestart) or =clone, sprout.dev/ready=CHECK as in sprout seed bake --ready, by default the one TCP port
# that its image exposes, and sprout.dev/warmup, late-env and late-mount. true: each does that has no annotation sprout.dev/auto=false.
auto = %t

# Only of images whose name (docker.io/library/shop:latest) fits one of the first and none of the second; * stands for anything.
auto_allow = %s
auto_deny = %s

# Spares of such a seed of mode prestart, which wakes from nothing else.
auto_spares = %d

# How many such seeds there may be, and after which time one is removed that no container was started from. 0s: never.
auto_max = %d
auto_unused = %q

[pool]
# A pool that was given room (sprout pool set --max) has as many spares as the largest burst of starts of late has needed. In quiet that halves after this time; what two
# bursts in a row have needed, after twelve times as long.
half_life = %q

# A spare that is older is replaced, one after the other: the new one is made first. 0s: never.
max_age = %q

# Spares are given back while the machine has less memory available than this, while tasks wait for memory a tenth of the time, or while spares are near a limit of their
# cgroup. 0B: whatever is available.
keep_free = %q

# What all spares together may take. 0B: no bound.
memory = %q

# For how many starts instances are cloned or restored at the same time: a burst of them takes turns. 0: as many as there are CPUs. One that has waited for wake_wait starts
# cold.
wakes_parallel = %d
wake_wait = %q

[gc]
# How often sproutd looks for what belongs to nobody, as sprout gc does; it always does so when it starts. 0s: only then.
interval = %q
`, c.RunDir, c.StateDir, c.CgroupRoot, c.CRIU, c.Runc, c.Containerd, c.Shim, c.IdleShims, c.RefillParallel,
		time.Duration(c.RefillBackoff), time.Duration(c.BindTimeout), c.MetricsAddress, c.LogLevel,
		c.Restore.Shared, c.Restore.From.String(), c.Pages.Store, c.Pages.Quota.String(), c.Fork.Enabled, time.Duration(c.Fork.Idle), c.Seeds.Rebuild, c.Seeds.Disk.String(),
		c.Seeds.Auto, tomlList(c.Seeds.AutoAllow), tomlList(c.Seeds.AutoDeny), c.Seeds.AutoSpares, c.Seeds.AutoMax, time.Duration(c.Seeds.AutoUnused),
		time.Duration(c.Pool.HalfLife), time.Duration(c.Pool.MaxAge), c.Pool.KeepFree.String(), c.Pool.Memory.String(),
		c.Pool.WakesParallel, time.Duration(c.Pool.WakeWait), time.Duration(c.GC.Interval))
}

// tomlList is a list of strings as the configuration file has it.
func tomlList(list []string) string {
	quoted := make([]string, len(list))
	for n, one := range list {
		quoted[n] = strconv.Quote(one)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
