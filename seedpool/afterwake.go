package seedpool

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/signal"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

// Kinds of what is done when an instance wakes.
const (
	// AfterWakeSignal sends the target to the first process, before it runs again: a signal is pending when it does. Nobody waits for what becomes of it.
	AfterWakeSignal = "signal"
	// AfterWakeHTTP asks for the target until it is answered with a status from 200 to 399.
	AfterWakeHTTP = "http"
	// AfterWakeExec runs the target in the container, as its user, and waits until it exits with 0.
	AfterWakeExec = "exec"
)

// DefaultAfterWakeTimeout is how long http and exec may take when the bake does not say: the client waits for them.
const DefaultAfterWakeTimeout = 5 * time.Second

const afterWakeForms = "accepted: signal=URG, http://:8080/path, exec=<command with arguments>"

// ParseAfterWake reads what to do as a user writes it: signal=URG, http://:8080/path or exec=<command with arguments>.
func ParseAfterWake(s string, timeout time.Duration, optional bool) (*api.AfterWake, error) {
	a := &api.AfterWake{TimeoutNanoseconds: timeout.Nanoseconds(), IgnoreFailure: optional}
	if name, ok := strings.CutPrefix(s, AfterWakeSignal+"="); ok {
		a.Kind, a.Target = AfterWakeSignal, name
	} else if r, err := bake.ParseReadiness(s); err == nil {
		a.Kind, a.Target = string(r.Kind), r.Target
	}
	if err := CheckAfterWake(a); err != nil {
		return nil, fmt.Errorf("parse %q: %w", s, err)
	}
	return a, nil
}

// CheckAfterWake says what is wrong with one that came over the API. None is right.
func CheckAfterWake(a *api.AfterWake) error {
	if a == nil {
		return nil
	}
	switch a.Kind {
	case AfterWakeSignal:
		if _, err := AfterWakeNumber(a); err != nil {
			return fmt.Errorf("%w: want a name, such as URG or USR1", err)
		}
	case AfterWakeHTTP, AfterWakeExec:
		if _, err := bake.ReadinessOf(&api.Readiness{Kind: a.Kind, Target: a.Target}); err != nil {
			return err
		}
	default:
		return errors.New(afterWakeForms)
	}
	if a.TimeoutNanoseconds <= 0 {
		return fmt.Errorf("timeout %s: want more than 0", time.Duration(a.TimeoutNanoseconds))
	}
	return nil
}

// AfterWakeNumber is the number of a signal by its name, with or without SIG.
func AfterWakeNumber(a *api.AfterWake) (syscall.Signal, error) {
	return signal.ParseSignal(a.GetTarget())
}

// AfterWakeText is the form that ParseAfterWake accepts, for people; empty: nothing is done.
func AfterWakeText(a *api.AfterWake) string {
	switch {
	case a == nil:
		return ""
	case a.Kind == AfterWakeHTTP:
		return a.Target
	}
	return a.Kind + "=" + a.Target
}
