package fork

import "encoding/binary"

// Drop is what the threads of a clone lose before the first instruction of the application: a template that may make clones has more privileges than they
// are to have. Bounding set, ambient set, ids, groups and no_new_privs are the template's.
type Drop struct {
	// Capability sets, bit n is capability n.
	Effective, Permitted, Inheritable uint64
	// Filter is a seccomp filter for all threads, an array of struct sock_filter; empty is none. It must let through what a clone does after it is installed: capset
	// (unless no_new_privs is set), writev, read, close, close_range, futex, rt_sigreturn.
	Filter []byte
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
	d := p.drop
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
	if p.drop == nil || len(p.drop.Filter) == 0 {
		return ops
	}
	program := p.words(uint64(len(p.drop.Filter)/sockFilterSize), p.bytes(p.drop.Filter, 8)) // struct sock_fprog
	filter := call("install the seccomp filter", sysSeccomp, seccompSetFilter, seccompAllThreads|seccompErrorIfAnyNot, program)
	if p.process.NoNewPrivs {
		return append(ops, filter)
	}
	return append([]Op{filter}, ops...)
}
