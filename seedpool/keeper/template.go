package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/fork"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Bounds for the making of a template, a restore and some hundred calls of every thread, and for its end.
const (
	templateTimeout = time.Minute
	closeTimeout    = 10 * time.Second
)

// template is the seed's process that never runs, and from which instances are cloned. The first request for a clone has it made, once: when that fails instances are
// restored for as long as the keeper lives.
type template struct {
	once sync.Once
	// after is closed when the one before it has ended, which had the same place; nil: it is the first.
	after <-chan struct{}
	// forgone is closed when nobody will ask for a clone any more.
	forgone chan struct{}
	// made is closed when the template or err is known.
	made chan struct{}
	err  error

	process *fork.Template
	holder  *holder
	// frozen is the template's own cgroup, awake the zygote's, both below place.
	frozen, awake linux.Cgroup
	place         *api.TemplatePlace
	// streams are the template's standard streams, of which every clone gets others.
	streams []*os.File
	pid     int
	reaped  chan struct{}
}

func newTemplate(after <-chan struct{}) *template {
	return &template{after: after, made: make(chan struct{}), forgone: make(chan struct{})}
}

// get is the template, which is made from the request if it is the first. Unavailable: it is not ready, and the request does not wait. FailedPrecondition: there will be none.
func (t *template) get(ctx context.Context, c Config, r *api.MakeRequest, spec *specs.Spec) (*fork.Template, error) {
	t.once.Do(func() { go t.make(c, r, spec) })
	if r.AtOnce {
		select {
		case <-t.made:
		default:
			return nil, fmt.Errorf("template is being made: %w", errdefs.ErrUnavailable)
		}
	}
	select {
	case <-t.made:
		if t.err != nil {
			return nil, fmt.Errorf("%w: %w", t.err, errdefs.ErrFailedPrecondition)
		}
		return t.process, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stands says whether instances can be cloned from it.
func (t *template) stands() bool {
	select {
	case <-t.made:
		return t.err == nil && t.process != nil
	default:
		return false
	}
}

// make is not repeated when it fails.
func (t *template) make(c Config, r *api.MakeRequest, spec *specs.Spec) {
	ctx, cancel := context.WithTimeout(context.Background(), templateTimeout)
	go func() {
		select {
		case <-t.forgone:
			cancel()
		case <-ctx.Done():
		}
	}()
	from := time.Now()
	if t.after != nil {
		<-t.after
	}
	err := t.try(ctx, c, r, spec)
	cancel()
	entry := log.L.WithFields(log.Fields{"seed": c.Seed, "ms": time.Since(from).Milliseconds()})
	if err != nil {
		t.err = fmt.Errorf("make template of seed %s: %w", c.Seed, errors.Join(err, t.close()))
		t.process = nil
		entry.WithError(t.err).Warn("instances are not cloned")
	} else {
		entry.WithField("pid", t.pid).Info("instances are cloned")
	}
	close(t.made)
}

func (t *template) try(ctx context.Context, c Config, r *api.MakeRequest, spec *specs.Spec) error {
	t.place = r.Template
	t.frozen, t.awake = linux.Cgroup{Path: path.Join(t.place.Cgroup, "frozen")}, linux.Cgroup{Path: path.Join(t.place.Cgroup, "awake")}
	if err := linux.PidfdTellsExit(); err != nil {
		return fmt.Errorf("learn how clones end: %w", err)
	}
	// What lies there is of a keeper that was killed.
	if err := t.clear(ctx); err != nil {
		return err
	}
	images := filepath.Join(t.place.Dir, "images")
	if err := os.MkdirAll(images, 0o700); err != nil {
		return err
	}
	if err := errors.Join(t.frozen.Create(), t.awake.Create()); err != nil {
		return err
	}
	processes, err := t.restore(ctx, c, r, spec, images)
	if err != nil {
		return err
	}
	// It was frozen, and stops before it runs.
	if err := t.frozen.Thaw(); err != nil {
		return err
	}
	var sources []fork.Source
	for _, p := range processes {
		sources = append(sources, fork.Source{PID: p.PID, Origin: (*fork.Origin)(p.Origin)})
	}
	if t.process, err = fork.NewTemplate(ctx, sources...); err != nil {
		return err
	}
	// Its clones have their programs and libraries from these mounts: what one of them changed there, by /proc/self/exe say, another would see.
	if err := linux.ReadonlyMounts(t.pid); err != nil {
		return err
	}
	for _, zygote := range t.process.Zygotes() {
		if err := t.awake.Attach(zygote); err != nil {
			return err
		}
	}
	return t.frozen.Freeze(ctx)
}

// restore makes the template's processes, in mounts of their own: their open files are there, their clones have theirs.
func (t *template) restore(ctx context.Context, c Config, r *api.MakeRequest, spec *specs.Spec, images string) (processes []restore.TemplateProcess, err error) {
	overlay, err := t.overlay(r.Overlay)
	if err != nil {
		return nil, err
	}
	o := restore.TemplateOptions{Options: restore.Options{ImagesDir: r.Images, WorkDir: images, Cgroup: t.frozen}}
	if o.Aside, err = ownCgroup(); err != nil {
		return nil, err
	}
	if o.Caps, err = ownCaps(); err != nil {
		return nil, err
	}
	if err := t.openStreams(&o.Options, r.StdioKeys); err != nil {
		return nil, err
	}
	defer closeFiles(o.Stdio[:]...)
	if o.NetNS, err = linux.NewNetNS(); err != nil {
		return nil, err
	}
	defer o.NetNS.Close()
	o.Staged, err = restore.Stage(restore.StageOptions{Dir: t.place.Dir, ImagesDir: r.Images, Overlay: overlay, Spec: spec, Cgroup: t.frozen})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.Staged.Unstage()) }()
	if t.holder, err = startHolder(); err != nil {
		return nil, err
	}
	o.PIDNS, o.MountNS = t.holder.pids, t.holder.mount
	if processes, err = restore.Template(ctx, c.CRIU, o); err != nil {
		return nil, err
	}
	t.pid = processes[0].PID
	p, err := linux.OpenPidfd(t.pid)
	if err != nil {
		return nil, err
	}
	t.reaped = make(chan struct{})
	go t.reap(p)
	return processes, nil
}

