package seedpool

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Files of a seed's directory beside images.
const (
	fileSpec = "spec.json"
	// fileRequest is what the bake was asked for; seeds of earlier sprouts have none.
	fileRequest = "request.json"
	fileMeta    = "meta.json"
	fileSums    = "sums"
)

// maxSums bounds what is read as a list of sums: images have some dozens of files.
const maxSums = 1 << 20

// seedDir is the directory of one seed. It is written once, by the bake, and only read afterwards.
type seedDir string

func (p Paths) seedDir(seed string) seedDir { return seedDir(p.SeedDir(seed)) }

// seal writes what the images need beside them, and sees to it that all of it is on disk.
func (d seedDir) seal(m *api.SeedMeta, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	if err := d.write(fileSpec, data); err != nil {
		return err
	}
	if err := d.writeSums(nil); err != nil {
		return err
	}
	if data, err = protojson.Marshal(m); err != nil {
		return fmt.Errorf("encode seed: %w", err)
	}
	if err := d.write(fileMeta, data); err != nil {
		return err
	}
	return d.sync()
}

// writeSums writes the sums of all guarded files.
func (d seedDir) writeSums(known map[string]string) error {
	sums, _, err := d.sum(known)
	if err != nil {
		return err
	}
	return d.write(fileSums, []byte(formatSums(sums)))
}

func (d seedDir) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(string(d), name), data, 0o600)
}

// sync flushes every file and directory, the one above included.
func (d seedDir) sync() error {
	return errors.Join(filepath.WalkDir(string(d), func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	}), syncPath(filepath.Dir(string(d))))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// spec is the spec that the seed was baked with, as JSON.
func (d seedDir) spec() ([]byte, error) { return os.ReadFile(filepath.Join(string(d), fileSpec)) }

// guarded lists the files whose sums are kept, by their path in the directory: all that CRIU or we will read.
func (d seedDir) guarded() ([]string, error) {
	names := []string{fileSpec}
	if _, err := os.Lstat(filepath.Join(string(d), fileRequest)); err == nil {
		names = append(names, fileRequest)
	}
	entries, err := os.ReadDir(filepath.Join(string(d), "images"))
	if errors.Is(err, fs.ErrNotExist) {
		return names, nil // a seed that is booted has none; of another the sums say what is missing
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Name() != parentName {
			names = append(names, "images/"+entry.Name())
		}
	}
	parent, err := os.ReadDir(filepath.Join(string(d), "images", parentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range parent {
		names = append(names, inParent+entry.Name())
	}
	return names, nil
}

// parentName is the directory, in the images of a sleeping instance, with what they have in common with their seed's.
const (
	parentName = "parent"
	inParent   = "images/" + parentName + "/"
)

// identity changes whenever one of the guarded files is written to, replaced, cut, added or removed: it is made of what stat says of each. It is cheap
// enough for every start; a bit that flips on the disk itself does not show in it.
func (d seedDir) identity() (string, error) {
	names, err := d.guarded()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(string(d), name))
		if err != nil {
			return "", err
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return "", fmt.Errorf("stat %s: no inode", name)
		}
		fmt.Fprintf(h, "%s %d %d %d %d.%d %d.%d\n", name, s.Dev, s.Ino, s.Size, s.Mtim.Sec, s.Mtim.Nsec, s.Ctim.Sec, s.Ctim.Nsec)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sum reads every guarded file and gives its sha256, and the number of bytes read. Of files that are known it takes what is known.
func (d seedDir) sum(known map[string]string) (sums map[string]string, total uint64, err error) {
	names, err := d.guarded()
	if err != nil {
		return nil, 0, err
	}
	sums = make(map[string]string, len(names))
	for _, name := range names {
		if sum, ok := known[name]; ok {
			sums[name] = sum
			continue
		}
		n, sum, err := sumFile(filepath.Join(string(d), name))
		if err != nil {
			return nil, 0, err
		}
		sums[name] = sum
		total += uint64(n)
	}
	return sums, total, nil
}

func sumFile(path string) (int64, string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, "", err
	}
	if !info.Mode().IsRegular() {
		return 0, "", fmt.Errorf("sum %s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

// verify reads the seed again. problems name each file that is not as it was baked, and what is wrong with it; err means that it could not be found out.
// whole: images and their memory are there, and are compared with each other.
func (d seedDir) verify(whole bool) (files, bytes uint64, problems []string, err error) {
	return d.compare(whole, func(string) bool { return false })
}

// compare is verify, without reading those files that are trusted.
func (d seedDir) compare(whole bool, trusted func(name string) bool) (files, bytes uint64, problems []string, err error) {
	want, err := d.readSums()
	if err != nil {
		return 0, 0, []string{fmt.Sprintf("%s: %v", fileSums, err)}, nil
	}
	known := maps.Clone(want)
	maps.DeleteFunc(known, func(name, _ string) bool { return !trusted(name) })
	have, bytes, err := d.sum(known)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, []string{err.Error()}, nil
	}
	if err != nil {
		return 0, 0, nil, err
	}
	for name, sum := range want {
		switch got, ok := have[name]; {
		case !ok:
			problems = append(problems, name+": missing")
		case got != sum:
			problems = append(problems, name+": checksum differs")
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			problems = append(problems, name+": not part of the seed")
		}
	}
	if len(problems) == 0 && whole {
		if err := restore.Check(filepath.Join(string(d), "images")); err != nil {
			problems = append(problems, err.Error())
		}
	}
	slices.Sort(problems)
	return uint64(len(have)), bytes, problems, nil
}

// formatSums writes the form that sha256sum reads.
func formatSums(sums map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&b, "%s  %s\n", sums[name], name)
	}
	return b.String()
}

func (d seedDir) readSums() (map[string]string, error) {
	f, err := os.Open(filepath.Join(string(d), fileSums))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseSums(io.LimitReader(f, maxSums))
}

// parseSums reads lines of a sha256, two blanks and the path of a guarded file.
func parseSums(r io.Reader) (map[string]string, error) {
	sums := make(map[string]string)
	scan := bufio.NewScanner(r)
	for n := 1; scan.Scan(); n++ {
		sum, name, ok := strings.Cut(scan.Text(), "  ")
		raw, err := hex.DecodeString(sum)
		file, inImages := strings.CutPrefix(name, "images/")
		file = strings.TrimPrefix(file, parentName+"/")
		good := name == fileSpec || name == fileRequest || inImages && file != "" && !strings.ContainsAny(file, "/\x00") && file != "." && file != ".."
		if !ok || err != nil || len(raw) != sha256.Size || !good {
			return nil, fmt.Errorf("read line %d: want a sha256 and a file of the seed", n)
		}
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("read line %d: %s is there twice", n, name)
		}
		sums[name] = strings.ToLower(sum)
	}
	if err := scan.Err(); err != nil {
		return nil, err
	}
	if len(sums) == 0 {
		return nil, errors.New("it is empty")
	}
	return sums, nil
}
