package shim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/stdio"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// wokenTasks are the tasks of this shim that were woken: bound to an instance instead of booted by runc.
//
// Its mu is a leaf: it is never held over a call.
type wokenTasks struct {
	publish  func(event any)
	params   seedpool.ShimParams
	paths    seedpool.Paths
	consoles consoles
	oom      oomWatch
	ahead    *ahead

	mu    sync.Mutex
	tasks map[string]*wokenTask // +checklocks:mu
}

// newWokenTasks returns the still empty set of woken tasks of a shim.
// publish hands one event to the shim's ordered queue; it must not block for long. early is the bundle of the first container, if it is known.
func newWokenTasks(publish func(event any), params seedpool.ShimParams, early *ahead) *wokenTasks {
	s := &wokenTasks{
		publish: publish,
		params:  params,
		paths:   seedpool.PathsFromEnv(),
		ahead:   early,
		tasks:   make(map[string]*wokenTask),
	}
	s.oom.tasks = s
	return s
}

// get returns the woken task of a container; nil: the container was not woken.
func (s *wokenTasks) get(id string) *wokenTask {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[id]
}

// count is the number of woken tasks that were not deleted yet.
func (s *wokenTasks) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tasks)
}

// close lets go of what the tasks share, and of a spare for which no request came. It is called when the shim shuts down, after the last task was deleted.
func (s *wokenTasks) close() error {
	return errors.Join(s.ahead.drop(), s.consoles.close())
}

func (s *wokenTasks) add(t *wokenTask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[t.id] = t
}

func (s *wokenTasks) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
}

// wokenTask is one container that was woken. From its bind on it is an ordinary runc container (the libcontainer state says so),
// but its first process is a child of a keeper, so that this type waits for it, and its streams are named pipes, so that it copies them.
//
// Life: bind makes it in phase created, frozen. start thaws it. Its exit, seen on the pidfd, is published after the exits of all
// its exec'd processes and after its streams are drained; delete removes what is left. Between, it may be put
// to sleep and woken again, which gives it another first process.
//
// Lock order: op, then signals, then mu. op is held over whole requests that move the phase and while an exit is published, so that events come
// in the order of the moves; mu only over the fields below it, never over a slow step: State answers while a pause is under way.
type wokenTask struct {
	tasks   *wokenTasks
	ns      string
	id      string
	bundle  string
	asked   stdio.Stdio
	spec    *specs.Spec
	cgroup  linux.Cgroup
	limits  cgroups.Manager
	streams *streams
	// made is the start that made it: what it was asked for, and from what seed.
	made *wake
	// current is its process: another one each time that it was woken from sleep, and the last one while it sleeps.
	current atomic.Pointer[life]
	// afterWake is how the app learns that it was woken; nil: it does not.
	afterWake *api.AfterWake
	runtime   *runc.Runc
	// init makes exec'd processes the way containerd's runc shim does; nothing else of it is used.
	init   *process.Init
	record *startRecord

	op sync.Mutex
	// signals is held for reading while a signal is sent, and wholly while the task becomes one that takes none: what is sent later would not be in its image.
	signals sync.RWMutex
	// kept is what it holds while it sleeps; guarded by op.
	kept *kept
	// unwatched: its cgroup was made anew, and nobody watches that for OOM; guarded by op.
	unwatched bool

	mu       sync.Mutex
	phase    phase                // +checklocks:mu
	pausing  bool                 // +checklocks:mu
	gone     bool                 // +checklocks:mu: the first process has exited; no exec may begin
	status   uint32               // +checklocks:mu
	exitedAt time.Time            // +checklocks:mu
	execs    map[string]*execTask // +checklocks:mu: nil value: the id is taken, the process is being made

	// running counts exec'd processes whose exit is not published yet.
	running sync.WaitGroup
	// exited is closed when the exit of the first process is known and every stream is drained.
	exited chan struct{}
}

// life is one process of a task, from a wake to a sleep or to the end.
type life struct {
	instance *api.Instance
	pidfd    *linux.Pidfd
	// memory is held when it is shared with other instances; nil: it is the instance's own.
	memory *restore.Holder
	// watched is closed when it is being watched for what may happen once it runs.
	watched   chan struct{}
	takenOver sync.Once
	// watchedOOM: whoever watches the cgroup for OOM has since before this life.
	watchedOOM bool
	// killed: it was sent SIGKILL; slept: its end is not the task's. Both are guarded by the task's mu.
	killed, slept bool
}

func newLife(i identity) *life {
	return &life{instance: i.instance, pidfd: i.pidfd, memory: i.memory, watched: make(chan struct{})}
}

// now is the task's process.
func (t *wokenTask) now() *life { return t.current.Load() }

func (t *wokenTask) pid() uint32 { return t.now().instance.Pid }

// move changes the phase, or says why it may not.
func (t *wokenTask) move(next phase) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.phase.check(t.id, next); err != nil {
		return err
	}
	t.phase = next
	return nil
}

func (t *wokenTask) phaseNow() phase {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.phase
}

// process returns an exec'd process by its id.
func (t *wokenTask) process(execID string) (*execTask, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.execs[execID]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("find process %s of task %s: %w", execID, t.id, errdefs.ErrNotFound)
}

func (t *wokenTask) processes() []*execTask {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(t.execs)), func(e *execTask) bool { return e == nil })
}

// watch waits for the end of a life of the task. Unless that is sleep, it is the task's exit, which is published. It is started once for each, by what made it.
func (t *wokenTask) watch(ctx context.Context, l *life) {
	close(l.watched)
	over := make(chan struct{})
	go t.guardMemory(ctx, l, over)
	exit := waitForExit(ctx, l.pidfd, l.instance.ExitFile)
	close(over)
	t.mu.Lock()
	slept := l.slept
	t.gone = !slept
	t.mu.Unlock()
	if slept {
		return
	}
	// Its pid namespace dies with it, so the exec'd processes are dying too; their exits are published first.
	t.running.Wait()
	t.takeOver(ctx, l) // the keeper's ends would keep the streams from ending
	t.streams.drain(ctx, drainBeforeExit)

	t.op.Lock()
	defer t.op.Unlock()
	t.stopped(ctx, exit)
}
