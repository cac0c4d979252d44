package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// reportTimeout bounds what the report of a start may take; the start itself never waits for it.
const reportTimeout = 5 * time.Second

// startRecord gathers what one start did: the rung, every fallback before it and how long each phase took.
// It is a file for `sprout explain`, a report to sproutd and one Info line, all after Start has returned.
type startRecord struct {
	paths seedpool.Paths
	// annotations are those of the container that are for sproutd.
	annotations map[string]string

	mu      sync.Mutex
	start   *api.Start    // +checklocks:mu
	inShim  time.Duration // +checklocks:mu: spent in Create and Start, without the client's pause between them
	removed bool          // +checklocks:mu: the task was deleted
}

func newStartRecord(paths seedpool.Paths, namespace, id string) *startRecord {
	return &startRecord{
		paths: paths,
		start: &api.Start{
			Namespace:         namespace,
			Id:                id,
			AtUnixNanoseconds: time.Now().UnixNano(),
			ShimPid:           uint32(os.Getpid()),
		},
	}
}

// time begins a phase; the function that it returns ends it. Phases do not overlap: one that is around others counts what they leave.
// So phases and fallbacks add up to what the start took.
func (r *startRecord) time(name string) (stop func()) {
	began, before := time.Now(), r.sum()
	return func() {
		r.add(&api.Phase{Name: name, Nanoseconds: (time.Since(began) - r.sum() + before).Nanoseconds()})
	}
}

// spend is time for a phase that the client waits for.
func (r *startRecord) spend(name string) (stop func()) {
	began, end := time.Now(), r.time(name)
	return func() {
		end()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.inShim += time.Since(began)
	}
}

func (r *startRecord) add(phases ...*api.Phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start.Phases = append(r.start.Phases, phases...)
}

// noteAhead notes what was done ahead: its record is another.
func (r *startRecord) noteAhead(ahead *startRecord) {
	ahead.mu.Lock()
	phases := ahead.start.Phases
	ahead.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start.Ahead = phases
}

// sum is all that is accounted for.
func (r *startRecord) sum() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ns int64
	for _, p := range r.start.Phases {
		ns += p.Nanoseconds
	}
	for _, f := range r.start.Fallbacks {
		ns += f.Nanoseconds
	}
	return time.Duration(ns)
}

// try begins to try a rung; when it fails, the function that it returns turns what that took, with its phases, into a fallback.
func (r *startRecord) try(rung seedpool.Rung) (failed func(seedpool.Reason, error)) {
	r.mu.Lock()
	began, before := time.Now(), len(r.start.Phases)
	r.mu.Unlock()
	return func(reason seedpool.Reason, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.start.Phases = r.start.Phases[:before]
		r.passLocked(step{rung: rung, reason: reason, detail: err.Error()}, time.Since(began))
	}
}

// pass notes a rung that was passed over.
func (r *startRecord) pass(s step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passLocked(s, 0)
}

// fellBack notes what was tried in vain on the way.
func (r *startRecord) fellBack(f *api.Fallback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start.Fallbacks = append(r.start.Fallbacks, f)
}

func (r *startRecord) passLocked(s step, lost time.Duration) {
	r.start.Fallbacks = append(r.start.Fallbacks, &api.Fallback{
		Rung: string(s.rung), Reason: string(s.reason), Detail: s.detail, Nanoseconds: lost.Nanoseconds(),
	})
}

// reached notes the rung that worked. seed is nil for a cold start.
func (r *startRecord) reached(rung seedpool.Rung, seed *api.SeedInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start.Rung, r.start.Seed, r.start.Mode = string(rung), seed.GetId(), seed.GetMode()
}

// finish is called once, when Start has succeeded: it logs the start and, without keeping the caller, writes and reports its record.
func (r *startRecord) finish(ctx context.Context, pid uint32) {
	r.mu.Lock()
	r.start.Pid = pid
	start, took := r.start, r.inShim
	r.mu.Unlock()
	fields := log.Fields{
		"ns": start.Namespace, "id": start.Id, "seed": start.Seed, "rung": start.Rung, "mode": start.Mode,
		"ms": float64(took.Microseconds()) / 1000,
	}
	if n := len(start.Fallbacks); n > 0 {
		fields["reason"] = start.Fallbacks[n-1].Reason
	}
	log.G(ctx).WithFields(fields).Info("started")
	go r.deliver(context.WithoutCancel(ctx))
}

// rested notes that the task was put to sleep, or woken (slept is nil), and what that took.
func (r *startRecord) rested(slept *api.SleepResponse, phases []*api.Phase) {
	r.mu.Lock()
	rest := &api.Rest{
		Asleep: slept != nil, Bytes: slept.GetBytes(), Full: slept.GetFull(), AtUnixNanoseconds: time.Now().UnixNano(), Phases: phases,
		Wakes: r.start.Rest.GetWakes(),
	}
	if !rest.Asleep {
		rest.Wakes++
	}
	r.start.Rest = rest
	r.mu.Unlock()
	if _, err := r.write(); err != nil {
		log.L.WithError(err).Warn("write start record")
	}
}

// phases are those that are over.
func (r *startRecord) phases() []*api.Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.start.Phases)
}

// deliver writes the record and hands it to sproutd. Neither may fail a start.
func (r *startRecord) deliver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	start, err := r.write()
	if err != nil {
		log.G(ctx).WithError(err).Warn("write start record")
	}
	automatic, err := report(ctx, r.paths, &api.ReportRequest{Start: start, Annotations: r.annotations})
	if err != nil {
		log.G(ctx).WithError(err).Debug("report start to sproutd")
	}
	if automatic == "" {
		return
	}
	r.mu.Lock()
	r.start.Automatic = automatic
	r.mu.Unlock()
	if _, err := r.write(); err != nil {
		log.G(ctx).WithError(err).Warn("write start record")
	}
}

// write writes the record's file, unless its task is gone already, and returns a copy of the record.
func (r *startRecord) write() (*api.Start, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := proto.CloneOf(r.start)
	if r.removed {
		return start, nil
	}
	data, err := protojson.Marshal(start)
	if err != nil {
		return start, err
	}
	file := r.paths.StartRecord(start.Namespace, start.Id)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return start, err
	}
	return start, writeFile(file, data)
}

// report hands a record to sproutd, which says whether a seed is baked for later starts.
func report(ctx context.Context, paths seedpool.Paths, r *api.ReportRequest) (automatic string, err error) {
	client, err := seedpool.Dial(ctx, paths.APISocket())
	if err != nil {
		return "", err
	}
	defer client.Close()
	answer, err := client.Pool.Report(ctx, r)
	return answer.GetAutomatic(), err
}

// remove takes the record's file away with its task.
func (r *startRecord) remove(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = true
	err := os.Remove(r.paths.StartRecord(r.start.Namespace, r.start.Id))
	if err != nil && !os.IsNotExist(err) {
		log.G(ctx).WithError(err).Warn("remove start record")
	}
}

// writeFile writes a small file that is there whole or not at all. It outlives a kill -9, not a power cut, as all below the run
// directory does.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
