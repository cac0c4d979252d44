package restore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	"google.golang.org/protobuf/proto"
)

// imageTask is the memory of one task in an image.
type imageTask struct {
	pid   uint32
	mm    mm.MmEntry
	head  pagemap.PagemapHead
	runs  []pageRun
	files [2]string
}

// readTasks reads the memory of all tasks that have one.
func readTasks(dir string) (tasks []*imageTask, err error) {
	err = entries(filepath.Join(dir, "pstree.img"), func(data []byte) error {
		var entry pstree.PstreeEntry
		if err := decoded("pstree.img", data, &entry); err != nil {
			return err
		}
		core, err := checkCore(dir, entry.GetPid())
		if err != nil || core.GetTc().GetTaskState() != taskAlive {
			return err
		}
		t := &imageTask{pid: entry.GetPid()}
		t.files = [2]string{fmt.Sprintf("mm-%d.img", t.pid), fmt.Sprintf("pagemap-%d.img", t.pid)}
		tasks = append(tasks, t)
		return errors.Join(one(filepath.Join(dir, t.files[0]), &t.mm), t.readPagemap(dir))
	})
	return tasks, err
}

// readPagemap lists the pages of a task in the order of addresses.
func (t *imageTask) readPagemap(dir string) error {
	var from, end uint64
	first, name := true, t.files[1]
	return entries(filepath.Join(dir, name), func(data []byte) error {
		if first {
			first = false
			return decoded(name, data, &t.head)
		}
		var e pagemap.PagemapEntry
		if err := decoded(name, data, &e); err != nil || e.GetFlags()&(pagePresent|pageInParent) == 0 {
			return err
		}
		r := pageRun{address: e.GetVaddr(), pages: countPages(&e), from: from}
		if r.pages == 0 || r.pages > addressSpace/pageSize || r.address > addressSpace || r.address%pageSize != 0 || r.address < end || isInParent(&e) {
			return fmt.Errorf("%s: %d pages at %#x: %w", name, r.pages, r.address, ErrImage)
		}
		from, end = from+r.pages, r.end()
		t.runs = append(t.runs, r)
		return nil
	})
}

func (t *imageTask) pagesFile() string { return fmt.Sprintf("pages-%d.img", t.head.GetPagesId()) }

// readFiles reads the list of open files.
func readFiles(dir string) (files []*fdinfo.FileEntry, err error) {
	err = entries(filepath.Join(dir, "files.img"), func(data []byte) error {
		f := new(fdinfo.FileEntry)
		files = append(files, f)
		return decoded("files.img", data, f)
	})
	return files, err
}

// storeEntry is a task's store in the list of open files: a file beside its executable, as far as CRIU is told.
func storeEntry(files []*fdinfo.FileEntry, exe, id uint32, name string) (*fdinfo.FileEntry, error) {
	for _, f := range files {
		if f.GetId() != exe || f.GetReg() == nil {
			continue
		}
		return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(id), Reg: &regfile.RegFileEntry{
			Id: proto.Uint32(id), Flags: proto.Uint32(uint32(os.O_RDONLY)), Pos: proto.Uint64(0), Fown: f.GetReg().GetFown(),
			Name: proto.String("/" + name), MntId: f.GetReg().MntId,
		}}, nil
	}
	return nil, fmt.Errorf("files.img: no executable %d: %w", exe, ErrImage)
}

// freeID is an id that no open file of the image has.
func freeID(files []*fdinfo.FileEntry) (id uint32) {
	for _, f := range files {
		id = max(id, f.GetId())
	}
	return id + 1
}

// writeImage writes a framed image file.
func writeImage(path, kind string, messages ...proto.Message) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = writeFrames(w, kind, messages)
	return errors.Join(err, w.Flush(), f.Close())
}

func writeFrames(w io.Writer, kind string, messages []proto.Message) error {
	head := "IMG_COMMON"
	if kind == hintsKind {
		head = "IMG_SERVICE"
	}
	for _, number := range []uint64{magics[head], magics[kind]} {
		if err := binary.Write(w, binary.LittleEndian, uint32(number)); err != nil {
			return err
		}
	}
	for _, m := range messages {
		data, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode %s: %w", kind, err)
		}
		if err := binary.Write(w, binary.LittleEndian, uint32(len(data))); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}
