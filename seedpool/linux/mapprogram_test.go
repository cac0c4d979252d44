package linux

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestProgramIsMappedIntoAProcessThatDoesNotRun(t *testing.T) {
	cmd := exec.Command("/usr/bin/python3", "-c", "print('ready', flush=True); input()")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	mapped, size := code(t, pid)
	if mapped > size*8/10 {
		t.Fatalf("%d of %d KiB of code are mapped already", mapped, size)
	}
	if err := MapProgram(pid); err != nil {
		t.Fatal(err)
	}
	if after, _ := code(t, pid); after < size*95/100 {
		t.Errorf("%d of %d KiB of code are mapped, were %d", after, size, mapped)
	}
}

// code is how much of a process's code is mapped, and how much it has, in KiB.
func code(t *testing.T, pid int) (mapped, size int) {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	program := false
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.Contains(fields[0], "-") {
			program = strings.Contains(fields[1], "x") && fields[4] != "0"
		}
		var kib int
		if !program {
			continue
		}
		switch fields[0] {
		case "Size:", "Rss:":
			if _, err := fmt.Sscan(fields[1], &kib); err != nil {
				t.Fatal(err)
			}
		}
		if fields[0] == "Size:" {
			size += kib
		} else {
			mapped += kib
		}
	}
	return mapped, size
}
