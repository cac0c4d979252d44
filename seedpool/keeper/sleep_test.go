package keeper

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// doze dumps an instance that runs and ends it. It returns what is to be asked to have it again.
func (b *bed) doze(i *api.Instance, overlay []string) (*api.MakeRequest, error) {
	b.t.Helper()
	spec, err := json.Marshal(b.baked.Spec)
	if err != nil {
		b.t.Fatal(err)
	}
	var streams []string
	for fd, key := range b.baked.StdioKeys {
		name := ""
		if key != "" {
			if name, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", i.Pid, fd)); err != nil {
				b.t.Fatal(err)
			}
		}
		streams = append(streams, name)
	}
	base, images := filepath.Join(b.dir, i.Id+"-base"), filepath.Join(b.dir, i.Id+"-images")
	if err := os.Mkdir(base, 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := restore.Link(filepath.Join(b.dir, "images"), base); err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.Dump(b.t.Context(), &api.DumpRequest{Id: i.Id, Images: images, Spec: spec, Cgroup: i.Cgroup, Streams: streams, Base: base})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, i.Id, "dump.log"))
		b.t.Logf("%v\n%s", err, log)
		return nil, err
	}
	b.t.Logf("%s: %d of %d bytes", i.Id, resp.Bytes, resp.Full)
	if err := syscall.Kill(int(i.Pid), syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	exitOf(b.t, i)
	if err := (linux.Cgroup{Path: i.Cgroup}).WaitEmpty(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return &api.MakeRequest{
		Id: i.Id, Images: images, Overlay: overlay, Cgroup: i.Cgroup, Spec: spec, Dir: filepath.Join(b.dir, i.Id), StdioKeys: streams, AtOnce: true, Again: true,
	}, nil
}

// sleepAndWake has a clone that answers go on from its image, and one whose program was replaced meanwhile run on.
func (b *bed) sleepAndWake(clone, changed *api.Instance, ready string) *api.Instance {
	b.t.Helper()
	again, err := b.doze(clone, b.img.Overlay(b.t, b.upper))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.Make(b.t.Context(), again)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, clone.Id, "restore.log"))
		b.t.Fatalf("%v\n%s", err, log)
	}
	b.runs(resp.Instance, ready)
	exe := fmt.Sprintf("/proc/%d/exe", changed.Pid)
	path, err := os.Readlink(exe)
	if err != nil {
		b.t.Fatal(err)
	}
	now := time.Now()
	if err := os.Chtimes(fmt.Sprintf("/proc/%d/root%s", changed.Pid, path), now, now); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.doze(changed, nil); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		b.t.Errorf("the image of a clone whose program was changed: %v", err)
	}
	b.runs(changed, ready)
	return resp.Instance
}

// runs lets an instance run and waits for it to be ready.
func (b *bed) runs(i *api.Instance, ready string) {
	b.t.Helper()
	if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
		b.t.Fatal(err)
	}
	if err := bake.Probe(b.t.Context(), int(i.Pid), mustReady(b.t, ready)); err != nil {
		b.t.Fatal(err)
	}
}