// reap waits for the template's end before it asks wait4, which would take its stops from who traces it.
func (t *template) reap(p *linux.Pidfd) {
	defer close(t.reaped)
	err := p.Wait(context.Background())
	if err == nil {
		_, err = syscall.Wait4(t.pid, nil, 0, nil)
	}
	if err = errors.Join(err, p.Close()); err != nil {
		log.L.WithError(err).WithField("pid", t.pid).Error("reap template")
	}
}

// overlay is that of an instance with an upper of the template's.
func (t *template) overlay(of []string) (options []string, err error) {
	for _, option := range of {
		name, _, _ := strings.Cut(option, "=")
		if name != "upperdir" && name != "workdir" {
			options = append(options, option)
			continue
		}
		dir := filepath.Join(t.place.Dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		options = append(options, name+"="+dir)
	}
	return options, nil
}

// openStreams gives the template pipes, which are what its clones get, too.
func (t *template) openStreams(o *restore.Options, keys []string) error {
	for n, key := range keys {
		if key == "" || n >= len(o.Stdio) {
			continue
		}
		held, err := linux.HoldPipe()
		if err != nil {
			return err
		}
		t.streams = append(t.streams, held)
		name, err := linux.PipePath(held)
		if err != nil {
			return err
		}
		if o.Stdio[n], err = linux.InheritFifo(name, n > 0); err != nil {
			return err
		}
		o.StdioKeys[n] = key
	}
	return nil
}

// ownCaps are the keeper's capabilities: the template can have no more.
func ownCaps() (uint64, error) {
	own, err := linux.ReadCreds(os.Getpid(), os.Getpid())
	return own.CapPrm, err
}

// end ends a template that there may be, when no clone will be asked for any more.
func (t *template) end() error {
	close(t.forgone)
	t.once.Do(func() { close(t.made) })
	<-t.made
	if t.place == nil || t.err != nil {
		return nil
	}
	return t.close()
}

// close ends template and zygote, and removes what they had. Clones go on.
func (t *template) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	if t.process != nil {
		errs = append(errs, t.process.Close())
	}
	if t.holder != nil {
		errs = append(errs, t.holder.letGo())
	}
	closeFiles(t.streams...)
	return errors.Join(append(errs, t.clear(ctx))...)
}

// clear ends what is in the template's cgroups and removes them and its directory.
func (t *template) clear(ctx context.Context) error {
	for _, c := range []linux.Cgroup{t.frozen, t.awake} {
		if err := errors.Join(c.Kill(), c.WaitEmpty(ctx)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if t.reaped != nil {
		<-t.reaped
	}
	return errors.Join((linux.Cgroup{Path: t.place.Cgroup}).Remove(), os.RemoveAll(t.place.Dir))
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
