package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// capSysResource is CAP_SYS_RESOURCE (capability.h).
const capSysResource = 24

// criuRunDir is where CRIU keeps its cache about the kernel, and only if it is a tmpfs: the cache must not outlive the boot.
const criuRunDir = "/run"

// Isolate makes the calling thread's mount namespace, which must be its own already, one in which CRIU is quick, leaves nothing in the host's /tmp and works with
// fewer privileges. dir is a directory of the caller's for the files that takes; it stays in use as long as the namespace.
func Isolate(dir string) error {
	if err := errors.Join(hideTmp(), show(dir)); err != nil {
		return fmt.Errorf("hide %s: %w", criuTmpDir, err)
	}
	hidden, err := hideOpenFilesLimit(dir)
	if err != nil {
		return err
	}
	tmpfs, err := linux.IsTmpfs(criuRunDir)
	if err != nil || tmpfs && !hidden {
		return err
	}
	// A cache that knows of the hidden limit is not for others.
	return cacheInPrivate(dir)
}

// hideOpenFilesLimit puts a file with our own hard limit over fs.nr_open. CRIU raises its limit of open files to that value, which takes
// CAP_SYS_RESOURCE; with the capability nothing is hidden.
func hideOpenFilesLimit(dir string) (hidden bool, err error) {
	has, err := linux.HasCapability(capSysResource)
	if err != nil || has {
		return false, err
	}
	limit, err := linux.GetRlimit(os.Getpid(), "RLIMIT_NOFILE")
	if err != nil {
		return false, err
	}
	file := filepath.Join(dir, "nr_open")
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n", limit.Hard), 0o600); err != nil {
		return false, err
	}
	return true, linux.Bind(file, "/proc/sys/fs/nr_open", false, false)
}

// cacheInPrivate puts a tmpfs over CRIU's run directory and shows in it what was there before, because instances live there too.
func cacheInPrivate(dir string) error {
	shadow := filepath.Join(dir, "run")
	if err := os.MkdirAll(shadow, 0o700); err != nil {
		return err
	}
	if err := linux.Tmpfs(shadow, "criu", 0, "mode=0755,size=16m"); err != nil {
		return err
	}
	list, err := os.ReadDir(criuRunDir)
	if err != nil {
		return err
	}
	for _, entry := range list {
		if err := mirror(filepath.Join(criuRunDir, entry.Name()), filepath.Join(shadow, entry.Name()), entry); err != nil {
			return err
		}
	}
	return linux.Bind(shadow, criuRunDir, false, true)
}

// mirror shows a directory of the old run directory in the new one. Files are sockets and pid files of services that CRIU has no business with.
func mirror(from, to string, entry os.DirEntry) error {
	if !entry.IsDir() {
		return nil
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	return linux.Bind(from, to, false, true)
}
