package restore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// criuTmpDir is where CRIU makes a directory for each restore (mount.c, create_mnt_roots), which stays when it is killed. hostsTmp shows in a private one what
// was there before.
const (
	criuTmpDir = "/tmp"
	hostsTmp   = criuTmpDir + "/.host"
	// tmpSource is the mount source by which a private one is known: everybody may make files in the host's.
	tmpSource = "sprout-criu"
)

// hideTmp puts a tmpfs of the mount namespace's own over CRIU's temporary directory: what CRIU leaves there goes with the namespace.
func hideTmp() error {
	if hidden, err := isTmpHidden(); err != nil || hidden {
		return err
	}
	hosts, err := linux.CloneTree(criuTmpDir)
	if err != nil {
		return err
	}
	defer hosts.Close()
	if err := linux.Tmpfs(criuTmpDir, tmpSource, 0, "mode=1777"); err != nil {
		return err
	}
	if err := os.Mkdir(hostsTmp, 0o700); err != nil {
		return err
	}
	return linux.AttachTree(hosts, hostsTmp)
}

func isTmpHidden() (bool, error) {
	list, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != criuTmpDir || m.Source != tmpSource, false
	})
	return len(list) > 0, err
}

// showing is held while something of the host's temporary directory is shown.
var showing sync.Mutex

// linkLimit bounds how many symlinks in a row are followed, as the kernel does.
const linkLimit = 40

// show has paths that lead into the host's temporary directory lead there in a namespace in which it is hidden, and what they link to. What does not exist is
// left to whoever opens it.
func show(paths ...string) error {
	showing.Lock()
	defer showing.Unlock()
	for _, path := range paths {
		for range linkLimit {
			if err := showOne(path); err != nil {
				return err
			}
			link, err := os.Readlink(path)
			if err != nil {
				break // it is none
			}
			if !filepath.IsAbs(link) {
				link = filepath.Join(filepath.Dir(path), link)
			}
			path = link
		}
	}
	return nil
}

// showOne shows the entry of the host's temporary directory in which a path lies, if it does.
func showOne(path string) error {
	below, ok := strings.CutPrefix(filepath.Clean(path), criuTmpDir+"/")
	if !ok {
		return nil
	}
	if hidden, err := isTmpHidden(); err != nil || !hidden {
		return err
	}
	top, _, _ := strings.Cut(below, "/")
	return showTop(filepath.Join(hostsTmp, top), filepath.Join(criuTmpDir, top))
}

// showTop shows one entry of the host's temporary directory at its place.
func showTop(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if err := MakePoint(to, info.IsDir(), 0o755); err != nil {
		return err
	}
	if err := linux.Bind(from, to, false, true); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// overlayDirs are the directories that the options of an overlay mount name.
func overlayDirs(options []string) []string {
	var dirs []string
	for _, option := range options {
		if _, list, ok := strings.Cut(option, "="); ok {
			dirs = append(dirs, strings.Split(list, ":")...)
		}
	}
	return dirs
}
