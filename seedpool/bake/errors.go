package bake

import (
	"errors"
	"strings"

	"github.com/sproutrun/sprout/seedpool/restore"
)

// Step is a part of a bake; the words are those of api.BakeEvent.
type Step string

// The steps, in order: a bake ends with dump, the boot of a spare with hold. Clean reports nothing of its own: it is seen only in errors.
const (
	StepPrepare Step = "prepare"
	StepBoot    Step = "boot"
	StepReady   Step = "ready"
	StepWarmup  Step = "warmup"
	StepTrim    Step = "trim"
	StepSettle  Step = "settle"
	StepDump    Step = "dump"
	StepHold    Step = "hold"
	StepClean   Step = "clean"
)

// purpose says in an error what the step was for.
var purpose = map[Step]string{
	StepPrepare: "prepare bake",
	StepBoot:    "boot container",
	StepReady:   "wait until ready",
	StepWarmup:  "warm up app",
	StepTrim:    "trim app",
	StepSettle:  "let the app settle",
	StepDump:    "dump container",
	StepHold:    "freeze app",
	StepClean:   "remove bake",
}

// Error is a bake that ended without an image.
type Error struct {
	Step Step
	// Hint is what to try; empty when nothing better is known than the error itself.
	Hint string
	// AppLog are the last lines that the app wrote, oldest first, at most 20. They are safe for a terminal.
	AppLog []string
	// CRIULog are the last lines of CRIU's log, at most 20; only a failed dump has them.
	CRIULog []string
	Err     error
}

func (e *Error) Error() string { return purpose[e.Step] + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Report is the error with all that was seen, in lines for a person.
func (e *Error) Report() string {
	var b strings.Builder
	b.WriteString(e.Error())
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	for _, part := range []struct {
		heading string
		lines   []string
	}{{"last lines of the app", e.AppLog}, {"last lines of CRIU's log", e.CRIULog}} {
		if len(part.lines) > 0 {
			b.WriteString("\n" + part.heading + ":\n  " + strings.Join(part.lines, "\n  "))
		}
	}
	return b.String()
}

// hinted is an error that brings its own hint.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// newError wraps what went wrong in step. The app's lines are shown for every step in which the app ran.
func newError(step Step, err error, app []string) *Error {
	e := &Error{Step: step, Err: err, AppLog: app}
	if h, ok := errors.AsType[hinted](err); ok {
		e.Hint = h.hint
	}
	if c, ok := errors.AsType[*restore.Error](err); ok {
		for _, line := range c.Log {
			e.CRIULog = append(e.CRIULog, printable(line))
		}
		if e.Hint == "" {
			e.Hint = criuHint(c.Log)
		}
	}
	return e
}
