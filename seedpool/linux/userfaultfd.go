package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Userfaultfd is told of the page faults of one address space, in the ranges that are registered, and answers them. As long as any process has a duplicate of it
// open, a thread that has faulted waits for an answer; when the last one is closed the kernel answers as if there had never been one.
type Userfaultfd struct{ file *os.File }

// FaultModes are the kinds of faults of a range.
type FaultModes uint64

const (
	// FaultMissing means that there is no page.
	FaultMissing FaultModes = 1 << 0
	// FaultMinor means that the file that is mapped has a page, the address space does not map it.
	FaultMinor FaultModes = 1 << 2
)

// FaultEvent is one thing that has happened in the address space.
type FaultEvent struct {
	// Address is where a thread waits for a page; 0: it is another event, and whoever caused it goes on now.
	Address uint64
	// Write says that the thread wants to write.
	Write bool
	// Child is the Userfaultfd of an address space that a fork has made; the receiver owns it.
	Child *Userfaultfd
}

const (
	// messageSize is that of struct uffd_msg.
	messageSize    = 32
	eventPagefault = 0x12
	eventFork      = 0x13
	faultWrite     = 1 << 0
	// messages is how many are read at once.
	messages = 16
)

// The user's part of an x86-64 address space with four levels of page tables.
const (
	lowestAddress = 1 << 16
	highestPage   = 1<<47 - 4096
)

// AdoptUserfaultfd takes over a descriptor that another process has made, non-blocking, and sent.
func AdoptUserfaultfd(f *os.File) *Userfaultfd { return &Userfaultfd{f} }

// HeldUserfaultfd is a duplicate that only keeps faults waiting for an answer, also when nobody else has one any more. Its holder is told of none and costs those
// who answer nothing.
type HeldUserfaultfd struct{ fd int }

// Close lets go of it.
func (h HeldUserfaultfd) Close() error { return os.NewSyscallError("close", unix.Close(h.fd)) }

// Alive says whether there still is the address space.
func (h HeldUserfaultfd) Alive() bool { return alive(uintptr(h.fd)) }

// Serve makes of it one that is told of events; it is not to be used any more.
func (h HeldUserfaultfd) Serve() *Userfaultfd {
	return AdoptUserfaultfd(os.NewFile(uintptr(h.fd), "userfaultfd"))
}

// Close lets go of it. Events that wait stay for those who have a duplicate.
func (u *Userfaultfd) Close() error { return u.file.Close() }

// Duplicate gives the caller a descriptor of its own, which can be sent.
func (u *Userfaultfd) Duplicate() (f *os.File, err error) {
	err = u.control(func(fd uintptr) error {
		duplicate, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(duplicate), u.file.Name())
		}
		return err
	})
	return f, named("fcntl F_DUPFD_CLOEXEC", err)
}

// Register has the faults of a range, whose mappings must be anonymous or of shared memory, wait for an answer.
func (u *Userfaultfd) Register(start, length uint64, modes FaultModes) error {
	return named("ioctl UFFDIO_REGISTER", u.control(func(fd uintptr) error {
		_, err := fill(fd, uffdioRegister, start, length, uint64(modes))
		return err
	}))
}

// Unregister leaves the faults of a range to the kernel.
func (u *Userfaultfd) Unregister(start, length uint64) error {
	return named("ioctl UFFDIO_UNREGISTER", u.control(func(fd uintptr) error { return overRange(fd, uffdioUnregister, start, length) }))
}

// continueTimeout bounds how long Continue waits for somebody to read the events that are in its way.
const continueTimeout = 5 * time.Second

