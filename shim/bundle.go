package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	// keyErr: it can be woken from no seed.
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
	data, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	if b.spec, b.keyErr = seedpool.DecodeSpec(data); b.keyErr != nil {
		// runc may know what we do not, and needs no key.
		b.spec = new(specs.Spec)
		if err := json.Unmarshal(data, b.spec); err != nil {
			return nil, fmt.Errorf("decode config.json: %w", err)
		}
	}
	if b.spec.Linux == nil || b.spec.Process == nil || b.spec.Root == nil {
		return nil, errors.New("decode config.json: linux, process or root is missing")
	}
	if b.keyErr == nil {
		b.key, b.keyErr = seedpool.KeyOf(b.spec)
	}
	b.config, b.limits, b.cgroup, b.cgroupErr = cgroupOf(b.spec, id, dir)
	return b, nil
}

// ahead does what can be done for a container before its CreateTask comes: the bundle is there before the shim is asked for.
type ahead struct {
	dir, id string
	// foreseen is how it may be woken; zero: that is known from the request.
	foreseen seedpool.Foreseen
	// client is the connection that the shim has made when it was idle, for whoever is the first to need one; nil: none.
	client atomic.Pointer[seedpool.Client]
	done   chan struct{}
	read   *bundle // nil: it could not be read; once done is closed
	// begin gets true when containerd has connected, and false when nobody will ask.
	begin chan bool
	// reserved gets the instance that was taken or made, or nil, and is then closed: one CreateTask has it.
	reserved chan *reservation
}

// lookAhead begins to read the bundle of the container that a shim was given, and to take or make an instance for it, if it is foreseen how.
func lookAhead(p seedpool.IdleParams, paths seedpool.Paths, client *seedpool.Client) *ahead {
	a := &ahead{dir: p.Bundle, id: p.ID, foreseen: p.Foreseen, done: make(chan struct{}), begin: make(chan bool, 1), reserved: make(chan *reservation, 1)}
	a.client.Store(client)
	go func() {
		defer close(a.reserved)
		// Whoever needs it reads it again and says what is wrong.
		a.read, _ = readBundle(a.dir, a.id)
		close(a.done)
		a.reserved <- a.reserve(context.Background(), p.Namespace, paths)
	}()
	return a
}

// connected is called for every connection: what is made for a shim that containerd has reached it cleans up.
func (a *ahead) connected() { a.tell(true) }

// tell says what begin gets, unless it was said already.
func (a *ahead) tell(begin bool) {
	select {
	case a.begin <- begin:
	default:
	}
}

// drop lets go of what nobody has asked for.
func (a *ahead) drop() error {
	if a == nil {
		return nil
	}
	a.tell(false)
	a.reservation(a.id).drop(context.Background())
	if client := a.client.Swap(nil); client != nil {
		return client.Close()
	}
	return nil
}

// dial is a connection to sproutd.
func (a *ahead) dial(ctx context.Context, paths seedpool.Paths) (*seedpool.Client, error) {
	if a != nil {
		if client := a.client.Swap(nil); client != nil {
			return client, nil
		}
	}
	return seedpool.Dial(ctx, paths.APISocket())
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

// reservation is the instance that was reserved for the container id; nil: there is none, or it has been given away.
func (a *ahead) reservation(id string) *reservation {
	if a == nil || a.id != id {
		return nil
	}
	return <-a.reserved
}
