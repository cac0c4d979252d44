package fork

import (
	"encoding/binary"
	"testing"
)

func bpf(instructions ...[4]uint32) (filter []byte) {
	for _, i := range instructions {
		filter = binary.LittleEndian.AppendUint16(filter, uint16(i[0]))
		filter = binary.LittleEndian.AppendUint32(append(filter, byte(i[1]), byte(i[2])), i[3])
	}
	return filter
}

func TestFilterThatWouldStopACloneIsRefused(t *testing.T) {
	const kill = 0x80000000
	arch := [][4]uint32{{bpfLoadAbsolute, 0, 0, dataArch}, {bpfJumpEqual, 1, 0, archX8664}, {bpfReturn, 0, 0, kill}, {bpfLoadAbsolute, 0, 0, dataNumber}}
	with := func(more ...[4]uint32) []byte { return bpf(append(append([][4]uint32{}, arch...), more...)...) }
	for name, c := range map[string]struct {
		filter     []byte
		noNewPrivs bool
		refused    int
	}{
		"none":                          {nil, false, 0},
		"one call forbidden":            {forbid(81), false, 0},
		"futex forbidden":               {forbid(sysFutex), false, 1},
		"capset forbidden":              {forbid(sysCapset), false, 1},
		"capset, which came before":     {forbid(sysCapset), true, 0},
		"another architecture":          {bpf([4]uint32{bpfLoadAbsolute, 0, 0, dataArch}, [4]uint32{bpfJumpEqual, 0, 1, 0x40000003}, [4]uint32{bpfReturn, 0, 0, actionAllow}, [4]uint32{bpfReturn, 0, 0, kill}), true, 7},
		"a list by halves":              {with([4]uint32{bpfJumpNotLess, 0, 1, sysCloseRange}, [4]uint32{bpfReturn, 0, 0, kill}, [4]uint32{bpfReturn, 0, 0, actionAllow}), true, 1},
		"everything but high numbers":   {with([4]uint32{bpfJumpGreater, 1, 0, 1000}, [4]uint32{bpfReturn, 0, 0, actionAllow}, [4]uint32{bpfReturn, 0, 0, kill}), false, 0},
		"everything logged":             {bpf([4]uint32{bpfReturn, 0, 0, actionLog}), false, 0},
		"an instruction of tomorrow":    {bpf([4]uint32{0x77, 0, 0, 0}), true, 7},
		"one that looks at an argument": {bpf([4]uint32{bpfLoadAbsolute, 0, 0, 16}, [4]uint32{bpfReturn, 0, 0, actionAllow}), true, 7},
		"no return":                     {bpf([4]uint32{bpfJump, 0, 0, 5}), true, 7},
	} {
		o := &Origin{Filter: c.filter}
		if got := o.judge(c.noNewPrivs); len(got) != c.refused {
			t.Errorf("%s: %v, want %d refusals", name, got, c.refused)
		}
	}
}
