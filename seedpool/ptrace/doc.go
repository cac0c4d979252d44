// Package ptrace is the second door to the kernel (the first is seedpool/linux): it stops the threads of a process that somebody else runs, reads and
// writes their registers, signal masks and memory, and makes them call the kernel.
//
// Life of a Tracee: Seize (it runs on) → Interrupt (it is stopped, where a signal would be delivered) → Regs, XState, Memory, Syscall, Run, in any order and
// any number → Detach (it goes on where it was, and restarts a system call that the stop interrupted). A thread that was in group-stop (SIGSTOP) when
// it was seized is so again after Detach, and does not run one instruction of its own in between.
//
// One Tracer is one OS thread: the kernel takes ptrace calls only from the thread that attached. Its goroutine is locked to that thread and never unlocks;
// Close ends both, and the kernel then detaches whatever was left. Calls from several goroutines take turns.
//
// An injected call borrows a `syscall` instruction of the vDSO, so no byte of the process is changed. While it is away from its own work a thread has all signals
// blocked. Whatever happens then that was not foreseen (a fault, an exit) poisons the Tracee: every later call returns the first error, and
// the owner decides what to do with a process whose registers cannot be trusted. ExitKill is for copies of our own making, never for a user's process.
//
// Limits: x86-64. A thread in uninterruptible sleep, or in a frozen cgroup, does not stop or does not run; the context ends the wait.
//
// Kernel needs: PTRACE_SEIZE (3.4), PTRACE_GETSIGMASK (3.11), PTRACE_GET_RSEQ_CONFIGURATION (5.13).
package ptrace
