package ptrace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// syscallInstruction is `syscall`. The vDSO holds several: its functions fall back to the kernel.
var syscallInstruction = []byte{0x0f, 0x05}

// findCall looks for the instruction that Syscall borrows.
func (t *Tracee) findCall() error {
	if t.vdso != 0 {
		return nil
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", t.Pid))
	if err != nil {
		return err
	}
	start, size, err := vdsoRange(string(maps))
	if err != nil {
		return fmt.Errorf("find vDSO of process %d: %w", t.Pid, err)
	}
	code := make([]byte, size)
	if _, err := NewMemory(t.Pid).ReadAt(code, int64(start)); err != nil {
		return fmt.Errorf("read vDSO: %w", err)
	}
	at := bytes.Index(code, syscallInstruction)
	if at < 0 {
		return fmt.Errorf("find syscall instruction in vDSO of process %d: %w", t.Pid, errors.ErrUnsupported)
	}
	t.vdso = start + uint64(at)
	return nil
}

var errNoVDSO = errors.New("no such mapping")

func vdsoRange(maps string) (start, size uint64, err error) {
	for line := range strings.Lines(maps) {
		if !strings.HasSuffix(strings.TrimSpace(line), " [vdso]") {
			continue
		}
		var end uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			return 0, 0, fmt.Errorf("line %q: %w", line, err)
		}
		if end <= start || end-start > 1<<20 {
			return 0, 0, fmt.Errorf("line %q: odd size", line)
		}
		return start, end - start, nil
	}
	return 0, 0, errNoVDSO
}
