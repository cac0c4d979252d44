package fork

import (
	"encoding/binary"

	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// Layout of struct rt_sigframe (arch/x86/include/asm/sigframe.h, uapi/asm/{ucontext,sigcontext}.h), which rt_sigreturn(2) takes a thread's whole state from.
const (
	frameAltStack  = 24
	frameRegs      = 48
	frameSegments  = frameRegs + 18*8
	frameXState    = frameRegs + 23*8 // address of the extended registers
	frameMask      = frameRegs + 256
	frameEnd       = frameMask + 8 + 128 // siginfo
	frameAlign     = 64
	xstateSoftware = 464 // where the XSAVE area says what it holds, in bytes that the CPU leaves to software

	ucExtended, ucSegments, ucStrictStack = 1, 2, 4 // uc_flags
	magicFirst, magicLast                 = 0x46505853, 0x46505845
	// returnAddress: a handler's return has taken this much off the stack when rt_sigreturn runs.
	returnAddress = 8
)

// xsave says how large an XSAVE area a signal frame of this machine has, and of which components.
type xsave struct {
	components uint64
	size       uint32
}

// signalFrame is how the extended registers of a thread go into a frame: the components that the kernel has enabled (it writes them to the software bytes
// of what ptrace reads), without the tiles of AMX. ptrace gives more bytes than a frame may have.
func signalFrame(t Thread) xsave {
	components := binary.LittleEndian.Uint64(t.XState[xstateSoftware:]) &^ tileComponents
	return xsave{components, ptrace.XSaveSize(components)}
}

// frame places a thread's signal frame and returns the stack pointer for rt_sigreturn.
func (p *program) frame(t Thread, x xsave) uint64 {
	b := make([]byte, frameEnd)
	le := binary.LittleEndian
	le.PutUint64(b[8:], ucExtended|ucSegments|ucStrictStack)
	copy(b[frameAltStack:], t.AltStack)
	r := restarted(t.Regs)
	for i, v := range []uint64{
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx, r.Rsp, r.Rip, r.Eflags,
	} {
		le.PutUint64(b[frameRegs+8*i:], v)
	}
	le.PutUint16(b[frameSegments:], uint16(r.Cs))
	le.PutUint16(b[frameSegments+6:], uint16(r.Ss))
	le.PutUint64(b[frameMask:], t.SigMask)
	for len(b)%frameAlign != 0 {
		b = append(b, 0)
	}
	state := append([]byte(nil), t.XState[:min(len(t.XState), int(x.size))]...)
	state = append(state, make([]byte, int(x.size)-len(state)+4)...)
	le.PutUint64(state[usedComponents:], le.Uint64(state[usedComponents:])&x.components)
	software := state[xstateSoftware : xstateSoftware+48]
	clear(software)
	le.PutUint32(software[0:], magicFirst)
	le.PutUint32(software[4:], x.size+4)
	le.PutUint64(software[8:], x.components)
	le.PutUint32(software[16:], x.size)
	le.PutUint32(state[x.size:], magicLast)

	at := p.bytes(b, frameAlign)
	area := p.bytes(state, frameAlign)
	le.PutUint64(p.data[at-p.base+frameXState:], area)
	return at + returnAddress
}

// What the kernel leaves in rax of a call that it means to restart (include/linux/errno.h).
const (
	restartSys, restartNoIntr, restartNoHand, restartBlock = -512, -513, -514, -516
	syscallLength                                          = 2
	interrupted                                            = -4 // EINTR
)

// restarted does what the kernel would do on the way out of the stop: the call begins again. A call that the kernel would go on with by restart_syscall(2), whose
// state is not copied to a clone, begins again too if it takes a time span: it then waits too long at worst, where EINTR would come as a surprise.
func restarted(r ptrace.Regs) ptrace.Regs {
	const poll, nanosleep, clockNanosleep = 7, 35, 230
	if int64(r.Orig_rax) < 0 {
		return r
	}
	again := false
	switch int64(r.Rax) {
	case restartSys, restartNoIntr, restartNoHand:
		again = true
	case restartBlock:
		again = r.Orig_rax == poll || r.Orig_rax == nanosleep || r.Orig_rax == clockNanosleep || r.Orig_rax == sysFutex
		if !again {
			r.Rax = ^uint64(-interrupted - 1)
		}
	}
	if again {
		r.Rax, r.Rip = r.Orig_rax, r.Rip-syscallLength
	}
	return r
}
