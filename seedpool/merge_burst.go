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
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// mergeLook is how often a burst looks how far ksmd is, and who else is there: there is no event for either.
	mergeLook = 50 * time.Millisecond
	// mergeScans must have begun after the last spare and ended. The first finds what does not change, the second what is equal; one more is under way when a burst begins.
	mergeScans = 3
	// mergeWithin bounds a burst.
	mergeWithin = 2 * time.Minute
)

// burstSettings have ksmd scan quickly, and skip nothing. run is the last: with it ksmd begins.
var burstSettings = []struct{ name, value string }{{"smart_scan", "0"}, {"advisor_mode", "none"}, {"sleep_millisecs", "10"}, {"pages_to_scan", "20000"}, {"run", "1"}}

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
	keepers, instances := make(map[int]string), make(map[int]string)
	p.mu.Lock()
	for _, s := range p.seeds {
		if s.meta.Boot.GetMerge() && s.keeperPID != 0 {
			keepers[int(s.keeperPID)] = s.namespace
		}
	}
	for _, i := range p.instances {
		if s := p.seeds[i.seed]; s != nil && s.meta.Boot.GetMerge() && i.row.Instance.Pid != 0 {
			instances[int(i.row.Instance.Pid)] = s.namespace
		}
	}
	p.mu.Unlock()
	pids = make(map[int]bool)
	for _, group := range []struct {
		roots map[int]string
		of    func(pid int) ([]int, error)
	}{{keepers, withChildren}, {instances, inItsCgroup}} {
		for root, namespace := range group.roots {
			list, err := group.of(root)
			if err != nil {
				return nil, nil, err
			}
			for _, pid := range list {
				pids[pid] = true
			}
			if !slices.Contains(namespaces, namespace) {
				namespaces = append(namespaces, namespace)
			}
		}
	}
	return pids, namespaces, nil
}

func withChildren(pid int) ([]int, error) {
	children, err := linux.Children(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		err = nil
	}
	return append(children, pid), err
}

// inItsCgroup are the processes where one is; none: it has ended.
func inItsCgroup(pid int) ([]int, error) {
	cgroup, err := linux.UnifiedPath(pid)
	if err != nil || cgroup == "/" {
		return nil, nil
	}
	return linux.Cgroup{Path: cgroup}.ProcsBelow()
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
