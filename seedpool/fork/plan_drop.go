package fork

import (
	"encoding/binary"
	"fmt"
)

// Origin is what a template was before it was given the privileges to make clones and a place in another pid namespace: what its clones are to be before the first
// instruction of the application. Bounding set, ambient set, user and group ids and no_new_privs are the template's.
type Origin struct {
	// Tids are the ids of the clones' threads, by the ids that the template's have in its own pid namespace, for all processes of a tree; nil: they are the same.
	Tids map[int]int
	// Capability sets, bit n is capability n.
	Effective, Permitted, Inheritable uint64
	// Filter is a seccomp filter for all threads, an array of struct sock_filter, with its SECCOMP_FILTER_FLAG_*; empty is none.
	Filter      []byte
	FilterFlags uint32
}

// renumber gives the threads the ids that their clones are to have.
func (o *Origin) renumber(p *Process) error {
	if o == nil || o.Tids == nil {
		return nil
	}
	given := make(map[int]bool)
	for n, t := range p.Threads {
		tid, known := o.Tids[t.Tid]
		if !known || given[tid] {
			return fmt.Errorf("thread %d has no number of its own in the origin", t.Tid)
		}
		given[tid] = true
		p.Threads[n].Tid = tid
	}
	p.Group, p.Session = o.Tids[p.Group], o.Tids[p.Session]
	return nil
}

const (
	capabilityVersion3   = 0x20080522
	seccompSetFilter     = 1
	seccompAllThreads    = 1 // SECCOMP_FILTER_FLAG_TSYNC
	seccompErrorIfAnyNot = 1 << 4
	sockFilterSize       = 8
)

// capset makes the op by which one thread drops its capabilities.
func (p *planner) capset() []Op {
	d := p.origin
	if d == nil {
		return nil
	}
	var sets []byte
	for _, shift := range []int{0, 32} {
		for _, set := range []uint64{d.Effective, d.Permitted, d.Inheritable} {
			sets = binary.LittleEndian.AppendUint32(sets, uint32(set>>shift))
		}
	}
	return []Op{call("drop capabilities", sysCapset, p.words(capabilityVersion3), p.bytes(sets, 8))}
}

// dropLast is done by the main thread when all others have dropped theirs. A filter needs either no_new_privs or a capability: with the first it is the
// very last, since it may forbid to drop anything.
func (p *planner) dropLast() []Op {
	ops := p.capset()
	if p.origin == nil || len(p.origin.Filter) == 0 {
		return ops
	}
	program := p.words(uint64(len(p.origin.Filter)/sockFilterSize), p.bytes(p.origin.Filter, 8)) // struct sock_fprog
	filter := call("install the seccomp filter", sysSeccomp, seccompSetFilter, seccompAllThreads|seccompErrorIfAnyNot|uint64(p.origin.FilterFlags), program)
	if p.process.NoNewPrivs {
		return append(ops, filter)
	}
	return append([]Op{filter}, ops...)
}
