package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Pidfd names one process for as long as it is open: its pid may be reused, the descriptor's process is always the same.
type Pidfd struct {
	pid  int
	file *os.File
}

// OpenPidfd opens a process. A pid that may be reused must be checked against its start time afterwards (Alive).
func OpenPidfd(pid int) (*Pidfd, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	return &Pidfd{pid: pid, file: os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))}, nil
}

// adoptPidfd takes over a descriptor that the kernel or another process has made.
func adoptPidfd(pid, fd int) (*Pidfd, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl F_SETFL", err), unix.Close(fd))
	}
	return &Pidfd{pid: pid, file: os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))}, nil
}

// pidOf reads whose a descriptor is; -1: it has ended.
func pidOf(fd int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(pid))
		}
	}
	return 0, fmt.Errorf("descriptor %d: not of a process: %w", fd, unix.EPROTO)
}

// PID is the number that the process has, or had.
func (p *Pidfd) PID() int { return p.pid }

// File is the descriptor itself, still owned by the Pidfd.
func (p *Pidfd) File() *os.File { return p.file }

// Close releases the descriptor.
func (p *Pidfd) Close() error { return p.file.Close() }

// Wait returns when the process has ended, reaped or not. It costs no thread: the descriptor is watched by the Go runtime's poller. Any number of callers
// may wait, each with a context of its own; Close does not end a Wait.
func (p *Pidfd) Wait(ctx context.Context) error {
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	return nil
}

// wait watches a duplicate: a file's read deadline and its read lock are shared by all who use the file.
func (p *Pidfd) wait(ctx context.Context) error {
	watched, err := p.duplicate()
	if err != nil {
		return err
	}
	defer watched.Close()
	raw, err := watched.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = watched.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

func (p *Pidfd) duplicate() (*os.File, error) {
	fd := -1
	err := p.control(func(from int) (err error) {
		fd, err = unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
		}
		// Whoever called Fd on File has made it blocking, and the poller takes no such descriptor.
		return os.NewSyscallError("fcntl F_SETFL", unix.SetNonblock(fd, true))
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p.file.Name()), nil
}

// reapTimeout bounds how long after its end a process that nobody waits for may be there.
const reapTimeout = time.Second

// Reaped returns when a process that has ended was reaped. The kernel, which reaps children of a parent that ignores SIGCHLD, does so a moment after it tells of
// the end; from 6.12 on it tells of that, too.
func (p *Pidfd) Reaped() error {
	return p.control(func(fd int) error {
		for deadline := time.Now().Add(reapTimeout); ; {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, int(time.Until(deadline).Milliseconds()))
			switch {
			case errors.Is(err, unix.EINTR) && time.Now().Before(deadline):
			case err != nil:
				return os.NewSyscallError("poll", err)
			case n == 0:
				return fmt.Errorf("wait until process %d is reaped: %w", p.pid, os.ErrDeadlineExceeded)
			default:
				return nil
			}
		}
	})
}

// ExitStatus returns the wait status of a process that has ended and was reaped by its parent, whoever that is. ok is false when the kernel
// cannot tell (before 6.15), or the process was not reaped yet.
func (p *Pidfd) ExitStatus() (status syscall.WaitStatus, ok bool, err error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err = p.info(&info)
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("read exit status of %d: %w", p.pid, os.NewSyscallError("ioctl PIDFD_GET_INFO", err))
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false, nil
	}
	return syscall.WaitStatus(info.Exit_code), true, nil
}

// PidfdTellsExit fails where the kernel does not tell the exit status of a process that is not ours.
func PidfdTellsExit() error { return probePidfdExit() }

func (p *Pidfd) info(info *unix.PidfdInfo) error {
	return p.control(func(fd int) error { return unix.IoctlPidfdInfo(fd, info) })
}

// control runs fn on the descriptor. File.Fd would switch it to blocking mode and take it from the poller.
func (p *Pidfd) control(fn func(fd int) error) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = fn(int(fd)) }); err != nil {
		return err
	}
	return result
}

// Signal sends a signal to the process. It is os.ErrProcessDone when the process has ended and was reaped; a zombie takes signals without effect.
func (p *Pidfd) Signal(sig syscall.Signal) error {
	err := p.control(func(fd int) error {
		return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(fd, sig, nil, 0))
	})
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// StartTime returns field 22 of /proc/PID/stat, in clock ticks since boot: with the pid it names a process for ever.
func StartTime(pid int) (uint64, error) {
	_, start, err := stat(pid)
	return start, err
}

// Alive says whether a process exists, is the one that started then, and is no zombie.
func Alive(pid int, start uint64) bool {
	state, now, err := stat(pid)
	return err == nil && now == start && state != 'Z' && state != 'X'
}

// stat reads state and start time of a process.
func stat(pid int) (state byte, start uint64, err error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	state, start, err = parseStat(data)
	if err != nil {
		return 0, 0, fmt.Errorf("parse %s: %w", path, err)
	}
	return state, start, nil
}

// parseStat finds fields 3 and 22. Field 2 is the program's name in brackets and may hold anything, also brackets.
func parseStat(data []byte) (state byte, start uint64, err error) {
	const first, wanted = 3, 22
	end := bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[end+1:])
	if end < 0 || len(fields) <= wanted-first {
		return 0, 0, fmt.Errorf("too short: %q", data)
	}
	start, err = strconv.ParseUint(string(fields[wanted-first]), 10, 64)
	return fields[0][0], start, err
}
