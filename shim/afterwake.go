package shim

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

// signalWaking sends the signal that tells the app it was woken, if that is how it is told. It is frozen still: the signal is pending when it runs.
func (t *wokenTask) signalWaking() error {
	if t.afterWake.GetKind() != seedpool.AfterWakeSignal {
		return nil
	}
	sig, err := seedpool.AfterWakeNumber(t.afterWake)
	if err != nil {
		return err
	}
	return t.now().pidfd.Signal(sig)
}

// tellWoken asks the app, which runs, to do what it has to when it was woken, and waits until it has. A failure ends the container, as that of a poststart hook does, unless
// the seed says that it may.
func (t *wokenTask) tellWoken(ctx context.Context, record *startRecord) error {
	var ask func(context.Context, *api.AfterWake) error
	switch t.afterWake.GetKind() {
	case seedpool.AfterWakeHTTP:
		ask = t.askWoken
	case seedpool.AfterWakeExec:
		ask = t.execWoken
	default:
		return nil
	}
	stop := record.time("after-wake")
	err := ask(ctx, t.afterWake)
	stop()
	if err == nil {
		return nil
	}
	entry := log.G(ctx).WithError(err).WithField("id", t.id)
	if t.afterWake.IgnoreFailure {
		entry.Warn("after wake: the container runs on")
		return nil
	}
	if kerr := t.now().pidfd.Signal(sigkill); kerr != nil {
		log.G(ctx).WithError(kerr).Warn("kill task that could not be told it was woken")
	}
	return fmt.Errorf("after wake of task %s: %s: %w (a seed baked with --after-wake-optional lets it run)", t.id, seedpool.AfterWakeText(t.afterWake), err)
}

// askWoken asks for a URL until it is answered well.
func (t *wokenTask) askWoken(ctx context.Context, a *api.AfterWake) error {
	r, err := bake.ReadinessOf(&api.Readiness{Kind: a.Kind, Target: a.Target, TimeoutNanoseconds: a.TimeoutNanoseconds})
	if err != nil {
		return err
	}
	return bake.Probe(ctx, int(t.pid()), r)
}

// execWoken runs a command in the container.
func (t *wokenTask) execWoken(ctx context.Context, a *api.AfterWake) error {
	words, err := bake.SplitWords(a.Target)
	if err != nil {
		return err
	}
	seconds := int((time.Duration(a.TimeoutNanoseconds) + time.Second - 1) / time.Second)
	return t.execHook(ctx, t.runtime, specs.Hook{Path: words[0], Args: words, Timeout: &seconds}, nil)
}
