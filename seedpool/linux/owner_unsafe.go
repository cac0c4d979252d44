package linux

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of fcntl(2) (include/uapi/asm-generic/fcntl.h).
const (
	fcntlGetSignal    = 11
	fcntlGetOwnerUIDs = 17
)

// Owner is who gets the signals of a descriptor, as F_GETOWN_EX has it.
type Owner struct {
	// Kind is F_OWNER_*, ID a thread, a process or a group as we number them; 0: nobody.
	Kind, ID int
	// Signal is what is sent; 0: SIGIO.
	Signal int
	// UID and EUID are those of who has set it.
	UID, EUID int
}

// Owner asks who gets the signals of a descriptor of the process.
func (p *Pidfd) Owner(fd int) (o Owner, err error) {
	err = p.borrow(fd, func(fd int) error {
		var owner [2]int32 // struct f_owner_ex
		if _, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETOWN_EX, uintptr(unsafe.Pointer(&owner))); errno != 0 {
			return os.NewSyscallError("fcntl F_GETOWN_EX", errno)
		}
		o.Kind, o.ID = int(owner[0]), int(owner[1])
		var ids [2]uint32
		if _, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), fcntlGetOwnerUIDs, uintptr(unsafe.Pointer(&ids))); errno != 0 {
			return os.NewSyscallError("fcntl F_GETOWNER_UIDS", errno)
		}
		o.UID, o.EUID = int(ids[0]), int(ids[1])
		o.Signal, err = unix.FcntlInt(uintptr(fd), fcntlGetSignal, 0)
		return os.NewSyscallError("fcntl F_GETSIG", err)
	})
	return o, err
}
