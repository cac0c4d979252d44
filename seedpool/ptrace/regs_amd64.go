package ptrace

import (
	"os"

	"golang.org/x/sys/unix"
)

// Regs are the general registers of x86-64, with the bases of fs and gs.
type Regs unix.PtraceRegs

func getRegs(tid int) (Regs, error) {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return Regs{}, os.NewSyscallError("ptrace getregs", err)
	}
	return Regs(r), nil
}

func setRegs(tid int, r Regs) error {
	return os.NewSyscallError("ptrace setregs", unix.PtraceSetRegs(tid, (*unix.PtraceRegs)(&r)))
}

// RseqConfig is a restartable-sequence registration (rseq(2)).
type RseqConfig struct {
	Pointer          uint64
	Size             uint32
	Signature, Flags uint32
}
