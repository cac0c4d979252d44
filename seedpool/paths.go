package seedpool

import (
	"os"
	"path/filepath"
)

// Directories when nothing else is configured.
const (
	DefaultRunDir     = "/run/sprout"
	DefaultStateDir   = "/var/lib/sprout"
	DefaultCgroupRoot = "/sprout"
)

// RunDirEnv is the environment variable that tells launchers, shims and the command line where sproutd runs; containerd hands its own
// environment on to them.
const RunDirEnv = "SPROUT_RUN_DIR"

// Paths are the places of one sproutd. RunDir holds sockets and what dies with the machine, StateDir what stays. Both are 0700.
type Paths struct {
	RunDir   string
	StateDir string
}

// RunDirFromEnv is the run directory that a client of sproutd looks in.
func RunDirFromEnv() string {
	if dir := os.Getenv(RunDirEnv); dir != "" {
		return dir
	}
	return DefaultRunDir
}

// PathsFromEnv are the paths that a client of sproutd needs: those below the run directory.
func PathsFromEnv() Paths { return Paths{RunDir: RunDirFromEnv()} }

// APISocket is where sproutd serves Pool and Seeds by ttrpc.
func (p Paths) APISocket() string { return filepath.Join(p.RunDir, "sproutd.sock") }

// SnapshotterSocket is where sproutd serves containerd's snapshots API by gRPC.
func (p Paths) SnapshotterSocket() string { return filepath.Join(p.RunDir, "snapshotter.sock") }

// AssignSocket is where launchers ask for an idle shim.
func (p Paths) AssignSocket() string { return filepath.Join(p.RunDir, "assign.sock") }

// MetricsSocket is where sproutd serves its metrics by HTTP.
func (p Paths) MetricsSocket() string { return filepath.Join(p.RunDir, "metrics.sock") }

// LockFile is locked as long as a sproutd uses the run directory.
func (p Paths) LockFile() string { return filepath.Join(p.RunDir, "sproutd.lock") }

// KeepersDir holds the keepers' sockets.
func (p Paths) KeepersDir() string { return filepath.Join(p.RunDir, "keepers") }

// KeeperSocket is where the keeper of a seed serves by ttrpc.
func (p Paths) KeeperSocket(seed string) string {
	return filepath.Join(p.KeepersDir(), seed+".sock")
}

// InstancesDir holds the instances' directories.
func (p Paths) InstancesDir() string { return filepath.Join(p.RunDir, "instances") }

// InstanceDir is the directory of one instance: its named pipes, CRIU's logs, its exit status.
func (p Paths) InstanceDir(instance string) string { return filepath.Join(p.InstancesDir(), instance) }

// TemplatesDir holds what the seeds' templates were made from, in the file system of the seeds: it is linked, not copied.
func (p Paths) TemplatesDir() string { return filepath.Join(p.StateDir, "templates") }

// MergingFile has the settings that ksmd had before we changed them; it is there only as long as they are changed.
func (p Paths) MergingFile() string { return filepath.Join(p.RunDir, "merging.json") }

// BakesDir holds the work directories of bakes, by seed.
func (p Paths) BakesDir() string { return filepath.Join(p.RunDir, "bakes") }

// StartsDir holds the records of starts, by containerd namespace.
func (p Paths) StartsDir() string { return filepath.Join(p.RunDir, "starts") }

// StartRecord is the record of how one container was started: protojson of api.Start.
func (p Paths) StartRecord(namespace, id string) string {
	return filepath.Join(p.StartsDir(), namespace, id+".json")
}

// HotImagesDir holds the images of seeds whose memory is in the page store, as plain files, by seed; what an earlier boot has left is not used. It is not below
// RunDir: what is on a disk the kernel can take out of memory.
func (p Paths) HotImagesDir(bootID string) string {
	return filepath.Join(p.StateDir, "images-"+bootID)
}

// PagesDir is the page store.
func (p Paths) PagesDir() string { return filepath.Join(p.StateDir, "pages") }

// Database is the index of seeds, pools and instances.
func (p Paths) Database() string { return filepath.Join(p.StateDir, "sprout.db") }

// SleepingDir holds the instances that are on disk.
func (p Paths) SleepingDir() string { return filepath.Join(p.StateDir, "sleeping") }

// SleepDir is the directory of one of them: images, spec.json.
func (p Paths) SleepDir(instance string) string { return filepath.Join(p.SleepingDir(), instance) }

// SnapshotsDir is the root of the snapshotter.
func (p Paths) SnapshotsDir() string { return filepath.Join(p.StateDir, "snapshots") }

// SeedsDir holds the seeds' directories.
func (p Paths) SeedsDir() string { return filepath.Join(p.StateDir, "seeds") }

// SeedDir is the directory of one seed: images, spec.json, meta.json, sums.
func (p Paths) SeedDir(seed string) string { return filepath.Join(p.SeedsDir(), seed) }

// ImagesDir is where CRIU's images of a seed are.
func (p Paths) ImagesDir(seed string) string { return filepath.Join(p.SeedDir(seed), "images") }
