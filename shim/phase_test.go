package shim

import (
	"errors"
	"testing"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
)

func TestOnlyTheMovesOfTheTableAreLegal(t *testing.T) {
	all := []phase{phaseCreated, phaseRunning, phasePaused, phaseDozing, phaseAsleep, phaseWaking, phaseStopped, phaseDeleted}
	legal := map[[2]phase]bool{
		{phaseCreated, phaseRunning}: true,
		{phaseCreated, phaseStopped}: true,
		{phaseRunning, phasePaused}:  true,
		{phaseRunning, phaseStopped}: true,
		{phasePaused, phaseRunning}:  true,
		{phasePaused, phaseStopped}:  true,
		{phaseRunning, phaseDozing}:  true,
		{phaseDozing, phaseRunning}:  true,
		{phaseDozing, phaseAsleep}:   true,
		{phaseDozing, phaseStopped}:  true,
		{phaseAsleep, phaseWaking}:   true,
		{phaseAsleep, phaseStopped}:  true,
		{phaseWaking, phaseAsleep}:   true,
		{phaseWaking, phaseRunning}:  true,
		{phaseWaking, phaseStopped}:  true,
		{phaseStopped, phaseDeleted}: true,
	}
	for _, from := range all {
		for _, to := range all {
			err := from.check("c1", to)
			if legal[[2]phase{from, to}] {
				if err != nil {
					t.Errorf("%s to %s: %v, want it allowed", from, to, err)
				}
				continue
			}
			var pe *phaseError
			if !errors.As(err, &pe) || !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("%s to %s: %v, want a phaseError that is a failed precondition", from, to, err)
			}
		}
	}
}

func TestEveryPhaseHasAStatusOfContainerd(t *testing.T) {
	for _, p := range []phase{phaseCreated, phaseRunning, phasePaused, phaseDozing, phaseAsleep, phaseWaking, phaseStopped, phaseDeleted} {
		if p.status() == task.Status_UNKNOWN {
			t.Errorf("phase %s has no status", p)
		}
	}
}
