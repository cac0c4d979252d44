package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// ErrOwnNamespaces means that an instance was to join an IPC or UTS namespace, and its image has its own.
var ErrOwnNamespaces = errors.New("the app has objects or settings in its own IPC or UTS namespace")

// capSysAdmin lets an app change what its IPC and UTS namespaces hold.
const capSysAdmin = "CAP_SYS_ADMIN"

// emptyImage is the size of an image file without an entry: two magic numbers.
const emptyImage = 8

// detach takes the IPC and UTS namespaces out of an image, if there is nothing in them that a new one would not have: CRIU then makes none, and its instances have
// those that CRIU was started in. With --join-ns it would enter those and write the image's host name and settings into them.
func detach(dir string, spec *specs.Spec) (keeps bool, err error) {
	if keeps, err = keepsNamespaces(dir, spec); err != nil || keeps {
		return keeps, err
	}
	root, err := rootIDs(dir)
	if err != nil {
		return false, err
	}
	return false, errors.Join(detachTasks(dir, root), detachCores(dir, root))
}

func detachTasks(dir string, root *criucore.TaskKobjIdsEntry) error {
	list, err := filepath.Glob(filepath.Join(dir, "ids-*.img"))
	if err != nil {
		return err
	}
	for _, path := range list {
		var ids criucore.TaskKobjIdsEntry
		if err := one(path, &ids); err != nil {
			return err
		}
		shareIDs(&ids, root)
		if err := writeImage(path, framed["ids"], &ids); err != nil {
			return err
		}
	}
	return nil
}

// detachCores does the same with the copies that newer CRIUs keep with the registers.
func detachCores(dir string, root *criucore.TaskKobjIdsEntry) error {
	list, err := filepath.Glob(filepath.Join(dir, "core-*.img"))
	if err != nil {
		return err
	}
	for _, path := range list {
		core := new(criucore.CoreEntry)
		if err := one(path, core); err != nil {
			return err
		}
		if core.Ids == nil {
			continue
		}
		shareIDs(core.Ids, root)
		if err := writeImage(path, framed["core"], core); err != nil {
			return err
		}
	}
	return nil
}

func shareIDs(ids, root *criucore.TaskKobjIdsEntry) {
	ids.IpcNsId, ids.UtsNsId = proto.Uint32(root.GetIpcNsId()), proto.Uint32(root.GetUtsNsId())
}

// rootIDs are the numbers of the namespaces that CRIU itself was in.
func rootIDs(dir string) (*criucore.TaskKobjIdsEntry, error) {
	var inv inventory.InventoryEntry
	if err := one(filepath.Join(dir, "inventory.img"), &inv); err != nil {
		return nil, err
	}
	if ids := inv.GetRootIds(); ids.GetIpcNsId() != 0 && ids.GetUtsNsId() != 0 {
		return ids, nil
	}
	return nil, fmt.Errorf("inventory.img: no IPC or UTS namespace: %w", ErrImage)
}

// sysctls is where root can change settings without a capability, unless it is read-only.
const sysctls = "/proc/sys"

// keepsNamespaces says whether there is something in them, or may be: settings can be changed by who has the capability, or may write to sysctls.
func keepsNamespaces(dir string, spec *specs.Spec) (bool, error) {
	if !slices.ContainsFunc(spec.Linux.ReadonlyPaths, func(p string) bool { return filepath.Clean(p) == sysctls }) {
		return true, nil
	}
	if c := spec.Process.Capabilities; c != nil && (slices.Contains(c.Bounding, capSysAdmin) || slices.Contains(c.Permitted, capSysAdmin)) {
		return true, nil
	}
	for _, kind := range []string{"shm", "msg", "sem"} {
		list, err := filepath.Glob(filepath.Join(dir, "ipcns-"+kind+"-*.img"))
		if err != nil {
			return false, err
		}
		for _, path := range list {
			info, err := os.Stat(path)
			if err != nil {
				return false, err
			}
			if info.Size() > emptyImage {
				return true, nil
			}
		}
	}
	return false, nil
}

// detached says whether the image's IPC and UTS namespaces have been taken out of it.
func detached(dir string) (bool, error) {
	root, err := rootIDs(dir)
	if err != nil {
		return false, err
	}
	list, err := filepath.Glob(filepath.Join(dir, "ids-*.img"))
	if err != nil {
		return false, err
	}
	for _, path := range list {
		var ids criucore.TaskKobjIdsEntry
		if err := one(path, &ids); err != nil {
			return false, err
		}
		if ids.GetIpcNsId() != root.GetIpcNsId() || ids.GetUtsNsId() != root.GetUtsNsId() {
			return false, nil
		}
	}
	return len(list) > 0, nil
}

// namespaces of an instance whose image has none: those that it is to join, and new ones in the place of those that it is not to.
func (r *restoring) namespaces() (join []linux.NS, unshare uintptr, err error) {
	given := []struct {
		file *os.File
		flag uintptr
	}{{r.o.IPCNS, syscall.CLONE_NEWIPC}, {r.o.UTSNS, syscall.CLONE_NEWUTS}}
	free, err := detached(r.o.ImagesDir)
	if err != nil {
		return nil, 0, err
	}
	for _, ns := range given {
		switch {
		case ns.file != nil && !free:
			return nil, 0, ErrOwnNamespaces
		case ns.file != nil:
			join = append(join, linux.NS{File: ns.file, Type: int(ns.flag)})
		case free:
			unshare |= ns.flag
		}
	}
	return join, unshare, nil
}
