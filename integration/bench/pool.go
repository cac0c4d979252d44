package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/sproutrun/sprout/integration/stack"
)

const (
	poolSpares = 5
	// poolStarts are started one after the other, each poolEvery after the one before, while the pool is filled again behind them.
	poolStarts = 100
	poolEvery  = 200 * time.Millisecond
	// burst is how many are started at the same moment from a full pool.
	burst = 20
	// bursts are tried; each is a figure of its own.
	bursts = 3
)

// anyRung is a start of which the pool decides how it is done.
var anyRung = rung{runtime: stack.Runtime, snapshotter: stack.Snapshotter}

// pooled is one start: how long it took until the task ran and until it answered, and how it was done.
type pooled struct {
	prepare, reply float64
	how            start
}

// start is the record of a start, as far as a figure needs it.
type start struct {
	Rung          string
	Fallbacks     []struct{ Rung, Reason string }
	Ahead, Phases []phase
	Rest          struct {
		Asleep      bool
		Bytes, Full uint64 `json:",string"`
		Phases      []phase
	}
}

type phase struct {
	Name        string
	Nanoseconds int64 `json:",string"`
}

// inShim is what all phases took, in ms: what was done ahead counts, and the wait for it does not.
func (r start) inShim() (sum float64) {
	for _, p := range slices.Concat(r.Ahead, r.Phases) {
		if p.Name != "reserved" {
			sum += ms(time.Duration(p.Nanoseconds))
		}
	}
	return sum
}

// benchPool measures what a pool is worth when starts do not wait until it is full again: one after the other, and many at once.
func benchPool(ctx context.Context, s *stack.Stack, r *results) error {
	a := apps[slices.IndexFunc(apps, func(a app) bool { return a.name == "tomcat" })]
	if _, err := s.Sprout(ctx, "seed", "bake", "--image", stack.Ref(a.image), "--name", a.name, "--mode", "clone", "--ready", "http://:"+port+"/", "--warmup", fmt.Sprint(a.warmup)); err != nil {
		return err
	}
	if err := fillPool(ctx, s, a); err != nil {
		return err
	}
	if err := startSteadily(ctx, s, r, a); err != nil {
		return fmt.Errorf("one after the other: %w", err)
	}
	for n := range bursts {
		if err := fillPool(ctx, s, a); err != nil {
			return err
		}
		if err := startAtOnce(ctx, s, r, a, n); err != nil {
			return fmt.Errorf("at once: %w", err)
		}
	}
	_, err := s.Sprout(ctx, "seed", "rm", a.name)
	return err
}

// fillPool waits until there are as many spares as there shall be, and lets the machine rest.
func fillPool(ctx context.Context, s *stack.Stack, a app) error {
	if _, err := s.Sprout(ctx, "pool", "set", a.name, "--spares", fmt.Sprint(poolSpares), "--wait"); err != nil {
		return err
	}
	return pause(ctx, time.Second)
}

// startSteadily starts one container after the other, at a fixed pace, and removes each once it has answered.
func startSteadily(ctx context.Context, s *stack.Stack, r *results, a app) error {
	pace := time.NewTicker(poolEvery)
	defer pace.Stop()
	var all []start
	for n := range poolStarts {
		id := fmt.Sprintf("%s-steady-%d", a.name, n)
		one, err := startPooled(ctx, s, a, id)
		if err != nil {
			return err
		}
		if one.how, err = recordOf(ctx, s, id); err != nil {
			return err
		}
		all = append(all, one.how)
		r.add("pool", a.name, "pool", "prepare_to_start_ms", "ms", one.prepare)
		r.add("pool", a.name, "pool", "first_reply_ms", "ms", one.reply)
		if err := s.RemoveAll(ctx); err != nil {
			return err
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	addShares(r, a, "steady", all)
	return nil
}

// startAtOnce starts many containers at the same moment; all of them have to answer.
func startAtOnce(ctx context.Context, s *stack.Stack, r *results, a app, round int) error {
	type outcome struct {
		id string
		pooled
		err error
	}
	ended := make(chan outcome, burst)
	from := time.Now()
	for n := range burst {
		id := fmt.Sprintf("%s-burst-%d-%d", a.name, round, n)
		go func() {
			one, err := startPooled(ctx, s, a, id)
			ended <- outcome{id, one, err}
		}()
	}
	var list []outcome
	for range burst {
		list = append(list, <-ended)
	}
	took := ms(time.Since(from))
	var all []start
	for _, one := range list {
		if one.err != nil {
			return fmt.Errorf("%s: %w", one.id, one.err)
		}
		how, err := recordOf(ctx, s, one.id)
		if err != nil {
			return err
		}
		all = append(all, how)
		r.add("pool", a.name, how.Rung, "burst_first_reply_ms", "ms", one.reply)
	}
	r.add("pool", a.name, "pool", "burst_all_answer_ms", "ms", took)
	addShares(r, a, "burst", all)
	return s.RemoveAll(ctx)
}

// startPooled starts a container by whatever rung there is and waits for its first reply.
func startPooled(ctx context.Context, s *stack.Stack, a app, id string) (one pooled, err error) {
	from := time.Now()
	var task containerd.Task
	if task, err = startOf(s.Context(ctx), s, a, anyRung, id); err != nil {
		return one, err
	}
	one.prepare = ms(time.Since(from))
	if err := stack.AwaitReply(ctx, int(task.Pid()), port, time.Minute); err != nil {
		return one, err
	}
	one.reply = ms(time.Since(from))
	return one, nil
}

// recordOf reads the record of a start. It is written a moment after Start has returned.
func recordOf(ctx context.Context, s *stack.Stack, id string) (start, error) {
	if _, err := s.Explain(id); err != nil {
		return start{}, err
	}
	out, err := s.Sprout(ctx, "explain", id, "--json")
	if err != nil {
		return start{}, err
	}
	var records []start
	if err := json.Unmarshal([]byte(out), &records); err != nil || len(records) == 0 {
		return start{}, fmt.Errorf("read %q: %w", out, err)
	}
	return records[0], nil
}

// addShares counts the rungs by which some starts were done, in percent, and says why the rungs above were not to be had.
func addShares(r *results, a app, when string, all []start) {
	count := make(map[string]int)
	why := make(map[string]int)
	for _, one := range all {
		count[one.Rung]++
		for _, f := range one.Fallbacks {
			why[f.Rung+": "+f.Reason]++
		}
	}
	for _, rung := range []string{"thaw", "fork", "restore", "cold"} {
		r.add("pool", a.name, rung, when+"_share", "%", 100*float64(count[rung])/float64(len(all)))
	}
	var reasons []string
	for reason, n := range why {
		reasons = append(reasons, fmt.Sprintf("%s ×%d", reason, n))
	}
	slices.Sort(reasons)
	fmt.Fprintf(os.Stderr, "bench: pool: %s: %d starts, passed over: %s\n", when, len(all), strings.Join(reasons, ", "))
}
