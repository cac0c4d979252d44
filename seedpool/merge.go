package seedpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/prometheus/procfs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// Spares that were booted one by one have equal pages, and share none. Those of seeds that ask for it offer theirs to ksmd, and when the pools are full we have ksmd
// look through them in one burst: two scans are enough, and then it sleeps again, with the settings that it had. Whoever shares a page with another can find out what is
// in it by the time that a write takes, so all that is merged on a machine belongs to one containerd namespace: a burst is not begun, and ends, when any other process
// offers memory, or when ksmd was at work without us.
const (
	// mergeQuiet is how long no spare must have been made before a burst.
	mergeQuiet = 2 * time.Second
	// mergeLook is how often a burst looks how far ksmd is, and who else is there: there is no event for either.
	mergeLook = 50 * time.Millisecond
	// mergeScans must have begun after the last spare and ended. The first finds what does not change, the second what is equal; one more is under way when a burst begins.
	mergeScans = 3
	// mergeWithin bounds a burst.
	mergeWithin = 2 * time.Minute
)

// burstSettings have ksmd scan quickly, and skip nothing. run is the last: with it ksmd begins.
var burstSettings = []struct{ name, value string }{{"smart_scan", "0"}, {"advisor_mode", "none"}, {"sleep_millisecs", "10"}, {"pages_to_scan", "20000"}, {"run", "1"}}

// merging is what is known of bursts. The zero value but for wake has seen none.
type merging struct {
	// wake tells that a spare that offers its memory is ready.
	wake chan struct{}

	mu sync.Mutex
	// refused is why the last burst was not made, or was ended; empty: it was made.
	refused string // +checklocks:mu
}

func (m *merging) stir() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *merging) refuse(why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = why
}

// checkMerge refuses a bake whose spares could not be merged, or must not be.
func (p *Pool) checkMerge(r *api.BakeRequest) error {
	if !r.Merge && !r.Deterministic {
		return nil
	}
	if r.Mode != ModePrestart {
		return fail(errdefs.ErrInvalidArgument, "merge and deterministic are for mode %s: the instances of a clone seed share memory already ([fork], [restore] in sproutd's configuration)", ModePrestart)
	}
	if !r.Merge {
		return nil
	}
	if err := linux.CanOfferMemory(); err != nil {
		return fail(errdefs.ErrFailedPrecondition, "memory cannot be merged on this machine: %w", err)
	}
	if other := p.mergedElsewhere(r.Namespace); other != nil {
		return fail(errdefs.ErrFailedPrecondition, "memory is merged inside one namespace only, and seed %s of namespace %s is merged: remove that one, or bake without merging", other.Info.Name, other.Info.Namespace)
	}
	return nil
}

// mergedElsewhere is a seed of another namespace that is merged; nil: there is none.
func (p *Pool) mergedElsewhere(namespace string) *api.SeedMeta {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if s.meta.Boot.GetMerge() && s.namespace != namespace {
			return s.meta
		}
	}
	return nil
}

// mergedNamespace is that of the seeds that are merged; empty: there are none any more.
func (p *Pool) mergedNamespace() string {
	if m := p.mergedElsewhere(""); m != nil {
		return m.Info.Namespace
	}
	return ""
}

// mergingLocked says how a seed's memory is merged. The caller holds Pool.mu.
func (p *Pool) mergingLocked(s *seed) string {
	boot := s.meta.Boot
	var words string
	switch {
	case boot.GetMerge() && boot.GetDeterministic():
		words = "merged, and booted alike"
	case boot.GetMerge():
		words = "merged"
	case boot.GetDeterministic():
		return "booted alike, not merged"
	default:
		return ""
	}
	p.merging.mu.Lock()
	defer p.merging.mu.Unlock()
	if p.merging.refused != "" {
		words += "; not now: " + p.merging.refused
	}
	return words
}

// mergeMemory makes a burst whenever the pools of seeds that are merged have become full, until ctx ends.
func (p *Pool) mergeMemory(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.merging.wake:
		}
		if !p.mergeSettled(ctx) {
			return
		}
		saved, err := p.burst(ctx)
		if err != nil {
			p.merging.refuse(err.Error())
			log.G(ctx).WithError(err).Warn("merge memory of spares")
			continue
		}
		p.merging.refuse("")
		p.events.tell(&api.Event{Kind: EventMerged, Namespace: p.mergedNamespace(), Detail: Size(saved).String() + " of memory are shared"})
	}
}

// mergeSettled waits until no spare has been made for a moment. False: ctx has ended.
func (p *Pool) mergeSettled(ctx context.Context) bool {
	quiet := time.NewTimer(mergeQuiet)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-p.merging.wake:
			quiet.Reset(mergeQuiet)
		case <-quiet.C:
			if p.makingSpares() == 0 {
				return true
			}
			quiet.Reset(mergeQuiet)
		}
	}
}

// burst has ksmd look through all memory that is offered, and puts back its settings. It says how much memory is shared instead of being there twice, in bytes.
func (p *Pool) burst(ctx context.Context) (saved uint64, err error) {
	run, err := linux.KSM("run")
	if err != nil {
		return 0, err
	}
	if run != "0" {
		return 0, fmt.Errorf("ksmd is at work without sprout (/sys/kernel/mm/ksm/run is %s)", run)
	}
	if some, err := p.mergesAlone(); err != nil || !some {
		return 0, err
	}
	if err := p.saveSettings(); err != nil {
		return 0, err
	}
	p.point("settings of ksmd saved")
	defer func() { err = errors.Join(err, p.recoverMerging(ctx)) }()
	first, err := scans()
	if err != nil {
		return 0, err
	}
	for _, s := range burstSettings {
		if err := linux.SetKSM(s.name, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) { // older kernels lack some
			return 0, err
		}
	}
	p.point("ksmd at work")
	if err := p.awaitScans(ctx, first+mergeScans); err != nil {
		return 0, err
	}
	pages, err := figure("pages_sharing")
	return pages * uint64(os.Getpagesize()), err
}