// Continue maps the pages that the mapped file has for a range. All of them must be there; those that are mapped already, or were written, stay as they are.
// Somebody must be reading the events meanwhile.
func (u *Userfaultfd) Continue(start, length uint64) error {
	deadline := time.Now().Add(continueTimeout)
	for length > 0 {
		var done uint64
		err := u.control(func(fd uintptr) (err error) {
			done, err = fill(fd, uffdioContinue, start, length, 0)
			return err
		})
		start, length = start+done, length-min(done, length)
		switch {
		case errors.Is(err, unix.EEXIST):
			start, length = start+pageSize, length-min(pageSize, length)
		case errors.Is(err, unix.EAGAIN) && time.Now().Before(deadline):
			runtime.Gosched()
		case err != nil:
			return fmt.Errorf("map page %#x: %w", start, os.NewSyscallError("ioctl UFFDIO_CONTINUE", err))
		}
	}
	return nil
}

const pageSize = 4096

// Zero answers a fault with a page of zeros, and wakes who waits for it. A page that is there already, a mapping that is gone and one that changes this moment
// are no errors: the thread tries again, and either goes on or faults again. os.ErrProcessDone: the address space is gone.
func (u *Userfaultfd) Zero(address uint64, write bool) error {
	address &^= pageSize - 1
	err := u.control(func(fd uintptr) error {
		if write {
			// The kernel would only copy the page of zeros at once. Without memory for it the thread itself is to meet the limit.
			if err := copyZeros(fd, address); !errors.Is(err, unix.ENOMEM) {
				return err
			}
		}
		_, err := fill(fd, uffdioZeropage, address, pageSize, 0)
		return err
	})
	switch {
	case errors.Is(err, unix.ESRCH):
		return os.ErrProcessDone
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
		return u.wake(address, pageSize)
	}
	return named("ioctl UFFDIO_ZEROPAGE", err)
}

// WakeAll has every thread that waits try again. Those whose faults were read, and not answered, by a process that has ended are then told of anew.
func (u *Userfaultfd) WakeAll() error { return u.wake(lowestAddress, highestPage-lowestAddress) }

func (u *Userfaultfd) wake(start, length uint64) error {
	return named("ioctl UFFDIO_WAKE", u.control(func(fd uintptr) error { return overRange(fd, uffdioWake, start, length) }))
}

// Alive says whether there still is the address space.
func (u *Userfaultfd) Alive() bool {
	there := false
	err := u.control(func(fd uintptr) error { there = alive(fd); return nil })
	return err == nil && there
}

func alive(fd uintptr) bool {
	// The highest page is never mapped: whoever is alive says so.
	_, err := fill(fd, uffdioZeropage, highestPage-pageSize, pageSize, 0)
	return !errors.Is(err, unix.ESRCH)
}

// Read waits for events. It costs no thread, and ends with os.ErrClosed on Close. Of the events that come the children are always given, also with an error.
func (u *Userfaultfd) Read() ([]FaultEvent, error) {
	var buf [messages * messageSize]byte
	n, err := u.file.Read(buf[:])
	if err != nil {
		return nil, fmt.Errorf("read faults: %w", err)
	}
	events := make([]FaultEvent, 0, n/messageSize)
	for data := buf[:n]; len(data) >= messageSize; data = data[messageSize:] {
		events = append(events, parseFault(data))
	}
	return events, nil
}

// parseFault reads one struct uffd_msg.
func parseFault(data []byte) (e FaultEvent) {
	switch data[0] {
	case eventPagefault:
		e.Write = binary.NativeEndian.Uint64(data[8:])&faultWrite != 0
		e.Address = binary.NativeEndian.Uint64(data[16:])
	case eventFork:
		e.Child = AdoptUserfaultfd(os.NewFile(uintptr(binary.NativeEndian.Uint32(data[8:])), "userfaultfd"))
	}
	return e
}

// control runs fn on the descriptor, which stays in the poller's hands.
func (u *Userfaultfd) control(fn func(fd uintptr) error) error {
	raw, err := u.file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = fn(fd) }); err != nil {
		return err
	}
	return result
}

// named is os.NewSyscallError for errors that may have come from elsewhere.
func named(call string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	return os.NewSyscallError(call, err)
}
