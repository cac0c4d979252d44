package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// HolderArg is the verb of the holder's command line: `sproutd holder`.
const HolderArg = "holder"

const (
	// holderWord is where a holder says that it stands, holderLife is read until the keeper lets go of it or ends.
	holderWord = 3
	holderLife = 4
)

// Hold is the life of a holder: the first process of the pid namespace in which a template and its clones are, so that clones do not end with the template or the keeper.
// When the keeper has let go of it, it ends the template, waits until the last clone has ended, and ends with what may be left.
func Hold() error {
	word, life := os.NewFile(holderWord, "word"), os.NewFile(holderLife, "life")
	// Whoever ends here has a pidfd of those that he cares for: the kernel reaps.
	signal.Ignore(syscall.SIGCHLD)
	if err := errors.Join(linux.FollowMounts(), linux.Mount("proc", "/proc", "proc", 0, "")); err != nil {
		return err
	}
	if _, err := word.WriteString(ready + "\n"); err != nil {
		return err
	}
	if err := word.Close(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(life).ReadByte(); err == nil {
		return errors.New("the keeper says something")
	}
	// Children of the template's, which would be left to us: they are stopped, and would never end.
	children, err := linux.Children(restore.TemplatePID)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, pid := range append(children, restore.TemplatePID) {
		if err := end(pid); err != nil {
			return err
		}
	}
	// With the template gone the zygote is ours, with the zygote gone the clones are. Of children that nobody waits for the kernel tells only when there are no more.
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); errors.Is(err, syscall.ECHILD) {
			return nil
		} else if err != nil && !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("wait4", err)
		}
	}
}

// end kills a process, if it is there, and waits until its children are somebody else's.
func end(pid int) error {
	p, err := linux.OpenPidfd(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.Wait(context.Background())
}

// holder is the keeper's end of a holder process.
type holder struct {
	cmd         *exec.Cmd
	life        *os.File
	pids, mount *os.File
}

// startHolder starts a holder that sees the mounts that the keeper sees now.
func startHolder() (_ *holder, err error) {
	word, theirWord, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer word.Close()
	theirLife, life, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirWord.Close())
	}
	h := &holder{cmd: exec.Command("/proc/self/exe", HolderArg), life: life}
	h.cmd.Args[0] = "sproutd"
	h.cmd.Dir = "/"
	h.cmd.Stderr = os.Stderr
	h.cmd.ExtraFiles = []*os.File{theirWord, theirLife}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	err = h.cmd.Start()
	err = errors.Join(err, theirWord.Close(), theirLife.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start holder: %w", err), life.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start holder: %w", err), h.letGo())
		}
	}()
	if line, err := bufio.NewReader(word).ReadString('\n'); err != nil || line != ready+"\n" {
		return nil, fmt.Errorf("it says %q: %w", line, err)
	}
	if h.pids, err = linux.NSFile(h.cmd.Process.Pid, "pid"); err == nil {
		h.mount, err = linux.NSFile(h.cmd.Process.Pid, "mnt")
	}
	return h, err
}

// letGo has the holder end the template, and end itself with the last clone. Who of them is not ended by then goes on without us.
func (h *holder) letGo() error {
	var errs []error
	for _, f := range []*os.File{h.life, h.pids, h.mount} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	go func() { _ = h.cmd.Wait() }()
	return errors.Join(errs...)
}
