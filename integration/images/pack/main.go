// Command pack writes OCI images from directories.
//
//	pack layer -newest SECONDS DIR FILE             one directory, as a compressed layer
//	pack image -name REF -config JSON FILE LAYER... layers and a config, as a tar for `ctr image import`
//
// A directory may be the upper one of an overlay mount: its whiteouts become those of OCI. Equal directories give equal
// layers: entries are sorted, and no time is later than -newest.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+zstd"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layer is what `pack layer` leaves beside its file, as FILE.json, for `pack image`.
type layer struct {
	descriptor
	DiffID string `json:"diffID"` // digest of the layer before compression
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("pack", flag.ExitOnError)
	newest := flags.Int64("newest", time.Now().Unix(), "no file is newer than this, in `seconds` since 1970")
	name := flags.String("name", "", "reference under which the image is imported")
	config := flags.String("config", "", "JSON `file` with the image's config")
	if len(args) == 0 {
		return errors.New("layer or image?")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch verb := args[0]; {
	case verb == "layer" && flags.NArg() == 2:
		return writeLayer(flags.Arg(0), flags.Arg(1), time.Unix(*newest, 0))
	case verb == "image" && flags.NArg() >= 2:
		return writeImage(*name, *config, flags.Arg(0), flags.Args()[1:])
	default:
		return fmt.Errorf("wrong arguments to %q", verb)
	}
}

func digest(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

func writeLayer(dir, file string, newest time.Time) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()

	plain, packed := sha256.New(), sha256.New()
	zstd := exec.Command("zstd", "-3", "-T0", "-q", "-c")
	zstd.Stdout = io.MultiWriter(out, packed)
	zstd.Stderr = os.Stderr
	pipe, err := zstd.StdinPipe()
	if err != nil {
		return err
	}
	if err := zstd.Start(); err != nil {
		return err
	}
	err = writeTree(tar.NewWriter(io.MultiWriter(pipe, plain)), dir, newest)
	if err := errors.Join(err, pipe.Close(), zstd.Wait()); err != nil {
		return fmt.Errorf("layer of %s: %w", dir, err)
	}

	info, err := out.Stat()
	if err != nil {
		return err
	}
	l := layer{descriptor{MediaType: mediaLayer, Digest: digest(packed), Size: info.Size()}, digest(plain)}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(file+".json", data, 0o644)
}

func writeTree(w *tar.Writer, root string, newest time.Time) error {
	links := map[uint64]string{} // inode → first name
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return writeEntry(w, path, name, info, links, newest)
	})
	return errors.Join(err, w.Close())
}

func writeEntry(w *tar.Writer, path, name string, info fs.FileInfo, links map[uint64]string, newest time.Time) error {
	stat := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case mode&fs.ModeSocket != 0:
		return nil
	case mode&fs.ModeCharDevice != 0 && stat.Rdev == 0: // overlay's mark of a deleted file
		return w.WriteHeader(&tar.Header{Name: filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name)), ModTime: newest})
	}

	var target string
	if mode&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = name, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if h.ModTime = info.ModTime().Truncate(time.Second); h.ModTime.After(newest) {
		h.ModTime = newest
	}
	if caps := xattr(path, "security.capability"); caps != "" && mode.IsRegular() {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": caps}
	}
	if first, ok := links[stat.Ino]; ok && mode.IsRegular() {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return w.WriteHeader(h)
	}
	links[stat.Ino] = name
	if mode.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	switch {
	case mode.IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	case mode.IsDir() && xattr(path, "trusted.overlay.opaque") == "y":
		return w.WriteHeader(&tar.Header{Name: name + "/.wh..wh..opq", ModTime: newest})
	}
	return nil
}

// xattr returns an extended attribute, or "" if there is none.
func xattr(path, name string) string {
	value := make([]byte, 128)
	n, err := syscall.Getxattr(path, name, value)
	if err != nil {
		return ""
	}
	return string(value[:n])
}

func writeImage(name, configFile, file string, layerFiles []string) error {
	settings, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	var layers []descriptor
	var diffIDs []string
	for _, f := range layerFiles {
		var l layer
		data, err := os.ReadFile(f + ".json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &l); err != nil {
			return fmt.Errorf("%s.json: %w", f, err)
		}
		layers = append(layers, l.descriptor)
		diffIDs = append(diffIDs, l.DiffID)
	}

	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	config, err := addJSON(w, mediaConfig, map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       json.RawMessage(settings),
		"rootfs":       map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", configFile, err)
	}
	for i, l := range layers {
		if err := addFile(w, l, layerFiles[i]); err != nil {
			return err
		}
	}
	manifest, err := addJSON(w, mediaManifest, map[string]any{
		"schemaVersion": 2, "mediaType": mediaManifest, "config": config, "layers": layers,
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": name}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []descriptor{manifest},
	})
	if err != nil {
		return err
	}
	return errors.Join(
		add(w, "index.json", int64(len(index)), bytes.NewReader(index)),
		add(w, "oci-layout", 30, bytes.NewReader([]byte(`{"imageLayoutVersion":"1.0.0"}`))),
		w.Close())
}

func addJSON(w *tar.Writer, mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	h := sha256.New()
	h.Write(data)
	d := descriptor{MediaType: mediaType, Digest: digest(h), Size: int64(len(data))}
	return d, add(w, blob(d), d.Size, bytes.NewReader(data))
}

func addFile(w *tar.Writer, d descriptor, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return add(w, blob(d), d.Size, f)
}

func blob(d descriptor) string { return "blobs/sha256/" + d.Digest[len("sha256:"):] }

func add(w *tar.Writer, name string, size int64, r io.Reader) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(w, r)
	return err
}
