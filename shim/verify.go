package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/keeper"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// credsError lists what a thread of an instance has that the spec does not grant.
type credsError struct {
	pid, tid int
	excess   []string
}

func (e *credsError) Error() string {
	return fmt.Sprintf("verify thread %d of process %d: %s", e.tid, e.pid, strings.Join(e.excess, ", "))
}

// grant is what a spec gives its process.
type grant struct {
	uid, gid  int
	groups    []int
	bounding  uint64
	inherit   uint64
	permitted uint64
	ambient   uint64
	noNewPriv bool
	seccomp   bool
	// setUID and setGID: a process that is granted these capabilities may have become any user, as servers do for their workers.
	setUID, setGID bool
}

func grantOf(spec *specs.Spec) (grant, error) {
	p := spec.Process
	g := grant{
		uid:       int(p.User.UID),
		gid:       int(p.User.GID),
		noNewPriv: p.NoNewPrivileges,
		seccomp:   spec.Linux != nil && spec.Linux.Seccomp != nil,
	}
	for _, id := range p.User.AdditionalGids {
		g.groups = append(g.groups, int(id))
	}
	caps := p.Capabilities
	if caps == nil {
		return g, nil
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{{caps.Bounding, &g.bounding}, {caps.Inheritable, &g.inherit}, {caps.Permitted, &g.permitted}, {caps.Ambient, &g.ambient}} {
		bits, err := capBits(set.names)
		if err != nil {
			return g, err
		}
		*set.bits = bits
	}
	g.setUID = g.permitted&(1<<capability.CAP_SETUID) != 0
	g.setGID = g.permitted&(1<<capability.CAP_SETGID) != 0
	return g, nil
}

func capBits(names []string) (uint64, error) {
	var bits uint64
	known := capability.ListKnown()
	for _, name := range names {
		i := slices.IndexFunc(known, func(c capability.Cap) bool { return strings.EqualFold("CAP_"+c.String(), name) })
		if i < 0 {
			return 0, fmt.Errorf("read capability %s: unknown", name)
		}
		bits |= 1 << known[i]
	}
	return bits, nil
}

// excess names what a thread's credentials hold beyond the grant. A thread may have given up what it was granted: a server that was
// started as root runs its workers as another user, with fewer capabilities. It may have nothing that it could not have got so.
func (g grant) excess(c linux.Creds) []string {
	var beyond []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			beyond = append(beyond, fmt.Sprintf(format, args...))
		}
	}
	check(g.setUID || all(c.Uids[:], g.uid), "uids %v, granted %d", c.Uids, g.uid)
	check(g.setGID || all(c.Gids[:], g.gid), "gids %v, granted %d", c.Gids, g.gid)
	check(g.setGID || within(c.Groups, append(slices.Clone(g.groups), g.gid)), "groups %v, granted %v", c.Groups, g.groups)
	// exec by user 0 gives all that the bounding set leaves, whatever was permitted before.
	permitted := g.permitted | g.ambient
	if g.uid == 0 || g.setUID {
		permitted |= g.bounding
	}
	for _, set := range []struct {
		name        string
		has, grants uint64
	}{
		{"bounding", c.CapBnd, g.bounding},
		{"permitted", c.CapPrm, permitted},
		{"effective", c.CapEff, permitted},
		{"inheritable", c.CapInh, g.inherit | permitted},
		{"ambient", c.CapAmb, g.ambient | permitted},
	} {
		check(set.has&^set.grants == 0, "%s capabilities %x, granted %x", set.name, set.has, set.grants)
	}
	check(c.NoNewPrivs || !g.noNewPriv, "no_new_privs not set")
	check(c.Seccomp != 0 || !g.seccomp, "no seccomp filter")
	return beyond
}

func all(have []int, want int) bool {
	return !slices.ContainsFunc(have, func(id int) bool { return id != want })
}

func within(have, allowed []int) bool {
	return !slices.ContainsFunc(have, func(id int) bool { return !slices.Contains(allowed, id) })
}

