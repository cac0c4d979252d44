package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// afterFilter are the calls that a clone makes when its filter is installed, by what they are for.
var afterFilter = []struct {
	nr   uint32
	what string
}{
	{sysWritev, "writev"},
	{sysRead, "read"},
	{sysClose, "close"},
	{sysCloseRange, "close_range"},
	{sysFutex, "futex"},
	{sysRtSigreturn, "rt_sigreturn"},
	{sysClockGettime, "clock_gettime"},
	{sysCapset, "capset"},
}

// judge refuses a filter that would not let a clone through to the application.
func (o *Origin) judge(noNewPrivs bool) (list []Refusal) {
	if o == nil || len(o.Filter) == 0 {
		return nil
	}
	for _, call := range afterFilter {
		if call.nr == sysCapset && noNewPrivs {
			continue // it comes before
		}
		action, err := runFilter(o.Filter, call.nr)
		if err != nil {
			list = append(list, Refusal{CodeFilter, fmt.Sprintf("the seccomp filter for %s cannot be worked out: %v", call.what, err), ""})
		} else if action != actionAllow && action != actionLog {
			list = append(list, Refusal{CodeFilter, fmt.Sprintf("the seccomp filter does not allow %s", call.what), "allow " + call.what + " in the seccomp profile"})
		}
	}
	return list
}

// Actions of a filter (seccomp.h).
const (
	actionAllow = 0x7fff0000
	actionLog   = 0x7ffc0000
)

// Instructions of classic BPF, as far as seccomp has them (bpf_common.h).
const (
	bpfLoadAbsolute  = 0x20
	bpfLoadImmediate = 0x00
	bpfAnd           = 0x54
	bpfJump          = 0x05
	bpfJumpEqual     = 0x15
	bpfJumpGreater   = 0x25
	bpfJumpNotLess   = 0x35
	bpfJumpSet       = 0x45
	bpfReturn        = 0x06
)

// Offsets in struct seccomp_data, and what is there for a 64-bit call.
const (
	dataNumber, dataArch = 0, 4
	archX8664            = 0xc000003e
)

// runFilter is what a filter answers to a call, if that does not depend on the arguments.
func runFilter(filter []byte, nr uint32) (action uint32, err error) {
	var a uint32
	for at := 0; at < len(filter)/sockFilterSize; {
		i := filter[at*sockFilterSize:]
		code, yes, no, k := binary.LittleEndian.Uint16(i), int(i[2]), int(i[3]), binary.LittleEndian.Uint32(i[4:])
		at++
		branch := func(taken bool) {
			if at += no; taken {
				at += yes - no
			}
		}
		switch code {
		case bpfLoadAbsolute:
			known, is := map[uint32]uint32{dataNumber: nr, dataArch: archX8664}[k]
			if !is {
				return 0, errors.New("it depends on the arguments")
			}
			a = known
		case bpfLoadImmediate:
			a = k
		case bpfAnd:
			a &= k
		case bpfJump:
			at += int(k)
		case bpfJumpEqual:
			branch(a == k)
		case bpfJumpGreater:
			branch(a > k)
		case bpfJumpNotLess:
			branch(a >= k)
		case bpfJumpSet:
			branch(a&k != 0)
		case bpfReturn:
			return k, nil
		default:
			return 0, fmt.Errorf("instruction %#x is not known", code)
		}
	}
	return 0, errors.New("it does not return")
}
