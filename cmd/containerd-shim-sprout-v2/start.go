package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// start prints the address of the shim that serves the container.
func start(a args, stdin *os.File, stdout io.Writer) error {
	input, err := readStdin(stdin)
	if err != nil {
		return err
	}
	b := readBootstrap(a, input)
	address, err := shimFor(b)
	if err != nil {
		return err
	}
	answer, err := b.answer(address)
	if err != nil {
		return err
	}
	if _, err := stdout.Write(answer); err != nil {
		return fmt.Errorf("print address: %w", err)
	}
	return nil
}

// shimFor finds the living shim of the container's group, gets an idle one from sproutd, or starts one: whichever comes first.
func shimFor(b bootstrap) (string, error) {
	bundle, err := os.Getwd()
	if err != nil {
		return "", err
	}
	c, err := readContainer(bundle, b.id)
	if err != nil {
		return "", err
	}
	p := params{
		Namespace: b.namespace, ID: b.id, Group: c.group, Bundle: bundle,
		Address:           addressOf(b.socketDir, b.grpc, b.namespace, c.group),
		ContainerdAddress: b.grpc, ContainerdTTRPC: b.ttrpc, Publisher: b.publisher,
		Debug: b.debug, Cgroup: b.shimCgroup, Options: b.otherOptions, OOMScore: oomScore(), Launcher: os.Getpid(),
	}
	if living, err := alive(p.Address); err != nil {
		return "", err
	} else if living {
		return p.Address, nil
	}
	// SCHED_CORE ties the shim to the process that starts it, and runc makes a cgroup that is not named from the root below its own: an idle shim has another.
	if os.Getenv("SCHED_CORE") != "" || !filepath.IsAbs(c.cgroup) && !b.systemdCgroup {
		return p.Address, spawn(p, nil)
	}
	asked := p
	asked.Env = os.Environ()
	q, err := ask(asked)
	if err != nil {
		return p.Address, spawn(p, nil)
	}
	defer q.close()
	// Why there is none is sproutd's to log: nothing but the address may be printed here.
	if address, err := q.answer(assignTimeout); err == nil {
		return address, nil
	}
	return p.Address, spawn(p, q)
}

// oomScore is what the shim's OOM score shall be: one more than containerd's, so that the shim is sooner killed, as containerd's own shims do. nil: not known.
func oomScore() *int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getppid()) + "/oom_score_adj")
	if err != nil {
		return nil
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	score = min(score+1, 1000)
	return &score
}

// spawn starts a shim that serves at the address of p. late is the question that sproutd has not answered in time, if it was asked.
func spawn(p params, late *question) error {
	socket, err := listen(p.Address)
	if errors.Is(err, fs.ErrExist) {
		// An idle shim that sproutd gave too late, or another launcher for the same pod, was quicker.
		if late != nil {
			// Once the answer is here, whatever it is, sproutd does not take its shim back any more, or that has ended: it may have been given no more time to serve.
			_, _ = late.answer(lateTimeout)
		}
		if living, err := alive(p.Address); living || err != nil {
			return err
		}
		socket, err = listen(p.Address)
	}
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := startShim(p, socket); err != nil {
		return errors.Join(err, os.Remove(socketPath(p.Address)))
	}
	return nil
}
