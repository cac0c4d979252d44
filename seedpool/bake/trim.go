package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// trimWithin bounds the trimming of one JVM.
	trimWithin = 10 * time.Second
	attachWait = 20 * time.Millisecond
	// restoreWithin bounds how long its flags may take to be as they were, whatever has happened.
	restoreWithin = 5 * time.Second
)

// trim has the JVMs among the app's processes collect their garbage and give the free part of their heaps back: what was needed to boot, an idle spare does not need. It is
// best effort, and nothing is done to other processes.
func (b *booting) trim(ctx context.Context) error {
	if !b.o.Trim {
		return nil
	}
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error {
		pids, err := b.o.Cgroup.ProcsBelow()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := trimJVM(ctx, pid); err != nil && ctx.Err() == nil {
				log.G(ctx).WithError(err).WithFields(log.Fields{"id": b.o.ID, "pid": pid}).Warn("trim spare")
			}
		}
		return context.Cause(ctx)
	})
}

// trimJVM trims a process if it is a JVM with the collector G1; that of others was seen to make their heaps larger.
func trimJVM(ctx context.Context, pid int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, trimWithin)
	defer cancel()
	if is, err := isJVM(pid); err != nil || !is {
		return err
	}
	j := &jvm{pid: pid}
	if j.inner, err = linux.InnermostPID(pid); err != nil {
		return err
	}
	if j.root, err = os.Open(fmt.Sprintf("/proc/%d/root", pid)); err != nil {
		return err
	}
	defer j.root.Close()
	if err := j.attach(ctx); err != nil {
		return err
	}
	if g1, err := j.ask(ctx, "printflag", "UseG1GC"); err != nil || !strings.Contains(g1, "+UseG1GC") {
		return err
	}
	// The heap shrinks to what it holds. Afterwards it grows and shrinks as the user has said, or as the JVM does by itself.
	free := []string{"MinHeapFreeRatio", "MaxHeapFreeRatio"}
	var was []string
	for n, flag := range free {
		value, err := j.flag(ctx, flag)
		if err == nil {
			was = append(was, value)
			_, err = j.ask(ctx, "setflag", flag, strconv.Itoa(n)) // 0 and 1: the first is the smaller one
		}
		if err != nil {
			return errors.Join(err, j.restore(ctx, free, was))
		}
	}
	_, err = j.ask(ctx, "jcmd", "GC.run")
	return errors.Join(err, j.restore(ctx, free, was))
}

// isJVM says whether a process is a JVM that can be asked by a signal. One that has no handler for it would end.
func isJVM(pid int) (bool, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil || !strings.Contains(string(maps), "/libjvm.so") {
		return false, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(status)) {
		if caught, found := strings.CutPrefix(line, "SigCgt:"); found {
			set, err := strconv.ParseUint(strings.TrimSpace(caught), 16, 64)
			return set&(1<<(syscall.SIGQUIT-1)) != 0, err
		}
	}
	return false, nil
}

// jvm speaks HotSpot's attach protocol, as jcmd does: a file and a signal have the JVM listen on a socket, which takes one command a connection. A JRE has no jcmd, so it is
// spoken from outside, and no path of the container's leads out of its root.
type jvm struct {
	pid, inner int
	root       *os.File
}

// attach has the JVM listen, unless it does.
func (j *jvm) attach(ctx context.Context) error {
	if door, err := j.door(); err == nil {
		return door.Close()
	}
	tmp, err := pathrs.OpenatInRoot(j.root, "/tmp")
	if err != nil {
		return fmt.Errorf("open /tmp of JVM: %w", err)
	}
	defer tmp.Close()
	mark := fmt.Sprintf("/proc/self/fd/%d/.attach_pid%d", tmp.Fd(), j.inner)
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("ask JVM to listen: %w", err)
	}
	defer os.Remove(mark)
	// Only a file of its own user, or root's, counts.
	if err := f.Close(); err != nil {
		return err
	}
	if err := syscall.Kill(j.pid, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("ask JVM to listen: %w", err)
	}
	// A JVM tells nobody that it listens.
	again := time.NewTicker(attachWait)
	defer again.Stop()
	for {
		if door, err := j.door(); err == nil {
			return door.Close()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until JVM listens: %w", context.Cause(ctx))
		}
	}
}

// door is the JVM's socket.
func (j *jvm) door() (*os.File, error) {
	return pathrs.OpenatInRoot(j.root, fmt.Sprintf("/tmp/.java_pid%d", j.inner))
}

// ask sends one command and gives the answer to it.
func (j *jvm) ask(ctx context.Context, command string, args ...string) (string, error) {
	door, err := j.door()
	if err != nil {
		return "", fmt.Errorf("ask JVM: %w", err)
	}
	defer door.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", door.Fd()))
	if err != nil {
		return "", fmt.Errorf("ask JVM: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	// Version of the protocol, command, three arguments.
	words := append([]string{"1", command}, args...)
	for len(words) < 5 {
		words = append(words, "")
	}
	if _, err := io.WriteString(conn, strings.Join(words, "\x00")+"\x00"); err != nil {
		return "", fmt.Errorf("ask JVM for %s: %w", command, err)
	}
	data, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	if err != nil {
		return "", fmt.Errorf("ask JVM for %s: %w", command, err)
	}
	code, answer, _ := strings.Cut(string(data), "\n")
	if code != "0" {
		return "", fmt.Errorf("ask JVM for %s %s: it answers %q", command, strings.Join(args, " "), data)
	}
	return answer, nil
}

// flag is the value of a flag: "-XX:NAME=VALUE".
func (j *jvm) flag(ctx context.Context, name string) (string, error) {
	answer, err := j.ask(ctx, "printflag", name)
	if err != nil {
		return "", err
	}
	_, value, found := strings.Cut(strings.TrimSpace(answer), name+"=")
	if !found {
		return "", fmt.Errorf("ask JVM for %s: it answers %q", name, answer)
	}
	return value, nil
}

// restore gives the flags that were changed their old values again, the last one first.
func (j *jvm) restore(ctx context.Context, flags, values []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	var errs []error
	for n := len(values) - 1; n >= 0; n-- {
		_, err := j.ask(ctx, "setflag", flags[n], values[n])
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
