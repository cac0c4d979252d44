package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// bundle is what a start reads from its bundle and works out of it before it needs anybody else.
type bundle struct {
	// file is config.json as it was read.
	file os.FileInfo
	spec *specs.Spec

	key    *api.Key
	keyErr error

	// config, limits and cgroup are runc's view of the container, and where it will live below the root of every hierarchy.
	config    *configs.Config
	limits    cgroups.Manager
	cgroup    string
	cgroupErr error
}

// readBundle reads the bundle of the container id.
func readBundle(dir, id string) (*bundle, error) {
	b := new(bundle)
	file, err := os.Open(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if b.file, err = file.Stat(); err != nil {
		return nil, err
	}
	b.spec = new(specs.Spec)
	if err := json.NewDecoder(file).Decode(b.spec); err != nil {
		return nil, fmt.Errorf("decode config.json: %w", err)
	}
	if b.spec.Linux == nil || b.spec.Process == nil || b.spec.Root == nil {
		return nil, errors.New("decode config.json: linux, process or root is missing")
	}
	b.key, b.keyErr = seedpool.KeyOf(b.spec)
	b.config, b.limits, b.cgroup, b.cgroupErr = cgroupOf(b.spec, id, dir)
	return b, nil
}

// ahead does what can be done for a container before its CreateTask comes, while containerd still connects to the shim: the bundle is there before the shim is asked for.
type ahead struct {
	dir, id string
	// upperdir is the container's if it may have a spare; empty: it is known from the request.
	upperdir string
	// client is the connection that the shim has made when it was idle, for whoever is the first to need one; nil: none.
	client atomic.Pointer[seedpool.Client]
	done   chan struct{}
	read   *bundle // nil: it could not be read; once done is closed
	// reserved gets the spare that was taken, or nil, and is then closed: one CreateTask has it.
	reserved chan *reservation
}

// readAhead begins to read the bundle of the container id.
func readAhead(dir, id, upperdir string, client *seedpool.Client) *ahead {
	a := &ahead{dir: dir, id: id, upperdir: upperdir, done: make(chan struct{}), reserved: make(chan *reservation, 1)}
	a.client.Store(client)
	go func() {
		defer close(a.done)
		// Whoever needs it reads it again and says what is wrong.
		a.read, _ = readBundle(dir, id)
	}()
	return a
}

// lookAhead begins to take a spare for the container whose bundle is read.
func (s *wokenTasks) lookAhead(a *ahead) {
	s.ahead = a
	go func() {
		defer close(a.reserved)
		<-a.done
		a.reserved <- s.reserve(context.Background(), a)
	}()
}

// dial is a connection to sproutd.
func (s *wokenTasks) dial(ctx context.Context) (*seedpool.Client, error) {
	if s.ahead != nil {
		if client := s.ahead.client.Swap(nil); client != nil {
			return client, nil
		}
	}
	return seedpool.Dial(ctx, s.paths.APISocket())
}

// bundle is that of the container id: the one that was read ahead, unless it is another's or its file was written since.
func (a *ahead) bundle(dir, id string) (*bundle, error) {
	if a == nil || a.dir != dir || a.id != id {
		return readBundle(dir, id)
	}
	<-a.done
	now, err := os.Stat(filepath.Join(dir, "config.json"))
	if err != nil || a.read == nil || !os.SameFile(now, a.read.file) || now.Size() != a.read.file.Size() || !now.ModTime().Equal(a.read.file.ModTime()) {
		return readBundle(dir, id)
	}
	return a.read, nil
}

// reservation is the spare that was taken for the container id; nil: there is none, or it has been given away.
func (a *ahead) reservation(id string) *reservation {
	if a == nil || a.id != id {
		return nil
	}
	return <-a.reserved
}