// awaitScans returns when ksmd has made so many scans since the machine started. While a container is started it does not scan.
func (p *Pool) awaitScans(ctx context.Context, want uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, mergeWithin, fmt.Errorf("ksmd has not made %d scans within %s", mergeScans, mergeWithin))
	defer cancel()
	look := time.NewTicker(mergeLook)
	defer look.Stop()
	for rests := false; ; {
		done, err := scans()
		if err != nil || done >= want {
			return err
		}
		if some, err := p.mergesAlone(); err != nil || !some {
			return err
		}
		if busy := p.starts.wait(time.Now()) > 0; busy != rests {
			rests = busy
			run := "1"
			if rests {
				run = "0"
			}
			if err := linux.SetKSM("run", run); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
		}
	}
}

func scans() (uint64, error) { return figure("full_scans") }

func figure(name string) (uint64, error) {
	text, err := linux.KSM(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

// mergesAlone refuses as long as a process offers its memory that is not of a seed that is merged, of the one namespace. some: there are such, or ksmd would not even scan.
func (p *Pool) mergesAlone() (some bool, err error) {
	ours, namespaces, err := p.offering()
	if err != nil {
		return false, err
	}
	if len(namespaces) > 1 {
		return false, fmt.Errorf("there are instances of several namespaces whose memory is offered: %v", namespaces)
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return false, err
	}
	for _, process := range all {
		if ours[process.PID] {
			continue
		}
		offers, err := linux.OffersMemory(process.PID)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !offers {
			continue
		}
		// It may be one that was started since the list was made.
		if again, _, err := p.offering(); err != nil || again[process.PID] {
			continue
		}
		name, _ := process.Comm()
		return false, fmt.Errorf("process %d (%s) offers memory to be merged, and is not of these seeds", process.PID, name)
	}
	return len(ours) > 0, nil
}

// offering lists the processes that may offer memory: the keepers of the seeds that are merged, what they have started, and all processes of their instances, wherever
// those have gone; and the namespaces that they belong to.
func (p *Pool) offering() (pids map[int]bool, namespaces []string, err error) {
	type one struct {
		namespace string
		pid       int64
	}
	var roots, keepers []one
	p.mu.Lock()
	for _, s := range p.seeds {
		if s.meta.Boot.GetMerge() && s.keeperPID != 0 {
			keepers = append(keepers, one{s.namespace, s.keeperPID})
		}
	}
	for _, i := range p.instances {
		if s := p.seeds[i.seed]; s != nil && s.meta.Boot.GetMerge() && i.row.Instance.Pid != 0 {
			roots = append(roots, one{s.namespace, int64(i.row.Instance.Pid)})
		}
	}
	p.mu.Unlock()
	pids = make(map[int]bool)
	for _, k := range keepers {
		pids[int(k.pid)] = true
		children, err := linux.Children(int(k.pid))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return nil, nil, err
		}
		for _, child := range children {
			pids[child] = true
		}
		namespaces = append(namespaces, k.namespace)
	}
	for _, r := range roots {
		cgroup, err := linux.UnifiedPath(int(r.pid))
		if err != nil || cgroup == "/" {
			continue // it has ended
		}
		below, err := linux.Cgroup{Path: cgroup}.ProcsBelow()
		if err != nil {
			return nil, nil, err
		}
		for _, pid := range below {
			pids[pid] = true
		}
		namespaces = append(namespaces, r.namespace)
	}
	slices.Sort(namespaces)
	return pids, slices.Compact(namespaces), nil
}

// savedSettings are what ksmd had before a burst, in one boot of the machine.
type savedSettings struct {
	Boot     string            `json:"boot"`
	Settings map[string]string `json:"settings"`
}

// saveSettings writes down what a burst changes before it does.
func (p *Pool) saveSettings() error {
	saved := savedSettings{p.boot, make(map[string]string)}
	for _, s := range burstSettings {
		value, err := linux.KSM(s.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		saved.Settings[s.name] = chosen(value)
	}
	data, err := json.Marshal(saved)
	if err != nil {
		return err
	}
	// A file that was cut must not be taken for settings.
	fresh := p.paths.MergingFile() + ".new"
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, p.paths.MergingFile())
}

// chosen is the word in brackets of a setting that shows all the words that it knows.
func chosen(value string) string {
	if _, rest, found := strings.Cut(value, "["); found {
		value, _, _ = strings.Cut(rest, "]")
	}
	return value
}

// recoverMerging puts back the settings that ksmd had before a burst that has ended or was cut.
func (p *Pool) recoverMerging(context.Context) error {
	data, err := os.ReadFile(p.paths.MergingFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var saved savedSettings
	if err := json.Unmarshal(data, &saved); err != nil {
		return fmt.Errorf("parse %s: %w", p.paths.MergingFile(), err)
	}
	var errs []error
	// The other way round: it rests before anything else changes.
	for _, s := range slices.Backward(burstSettings) {
		if value, ok := saved.Settings[s.name]; ok && saved.Boot == p.boot {
			errs = append(errs, linux.SetKSM(s.name, value))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("put back settings of ksmd, which are in %s: %w", p.paths.MergingFile(), err)
	}
	return os.Remove(p.paths.MergingFile())
}
