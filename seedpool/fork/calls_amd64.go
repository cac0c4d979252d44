package fork

import "strconv"

// System calls of x86-64 that op lists make (arch/x86/entry/syscalls/syscall_64.tbl).
const (
	sysWrite         = 1
	sysClose         = 3
	sysLseek         = 8
	sysMmap          = 9
	sysMprotect      = 10
	sysMunmap        = 11
	sysRtSigreturn   = 15
	sysIoctl         = 16
	sysPwrite64      = 18
	sysWritev        = 20
	sysShmat         = 30
	sysMadvise       = 28
	sysSetitimer     = 38
	sysSocket        = 41
	sysConnect       = 42
	sysRecvmsg       = 47
	sysShutdown      = 48
	sysBind          = 49
	sysListen        = 50
	sysSocketpair    = 53
	sysSetsockopt    = 54
	sysClone         = 56
	sysFcntl         = 72
	sysFtruncate     = 77
	sysChdir         = 80
	sysFchdir        = 81
	sysSetsid        = 112
	sysCapset        = 126
	sysPivotRoot     = 155
	sysMount         = 165
	sysUmount2       = 166
	sysSethostname   = 170
	sysFutex         = 202
	sysSetTidAddress = 218
	sysTimerCreate   = 222
	sysTimerSettime  = 223
	sysTimerGettime  = 224
	sysTimerDelete   = 226
	sysClockGettime  = 228
	sysExitGroup     = 231
	sysEpollCtl      = 233
	sysOpenat        = 257
	sysFchownat      = 260
	sysUnlinkat      = 263
	sysFchmodat      = 268
	sysSetRobustList = 273
	sysTimerfdCreate = 283
	sysTimerfdSet    = 286
	sysSignalfd4     = 289
	sysEventfd2      = 290
	sysEpollCreate1  = 291
	sysDup3          = 292
	sysPipe2         = 293
	sysUnshare       = 272
	sysSetns         = 308
	sysSeccomp       = 317
	sysMemfdCreate   = 319
	sysMlock2        = 325
	sysInotifyAdd    = 254
	sysInotifyInit1  = 294
	sysRseq          = 334
	sysMoveMount     = 429
	sysClone3        = 435
	sysPidfdGetfd    = 438
	sysFchmod        = 91
	sysFchown        = 93
	sysUtimensat     = 280
	sysWait4         = 61
	sysSetpgid       = 109
	sysCloseRange    = 436
	sysRead          = 0
)

var callNames = map[uint64]string{
	sysRead: "read", sysWrite: "write", sysClose: "close", sysLseek: "lseek", sysMmap: "mmap", sysRtSigaction: "rt_sigaction", sysRtSigreturn: "rt_sigreturn", sysIoctl: "ioctl",
	sysPwrite64: "pwrite64", sysWritev: "writev", sysShmat: "shmat", sysSetitimer: "setitimer", sysSocket: "socket", sysSocketpair: "socketpair", sysRecvmsg: "recvmsg", sysBind: "bind", sysListen: "listen",
	sysSetsockopt: "setsockopt", sysClone: "clone", sysFcntl: "fcntl", sysFtruncate: "ftruncate", sysSetsid: "setsid", sysChdir: "chdir", sysCapset: "capset", sysSeccomp: "seccomp", sysFchdir: "fchdir", sysPivotRoot: "pivot_root", sysUmount2: "umount2", sysMoveMount: "move_mount",
	sysShutdown: "shutdown", sysFchownat: "fchownat", sysUnlinkat: "unlinkat", sysFchmodat: "fchmodat",
	sysTimerCreate: "timer_create", sysTimerSettime: "timer_settime", sysTimerDelete: "timer_delete", sysConnect: "connect",
	sysPrctl: "prctl", sysMount: "mount", sysPidfdGetfd: "pidfd_getfd", sysFchmod: "fchmod", sysFchown: "fchown", sysUtimensat: "utimensat", sysWait4: "wait4", sysSetpgid: "setpgid", sysSetns: "setns", sysUnshare: "unshare",
	sysSethostname: "sethostname", sysFutex: "futex", sysSetTidAddress: "set_tid_address", sysClockGettime: "clock_gettime", sysExitGroup: "exit_group",
	sysEpollCtl: "epoll_ctl", sysOpenat: "openat", sysSetRobustList: "set_robust_list", sysTimerfdCreate: "timerfd_create", sysTimerfdSet: "timerfd_settime",
	sysSignalfd4: "signalfd4", sysEventfd2: "eventfd2", sysEpollCreate1: "epoll_create1", sysDup3: "dup3", sysPipe2: "pipe2",
	sysInotifyInit1: "inotify_init1", sysInotifyAdd: "inotify_add_watch", sysMemfdCreate: "memfd_create", sysMlock2: "mlock2", sysRseq: "rseq", sysClone3: "clone3", sysCloseRange: "close_range",
}

func callName(nr uint64) string {
	if name, ok := callNames[nr]; ok {
		return name
	}
	return "call" + strconv.FormatUint(nr, 10)
}
