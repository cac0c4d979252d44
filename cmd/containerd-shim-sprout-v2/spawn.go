package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// shimBinary is the shim that was installed beside this launcher.
func shimBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find sprout-shim: %w", err)
	}
	return filepath.Join(filepath.Dir(self), "sprout-shim"), nil
}

// startShim runs `sprout-shim serve` in a session of its own, in the bundle: the socket is its descriptor 3, a pipe with the parameters 4.
// It has none of this process's standard streams, as containerd waits until the last of them is closed.
func startShim(p params, socket *os.File) error {
	binary, err := shimBinary()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	defer null.Close()
	told, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	defer told.Close()
	// The parameters fit into the pipe: the environment, which might not, is inherited.
	err = json.NewEncoder(tell).Encode(p)
	if cerr := tell.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	// Not os.StartProcess, which first clones a process to see whether pidfds work; nobody waits for this one.
	_, err = syscall.ForkExec(binary, []string{binary, "serve", "-namespace", p.Namespace, "-id", p.ID, "-address", p.ContainerdAddress}, &syscall.ProcAttr{
		Dir:   p.Bundle,
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), socket.Fd(), told.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", binary, err)
	}
	return nil
}

// execShim becomes sprout-shim, with standard streams and arguments as they are.
func execShim(a args, verb string) error {
	binary, err := shimBinary()
	if err != nil {
		return err
	}
	argv := []string{binary, verb, "-namespace", a.namespace, "-id", a.id, "-bundle", a.bundle, "-address", a.address}
	if a.debug {
		argv = append(argv, "-debug")
	}
	if err := syscall.Exec(binary, argv, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", binary, err)
	}
	return nil
}
