package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is a namespace to enter.
type NS struct {
	// Type is a CLONE_NEW* constant; 0 lets the kernel take it from the file.
	Type int
	File *os.File
}

// Enter runs fn on a thread that is in the given namespaces. The thread is thrown away afterwards: a namespace once entered is not left again. To enter a
// mount namespace the thread first stops sharing its root and working directory with the others. fn must not start goroutines that are to be inside. A
// process that fn starts is inside; if it has a Pdeathsig it gets that as soon as the thread ends.
func Enter(namespaces []NS, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		// For an fn that ends its goroutine, as t.Fatal does.
		defer close(result)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away, and /proc/self would show its namespaces ever after: keep it busy while another thread is found.
			defer runtime.UnlockOSThread()
			result <- Enter(namespaces, fn)
			return
		}
		result <- enter(namespaces, fn)
	}()
	err, returned := <-result
	if !returned {
		return errors.New("enter namespaces: function did not return")
	}
	return err
}

func enter(namespaces []NS, fn func() error) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	for _, ns := range namespaces {
		if err := unix.Setns(int(ns.File.Fd()), ns.Type); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.File.Name(), os.NewSyscallError("setns", err))
		}
	}
	return fn()
}

// NSFile opens a namespace of a process: name is an entry of /proc/PID/ns.
func NSFile(pid int, name string) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	return f, nil
}

// OwnTimeNS says whether a process has clocks of its own. Where the kernel has no time namespaces, none has.
func OwnTimeNS(pid int) bool {
	ours, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return false
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", pid))
	return err == nil && its != ours
}

// NewNetNS makes a network namespace with the loopback device up. It lives as long as the file is open or a process is in it.
func NewNetNS() (*os.File, error) {
	var ns *os.File
	err := Enter(nil, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// loopbackUp sets lo up in the calling thread's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	ifreq, err := unix.NewIfreq("lo")
	if err == nil {
		ifreq.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq))
	}
	return errors.Join(err, unix.Close(fd))
}

// SetHostname sets the host name in the UTS namespace of a process.
func SetHostname(pid int, name string) error {
	return setUTS(pid, func() error { return os.NewSyscallError("sethostname", unix.Sethostname([]byte(name))) })
}

// SetDomainname sets the NIS domain name in the UTS namespace of a process.
func SetDomainname(pid int, name string) error {
	return setUTS(pid, func() error { return os.NewSyscallError("setdomainname", unix.Setdomainname([]byte(name))) })
}

func setUTS(pid int, set func() error) error {
	ns, err := NSFile(pid, "uts")
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := Enter([]NS{{unix.CLONE_NEWUTS, ns}}, set); err != nil {
		return fmt.Errorf("name host of process %d: %w", pid, err)
	}
	return nil
}
