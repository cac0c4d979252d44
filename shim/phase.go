package shim

import (
	"fmt"
	"slices"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
)

// phase is where a woken task stands in its life.
type phase string

const (
	// created: bound and frozen; it has not run an instruction since its image was made.
	phaseCreated phase = "created"
	phaseRunning phase = "running"
	phasePaused  phase = "paused"
	// dozing: it is being written to disk; asleep: it is there, and has no process; waking: it is being made again.
	phaseDozing phase = "dozing"
	phaseAsleep phase = "asleep"
	phaseWaking phase = "waking"
	// stopped: its first process is gone and its exit was published.
	phaseStopped phase = "stopped"
	phaseDeleted phase = "deleted"
)

// phaseMoves is the only table of legal moves.
var phaseMoves = map[phase][]phase{
	phaseCreated: {phaseRunning, phaseStopped},
	phaseRunning: {phasePaused, phaseDozing, phaseStopped},
	phasePaused:  {phaseRunning, phaseStopped},
	phaseDozing:  {phaseRunning, phaseAsleep, phaseStopped},
	phaseAsleep:  {phaseWaking, phaseStopped},
	phaseWaking:  {phaseAsleep, phaseRunning, phaseStopped},
	phaseStopped: {phaseDeleted},
}

// phaseError says that a task is not in the phase that a request needs.
type phaseError struct {
	id       string
	from, to phase
}

func (e *phaseError) Error() string {
	return fmt.Sprintf("move task %s from %s to %s: no such move", e.id, e.from, e.to)
}

// Unwrap lets containerd's clients see a failed precondition.
func (e *phaseError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// check returns a *phaseError when the move from p to next is not in the table.
func (p phase) check(id string, next phase) error {
	if slices.Contains(phaseMoves[p], next) {
		return nil
	}
	return &phaseError{id: id, from: p, to: next}
}

// status is the phase in containerd's words; a sleeping task is a paused one, a deleted one a stopped one to those who still ask.
func (p phase) status() task.Status {
	switch p {
	case phaseCreated:
		return task.Status_CREATED
	case phaseRunning:
		return task.Status_RUNNING
	case phaseDozing:
		return task.Status_PAUSING
	case phasePaused, phaseAsleep, phaseWaking:
		return task.Status_PAUSED
	case phaseStopped, phaseDeleted:
		return task.Status_STOPPED
	}
	return task.Status_UNKNOWN
}
