package seedpool

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Phases of a seed.
const (
	SeedReady = "ready"
	SeedBad   = "bad"
	SeedStale = "stale"
)

// phase is a state in the life of an instance.
type phase string

const (
	phaseMaking  phase = "making"
	phaseReady   phase = "ready"
	phaseClaimed phase = "claimed"
	phaseBound   phase = "bound"
	phaseDying   phase = "dying"
)

// moves is the whole truth about the life of an instance. A restored one is made for its container and never stands ready. A bound one is its shim's; it is
// kept so that recovery leaves it alone. From dying the way is out: the row goes when all else has gone.
var moves = map[phase][]phase{
	phaseMaking:  {phaseReady, phaseClaimed, phaseDying},
	phaseReady:   {phaseClaimed, phaseDying},
	phaseClaimed: {phaseReady, phaseBound, phaseDying},
	phaseBound:   {phaseDying},
	phaseDying:   {},
}

// phaseError is a move that the table does not have.
type phaseError struct {
	instance string
	from, to phase
}

func (e *phaseError) Error() string {
	return fmt.Sprintf("move instance %s from %s to %s: not a legal move", e.instance, e.from, e.to)
}

func (e *phaseError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// canMove returns nil or a *phaseError.
func canMove(instance string, from, to phase) error {
	if slices.Contains(moves[from], to) {
		return nil
	}
	return &phaseError{instance, from, to}
}
