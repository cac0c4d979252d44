package linux

import "golang.org/x/sys/unix"

// FollowMounts makes the mounts of the calling thread's namespace followers of the host's: new ones of the host appear, ours stay unseen. The namespace must be
// its own already (CLONE_NEWNS when the process was started).
func FollowMounts() error {
	return Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
}