// verifyCreds holds every thread of an instance's processes against what the spec grants; the first that has more is a *credsError. What a thread of a frozen
// instance may do is what was read when it was frozen. What is not on record is read.
func verifyCreds(spec *specs.Spec, inst *api.Instance, pids []int) error {
	g, err := grantOf(spec)
	if err != nil {
		return err
	}
	known, err := recorded(inst, pids)
	if err != nil {
		return err
	}
	for _, c := range known {
		if beyond := g.excess(c); len(beyond) > 0 {
			return &credsError{pid: int(inst.Pid), tid: int(inst.Pid), excess: beyond}
		}
	}
	ours, err := labelAt(os.Getpid(), os.Getpid())
	if err != nil {
		return fmt.Errorf("read own security label: %w", err)
	}
	label := labelOf(spec.Process, ours)
	if len(known) > 0 && label == "" {
		return nil
	}
	for _, pid := range pids {
		tids, err := linux.Threads(pid)
		if err != nil {
			return fmt.Errorf("list threads of process %d: %w", pid, err)
		}
		for _, tid := range tids {
			c, err := linux.ReadCreds(pid, tid)
			if err != nil {
				return fmt.Errorf("read credentials of thread %d: %w", tid, err)
			}
			beyond := g.excess(c)
			if has, err := labelAt(pid, tid); err != nil || has != label {
				beyond = append(beyond, fmt.Sprintf("security label %q (%v), granted %q", has, err, label))
			}
			if len(beyond) > 0 {
				return &credsError{pid: pid, tid: tid, excess: beyond}
			}
		}
	}
	return nil
}

// recorded is what the threads of an instance have by its record, if that is of these processes: as many threads, and the first of each as it is now.
func recorded(inst *api.Instance, pids []int) (known []linux.Creds, err error) {
	threads := 0
	for _, m := range inst.Credentials {
		known, threads = append(known, keeper.CredsOf(m)), threads+int(m.Threads)
	}
	if threads == 0 {
		return nil, nil
	}
	for _, pid := range pids {
		tids, err := linux.Threads(pid)
		if err != nil {
			return nil, err
		}
		threads -= len(tids)
		c, err := linux.ReadCreds(pid, pid)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(known, func(k linux.Creds) bool { return reflect.DeepEqual(k, c) }) {
			return nil, nil
		}
	}
	if threads != 0 {
		return nil, nil
	}
	return known, nil
}

// labelOf is the security label that a process of the spec has; one that names none leaves it that of its runtime, which is ours. Empty: there is no security module.
func labelOf(p *specs.Process, ours string) string {
	switch {
	case p.SelinuxLabel != "":
		return p.SelinuxLabel
	case p.ApparmorProfile == "", p.ApparmorProfile == "unconfined" && ours == "":
		return ours
	default:
		return p.ApparmorProfile
	}
}

// labelAt reads the security label of a thread; without a security module there is none.
func labelAt(pid, tid int) (string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(tid), "attr", "current"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EINVAL) {
		return "", nil
	}
	return labelIn(data), err
}

// labelIn is the label in what the kernel says of one: SELinux' ends with a zero, AppArmor's has the profile's mode behind it.
func labelIn(data []byte) string {
	label := strings.TrimRight(string(data), "\x00\n")
	if mode := strings.LastIndex(label, " ("); mode > 0 && strings.HasSuffix(label, ")") {
		label = label[:mode]
	}
	return label
}

// verifyNamespaces makes sure that every process of an instance is in the namespaces that it is to join, and in no other of the host's.
func verifyNamespaces(spec *specs.Spec, req request, pids []int) error {
	joins := req.joins()
	for _, pid := range pids {
		for of, kind := range procNamespaces {
			own := namespaceFile(pid, kind)
			against := filepath.Join("/proc/self/ns", kind)
			wanted := joins[of] != nil && *joins[of] != ""
			switch {
			case wanted:
				against = *joins[of]
			case !slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == of }):
				continue
			}
			same, err := sameFile(own, against)
			if err != nil {
				return fmt.Errorf("compare %s namespace of process %d: %w", kind, pid, err)
			}
			if same != wanted {
				return fmt.Errorf("verify %s namespace of process %d: same as %s is %t, want %t", kind, pid, against, same, wanted)
			}
		}
	}
	return nil
}

// procNamespaces are the names that /proc/PID/ns has for the spec's kinds of namespaces.
var procNamespaces = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace:     "pid",
	specs.NetworkNamespace: "net",
	specs.MountNamespace:   "mnt",
	specs.IPCNamespace:     "ipc",
	specs.UTSNamespace:     "uts",
	specs.CgroupNamespace:  "cgroup",
}

func namespaceFile(pid int, kind string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), "ns", kind)
}

func sameFile(a, b string) (bool, error) {
	as, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	bs, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(as, bs), nil
}
