package fork

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// parseSmaps reads /proc/PID/smaps.
func parseSmaps(text string) ([]VMA, error) {
	var list []VMA
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		head, rest, _ := strings.Cut(line, " ")
		if name, isField := strings.CutSuffix(head, ":"); isField {
			if name != "VmFlags" {
				continue
			}
			if len(list) == 0 {
				return nil, fmt.Errorf("line %q: no mapping before it", line)
			}
			list[len(list)-1].Flags = strings.Fields(rest)
			continue
		}
		v, err := parseMapping(line)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		list = append(list, v)
	}
	for _, v := range list {
		if v.Flags == nil {
			return nil, fmt.Errorf("mapping %#x has no flags", v.Start)
		}
	}
	return list, nil
}

// mappingFields: range, permissions, offset, device, inode, path.
const mappingFields = 6

func parseMapping(line string) (v VMA, err error) {
	fields := strings.SplitN(line, " ", mappingFields)
	if len(fields) < mappingFields-1 {
		return v, fmt.Errorf("%d fields", len(fields))
	}
	start, end, _ := strings.Cut(fields[0], "-")
	if v.Start, err = strconv.ParseUint(start, 16, 64); err != nil {
		return v, err
	}
	if v.End, err = strconv.ParseUint(end, 16, 64); err != nil {
		return v, err
	}
	if v.Offset, err = strconv.ParseUint(fields[2], 16, 64); err != nil {
		return v, err
	}
	if v.Inode, err = strconv.ParseUint(fields[4], 10, 64); err != nil {
		return v, err
	}
	if v.End <= v.Start || len(fields[1]) != 4 {
		return v, fmt.Errorf("odd range or permissions")
	}
	v.Perms, v.Device = fields[1], fields[3]
	if len(fields) == mappingFields {
		v.Path = strings.TrimLeft(fields[5], " ")
	}
	return v, nil
}

func (v VMA) has(flag string) bool { return slices.Contains(v.Flags, flag) }

// shared: writes reach others who have mapped the same.
func (v VMA) shared() bool { return v.Perms[3] == 's' }

// sharedAnonymous: memory of mmap(MAP_SHARED|MAP_ANONYMOUS), which the kernel keeps in an unlinked file of its own, CRIU in one that it names like that, and a clone in one
// that we made.
func (v VMA) sharedAnonymous() bool {
	return v.shared() && (v.Path == "/dev/zero (deleted)" || v.Path == "/memfd:/dev/zero (deleted)" || v.Path == "/memfd:"+sharedMemory+" (deleted)")
}

// sharedFile: what is written to it reaches a file, of which a clone has its own.
func (v VMA) sharedFile() bool {
	return v.shared() && v.has("mw") && !v.sharedAnonymous() && !v.segment()
}

// kernels: mapped by the kernel into every process, and by fork into the clone.
func (v VMA) kernels() bool {
	return v.Path == "[vdso]" || v.Path == "[vsyscall]" || strings.HasPrefix(v.Path, "[vvar")
}

// dontFork: left out by fork(2) because of MADV_DONTFORK. V8 marks its heap so.
func (v VMA) dontFork() bool { return v.has("dc") && !v.kernels() }

// harmless flags (Documentation/filesystems/proc.rst) are kept by fork(2), or mean nothing for it; "dc" is undone, "lo" and "lf" are done again, and "wf"
// is the process's own wish to lose the content.
var harmless = strings.Fields("rd wr ex sh mr mw me ms gd de ac sr rr nr dd sd hg nh mg wf dc lo lf sl ar dp")

// judgeMapping refuses what neither fork(2) nor the plan carries over.
func judgeMapping(v VMA) []Refusal {
	if v.kernels() {
		return nil
	}
	what := fmt.Sprintf("mapping %x-%x %s %s", v.Start, v.End, v.Perms, v.Path)
	for _, flag := range v.Flags {
		switch {
		case flag == "um" || flag == "uw" || flag == "ui":
			return []Refusal{{CodeLazy, what + ": pages may still come from a userfaultfd", ""}}
		case !slices.Contains(harmless, flag):
			return []Refusal{{CodeMapping, what + ": flag " + flag, ""}}
		}
	}
	switch {
	case strings.HasPrefix(v.Path, "/[aio]"), strings.HasPrefix(v.Path, "anon_inode:"):
		return []Refusal{{CodeMapping, what, ""}}
	case v.sharedAnonymous() && v.Perms[0] != 'r':
		return []Refusal{{CodeMapping, what + " cannot be read", ""}}
	case !v.shared() || v.sharedAnonymous() || v.segment():
		return nil
	case strings.HasPrefix(v.Path, "/memfd:"):
		return []Refusal{{CodeMapping, what, ""}}
	case strings.HasSuffix(v.Path, " (deleted)"), !strings.HasPrefix(v.Path, "/"):
		return []Refusal{{CodeShared, what, ""}}
	}
	return nil // a file that can only be read, or that the clone has for itself
}
