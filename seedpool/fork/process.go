package fork

import (
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// Process is all that a clone needs to know of a stopped process beyond what fork(2) copies by itself. It is plain data: inspect fills it, plan reads it.
type Process struct {
	// PID and Children, as we number them.
	PID      int
	Children []int
	// Group and Session, as the process itself sees them. Reaper: orphans below it are its children.
	Group, Session int
	Reaper         bool
	// Member is its place in a tree; nil: it is alone.
	Member *Member
	// Threads: the main thread comes first.
	Threads []Thread
	// IPC is what is in its IPC namespace.
	IPC linux.IPC
	// VMAs by address, without the region that sprout maps itself.
	VMAs []VMA
	// Files by descriptor.
	Files []File
	// Cwd is the working directory.
	Cwd string
	// NoNewPrivs as prctl(2) has it.
	NoNewPrivs bool
	// ChildAction is the process's action on SIGCHLD, a struct kernel_sigaction.
	ChildAction []byte
	// Intervals are the three itimers: real, virtual, profiling.
	Intervals [3]Interval
	// Timers are the POSIX timers, by their numbers.
	Timers []PosixTimer
}

// Thread is one thread of a Process.
type Thread struct {
	// Tid as the process itself sees it.
	Tid  int
	Comm string
	Regs ptrace.Regs
	// XState in standard XSAVE layout.
	XState  []byte
	SigMask uint64
	// AltStack is a struct sigaltstack.
	AltStack []byte
	// RobustHead and RobustLen: the list of robust futexes; 0 if it has none.
	RobustHead, RobustLen uint64
	Rseq                  ptrace.RseqConfig
	// ClearTid is the word that the kernel clears when the thread ends (set_tid_address).
	ClearTid uint64
}

// Interval is an itimer or timerfd: it fires after Value, then every Every. Zero is off.
type Interval struct{ Every, Value time.Duration }

// VMA is one mapping, a line of maps with the flags of smaps.
type VMA struct {
	Start, End uint64
	// Perms like "rw-p".
	Perms  string
	Offset uint64
	Device string
	Inode  uint64
	Path   string
	// Flags are the two-letter codes of VmFlags.
	Flags []string
	// Data are the parts of shared anonymous memory that are no holes, as offsets like Offset.
	Data []linux.Range
}

// File is one descriptor.
type File struct {
	FD   int
	Kind Kind
	// Path of what is opened by path, or the link's text.
	Path string
	// Flags as for open(2), with O_CLOEXEC.
	Flags int
	Pos   int64
	// Same is the lowest descriptor of the same open file (dup), FD itself if there is none lower.
	Same int
	// From is, of KindTaken, the first process's descriptor of the same open file; of KindAgain the standard stream.
	From int
	// Owner gets its signals; nil: nobody, and the usual signal.
	Owner *Owner
	// Holder is who has it, as we number them, under the number Held: what is made by the first process of a tree may be another's.
	Holder, Held int
	// Inode is that of a pipe, whose ends both have it, or of a socket.
	Inode uint64
	// Count and Semaphore of an eventfd.
	Count     uint64
	Semaphore bool
	// Watches of an epoll instance.
	Watches []Watch
	// Clock and Timer of a timerfd.
	Clock int
	Timer Interval
	// Mask of a signalfd.
	Mask uint64
	// Notify are the watches of an inotify descriptor, by their numbers.
	Notify []linux.Watch
	// Status of an unlinked file.
	Status *Status
	// Size of a pipe in bytes; Content is what waits in it, or in a connection, given with the end to read from, or what is in an unlinked file.
	Size    int
	Content []byte
	// Socket, if it is one. Link and Node are a unix socket's: what it is connected to, and the file at Path that it is bound to; nil: none.
	Socket *linux.Socket
	Link   linux.UnixLink
	Node   *Node
}

// Status is what stat(2) says of a file, as far as it can be made so again.
type Status struct {
	Mode, UID, GID uint32
	// Times of the last access and the last change, a struct timespec each.
	Times [4]uint64
}

// Kind is what a descriptor is.
type Kind string

// Kinds that a clone can be given. Taken is what a child gets from the first process. Stdio is a descriptor that leads out of the process by a pipe, of which every clone is given its own,
// and Again one that has opened such a pipe once more.
const (
	KindRegular Kind = "regular"
	KindDir     Kind = "directory"
	KindChar    Kind = "char"
	KindPipe    Kind = "pipe"
	KindStdio   Kind = "stdio"
	KindAgain   Kind = "stdio-again"
	KindEvent   Kind = "eventfd"
	KindEpoll   Kind = "epoll"
	KindTimer   Kind = "timerfd"
	KindSignal  Kind = "signalfd"
	KindSocket  Kind = "socket"
	KindTaken   Kind = "taken"
	KindDeleted Kind = "deleted"
	KindNotify  Kind = "inotify"
)

// Node is what a clone's socket file is to be like.
type Node struct {
	Mode     uint32
	UID, GID int
}

// Watch is one registration in an epoll instance.
type Watch struct {
	FD     int
	Events uint32
	Data   uint64
	Inode  uint64
}

// Refusal says why a process cannot be cloned, and what could be done about it.
type Refusal struct {
	Code Code
	// What exactly was met, for people.
	What string
	// Fix is what the owner of the application or of the host could change; empty if nothing.
	Fix string
}

// TryAgain is the Fix of a refusal that passes by itself: the process was met at a bad moment.
const TryAgain = "try again"

// Code names a refusal for machines.
type Code string

// All codes.
const (
	CodeNotInit    Code = "not-init"
	CodeChildren   Code = "children"
	CodeGroup      Code = "process-group"
	CodeSeccomp    Code = "seccomp"
	CodeFilter     Code = "seccomp-filter"
	CodePending    Code = "signal-pending"
	CodePrivileges Code = "thread-credentials"
	CodeScheduling Code = "thread-scheduling"
	CodeTimer      Code = "posix-timer"
	CodeRegisters  Code = "registers"
	CodeMapping    Code = "mapping"
	CodeLazy       Code = "lazy-memory"
	CodeShared     Code = "shared-file-mapping"
	CodeFile       Code = "file"
	CodeUnlinked   Code = "file-unlinked"
	CodeRoot       Code = "root"
	CodeSysV       Code = "sysv-ipc"
	CodeLocked     Code = "file-locked"
	CodeDevice     Code = "device"
	CodePipe       Code = "pipe"
	CodeEpoll      Code = "epoll"
	CodeNotify     Code = "inotify"
	CodeSocket     Code = "socket"
	CodeConnected  Code = "socket-connected"
	CodeMPTCP      Code = "socket-mptcp"
)
