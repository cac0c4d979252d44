package pages

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// A pack begins with a magic number u64, its own number u64 and the CRC-32C of both; frames follow.
const (
	packMagic = 0x7370726f75747031 // "sproutp1"
	packHead  = 8 + 8 + 4
)

// maxPack is the size at which the next pack is begun, in bytes: what Collect copies at once when most of a pack is not needed any more.
const maxPack = 64 << 20

func headOfPack(number uint64) []byte {
	b := appendNumbers(packMagic, number)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parsePackHead gives the number of a pack.
func parsePackHead(b []byte) (number uint64, err error) {
	if len(b) != packHead || binary.BigEndian.Uint64(b) != packMagic || binary.BigEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return 0, errDamaged
	}
	return binary.BigEndian.Uint64(b[8:]), nil
}

func packName(number uint64) string     { return fmt.Sprintf("packs/%016x.pack", number) }
func manifestName(number uint64) string { return fmt.Sprintf("manifests/%016x.manifest", number) }

// suffixNew is that of a file that is being written.
const suffixNew = ".new"

// path is where a file of the store is.
func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// packWriter writes one pack.
type packWriter struct {
	number, bytes, pages uint64
	file                 *os.File
	buffer               *bufio.Writer
}

func (s *Store) newPack(number uint64) (*packWriter, error) {
	f, err := os.OpenFile(s.path(packName(number)+suffixNew), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w := &packWriter{number: number, file: f, buffer: bufio.NewWriterSize(f, 1<<20)}
	n, err := w.buffer.Write(headOfPack(number))
	w.bytes = uint64(n)
	return w, err
}

func (w *packWriter) add(frame []byte, pages int) (place, error) {
	at := place{w.number, w.bytes, uint32(len(frame)), uint8(pages)}
	_, err := w.buffer.Write(frame)
	w.bytes, w.pages = w.bytes+uint64(len(frame)), w.pages+uint64(pages)
	return at, err
}

// sync sees to it that the pack is on disk.
func (w *packWriter) sync() error {
	err := errors.Join(w.buffer.Flush(), w.file.Sync(), w.file.Close())
	w.file = nil
	return err
}

// openPack opens a pack for reading, if it is the one of this number.
func (s *Store) openPack(number uint64) (*os.File, error) {
	f, err := os.Open(s.path(packName(number)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, &DamageError{File: packName(number), Err: err}
	}
	if err != nil {
		return nil, err
	}
	head := make([]byte, packHead)
	_, err = io.ReadFull(f, head)
	have := uint64(0)
	if err == nil {
		have, err = parsePackHead(head)
	}
	if err == nil && have != number {
		err = errDamaged
	}
	if err != nil {
		return nil, errors.Join(&DamageError{File: packName(number), Err: err}, f.Close())
	}
	return f, nil
}

// readFrame reads a frame that the index says is there. buffer is used when it is large enough.
func readFrame(pack *os.File, at place, buffer []byte) (frame, error) {
	if cap(buffer) < int(at.length) {
		buffer = make([]byte, at.length)
	}
	b := buffer[:at.length]
	var f frame
	_, err := pack.ReadAt(b, int64(at.offset))
	if err == nil {
		f, err = parseFrame(b)
	}
	if err == nil && len(f.hashes) != int(at.pages) {
		err = errDamaged
	}
	if err != nil {
		return frame{}, &DamageError{File: packName(at.pack), Offset: at.offset, Err: err}
	}
	return f, nil
}

// syncDir sees to it that the names in a directory are on disk.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openPacks are packs that are open for reading.
type openPacks struct {
	store  *Store
	files  map[uint64]*os.File
	buffer []byte
}

// file opens a pack, once.
func (o *openPacks) file(number uint64) (*os.File, error) {
	if f := o.files[number]; f != nil {
		return f, nil
	}
	f, err := o.store.openPack(number)
	if err != nil {
		return nil, err
	}
	if o.files == nil {
		o.files = make(map[uint64]*os.File)
	}
	o.files[number] = f
	return f, nil
}

// frame reads one, which is good until the next.
func (o *openPacks) frame(at place) (frame, error) {
	if o.buffer == nil {
		o.buffer = make([]byte, maxFrame)
	}
	f, err := o.file(at.pack)
	if err != nil {
		return frame{}, err
	}
	return readFrame(f, at, o.buffer)
}

func (o *openPacks) close() {
	for _, f := range o.files {
		_ = f.Close()
	}
}
