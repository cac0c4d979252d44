package restore

import (
	"errors"
	"slices"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// heldSpaces are address spaces that somebody else serves.
type heldSpaces struct {
	list []linux.HeldUserfaultfd
	// sweep is how many there are when the dead ones are looked for.
	sweep int
}

func (h *heldSpaces) add(u linux.HeldUserfaultfd) {
	if len(h.list) >= max(h.sweep, leastSweep) {
		h.list = slices.DeleteFunc(h.list, func(u linux.HeldUserfaultfd) bool { return !u.Alive() && u.Close() == nil })
		h.sweep = 2*len(h.list) + leastSweep
	}
	h.list = append(h.list, u)
}

// close lets go of all.
func (h *heldSpaces) close() error {
	var errs []error
	for _, u := range h.list {
		errs = append(errs, u.Close())
	}
	h.list = nil
	return errors.Join(errs...)
}
