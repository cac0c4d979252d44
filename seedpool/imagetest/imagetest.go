// Package imagetest gives tests the demo images as directories: unpacked once for a test binary, with the spec that `ctr run` would make of them.
package imagetest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// OutDir is where the tools and images are: SPROUT_OUT, or _out at the checkout's root.
func OutDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("SPROUT_OUT"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "_out")
		}
	}
	t.Fatal("no go.mod above the test's directory")
	return ""
}

// Tool gives the path of a tool in _out/bin. A missing tool fails the test.
func Tool(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(OutDir(t), "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: `make tools` builds it", err)
	}
	return path
}

// Image is one unpacked image.
type Image struct {
	// Layers are overlay lower directories, uppermost first.
	Layers []string
	config ocispec.Image
}

// cache holds what was unpacked, until Remove.
var cache struct {
	mu     sync.Mutex
	dir    string
	images map[string]*Image
}

// Get unpacks an image the first time that it is asked for. A missing image fails the test.
func Get(t *testing.T, name string) *Image {
	t.Helper()
	cache.mu.Lock()
	defer cache.mu.Unlock()
	if img := cache.images[name]; img != nil {
		return img
	}
	if cache.dir == "" {
		dir, err := os.MkdirTemp("", "sprout-images-")
		if err != nil {
			t.Fatal(err)
		}
		cache.dir, cache.images = dir, make(map[string]*Image)
	}
	img, err := unpack(t.Context(), filepath.Join(OutDir(t), "images", name+".tar"), filepath.Join(cache.dir, name))
	if err != nil {
		t.Fatalf("unpack image %s: %v: `make images` builds it", name, err)
	}
	cache.images[name] = img
	return img
}

// Remove deletes what was unpacked; TestMain calls it last.
func Remove() error {
	cache.mu.Lock()
	defer cache.mu.Unlock()
	if cache.dir == "" {
		return nil
	}
	return os.RemoveAll(cache.dir)
}

// unpack reads an OCI layout in a tar archive.
func unpack(ctx context.Context, file, dir string) (*Image, error) {
	layout := filepath.Join(dir, "layout")
	if err := untar(file, layout); err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := decode(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := decode(blob(layout, index.Manifests[0]), &manifest); err != nil {
		return nil, err
	}
	img := &Image{}
	if err := decode(blob(layout, manifest.Config), &img.config); err != nil {
		return nil, err
	}
	for i, layer := range manifest.Layers {
		target := filepath.Join(dir, fmt.Sprint(i))
		if err := apply(ctx, blob(layout, layer), target); err != nil {
			return nil, err
		}
		img.Layers = append([]string{target}, img.Layers...)
	}
	return img, os.RemoveAll(layout)
}

func untar(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, header.Name)
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
}

func apply(ctx context.Context, layer, dir string) error {
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	stream, err := compression.DecompressStream(f)
	if err != nil {
		return err
	}
	defer stream.Close()
	_, err = archive.Apply(ctx, dir, stream)
	return err
}

func blob(layout string, d ocispec.Descriptor) string {
	return filepath.Join(layout, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
}

func decode(file string, v any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// Spec gives what `ctr run` would ask for: containerd's default spec with the image's config; args replace the image's command.
func (img *Image) Spec(t *testing.T, args ...string) *specs.Spec {
	t.Helper()
	config := img.config.Config
	if len(args) == 0 {
		args = append(append(args, config.Entrypoint...), config.Cmd...)
	}
	options := []oci.SpecOpts{oci.WithEnv(config.Env), oci.WithProcessArgs(args...), oci.WithHostname("baked")}
	if config.WorkingDir != "" {
		options = append(options, oci.WithProcessCwd(config.WorkingDir))
	}
	ctx := namespaces.WithNamespace(t.Context(), "test")
	spec, err := oci.GenerateSpecWithPlatform(ctx, nil, "linux/amd64", &containers.Container{ID: "test"}, options...)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// Overlay gives the mount options of a fresh writable layer over the image, and over further layers that are given; it ends with the test.
func (img *Image) Overlay(t *testing.T, over ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"lowerdir=" + strings.Join(append(over, img.Layers...), ":"), "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}
}
