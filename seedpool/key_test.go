package seedpool

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// spec is one such as `ctr run` makes.
func spec() *specs.Spec {
	limit := int64(-1)
	return &specs.Spec{
		Version:  "1.3.0",
		Hostname: "a",
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"python3", "server.py"}, Cwd: "/app", Env: []string{"PATH=/bin", "COLOUR=red"},
			User:            specs.User{UID: 1, GID: 2},
			Capabilities:    &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid"}},
			{Destination: "/data", Type: "bind", Source: "/srv/a", Options: []string{"rbind"}},
			{Destination: "/etc/hosts", Type: "bind", Source: "/var/lib/a/hosts"},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/default/a",
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.MountNamespace}},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, Memory: &specs.LinuxMemory{Swap: &limit}},
			MaskedPaths: []string{"/proc/kcore"},
		},
	}
}

func keyOf(t testing.TB, s *specs.Spec) *api.Key {
	t.Helper()
	key, err := KeyOf(s)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seedOf(key *api.Key) *api.SeedInfo { return &api.SeedInfo{Key: key} }

func TestMemoryOfAPodIsBoundLateWhereThereIsSome(t *testing.T) {
	with := func(m specs.Mount) *specs.Spec {
		s := spec()
		s.Mounts = append(s.Mounts, m)
		return s
	}
	shm := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/pods/a/shm", Options: []string{"rbind"}}
	seed := seedOf(keyOf(t, with(shm)))
	other := shm
	other.Source = "/pods/b/shm"
	if differs := Match(seed, keyOf(t, with(other))); len(differs) > 0 {
		t.Errorf("another pod differs in %v", differs)
	}
	if !BoundLate(seed, other) {
		t.Error("another pod's would not be bound")
	}
	own := specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}
	if differs := Match(seed, keyOf(t, with(own))); !slices.Equal(differs, []string{"mount /dev/shm"}) {
		t.Errorf("memory of its own differs in %v", differs)
	}
	if BoundLate(seedOf(keyOf(t, with(own))), own) {
		t.Error("a tmpfs would be bound")
	}
}

func TestWhatIsBoundLateLeavesTheKeyAlone(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"host name":    func(s *specs.Spec) { s.Hostname, s.Domainname = "b", "c" },
		"cgroup path":  func(s *specs.Spec) { s.Linux.CgroupsPath = "/k8s/b" },
		"annotations":  func(s *specs.Spec) { s.Annotations = map[string]string{"a": "b"} },
		"hooks":        func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}} },
		"oom score":    func(s *specs.Spec) { n := 5; s.Process.OOMScoreAdj = &n },
		"root path":    func(s *specs.Spec) { s.Root.Path = "/elsewhere" },
		"spec version": func(s *specs.Spec) { s.Version = "1.2.0" },
		"netns path":   func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/run/netns/x" },
		"host network": func(s *specs.Spec) { s.Linux.Namespaces = slices.Delete(s.Linux.Namespaces, 1, 2) },
		"pod's ipc and uts": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "ipc", Path: "/proc/9/ns/ipc"}, specs.LinuxNamespace{Type: "uts"})
		},
		"hosts file": func(s *specs.Spec) { s.Mounts[3].Source = "/var/lib/b/hosts" },
		"resolv.conf": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/resolv.conf", Source: "/x"})
		},
		"destination style": func(s *specs.Spec) { s.Mounts[2].Destination = "/data/" },
		"empty limits":      func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{} },
	} {
		t.Run(name, func(t *testing.T) {
			changed := spec()
			change(changed)
			if name == "destination style" { // the mount itself is digested as it is written
				if got := keyOf(t, changed).MountOrder; !slices.Contains(got, "/data") {
					t.Errorf("mount order %v", got)
				}
				return
			}
			if differs := Match(seedOf(keyOf(t, spec())), keyOf(t, changed)); len(differs) > 0 {
				t.Errorf("differs in %v", differs)
			}
		})
	}
}

func TestWhatTheAppCouldSeeMakesKeysDifferUnderItsName(t *testing.T) {
	mask := uint32(0o22)
	shares := uint64(512)
	limit := int64(1 << 30)
	for name, change := range map[string]func(*specs.Spec){
		"args":                    func(s *specs.Spec) { s.Process.Args = append(s.Process.Args, "-v") },
		"cwd":                     func(s *specs.Spec) { s.Process.Cwd = "/" },
		"user":                    func(s *specs.Spec) { s.Process.User.Umask = &mask },
		"terminal":                func(s *specs.Spec) { s.Process.Terminal = true },
		"capabilities":            func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_KILL"} },
		"rlimits":                 func(s *specs.Spec) { s.Process.Rlimits[0].Soft = 10 },
		"noNewPrivileges":         func(s *specs.Spec) { s.Process.NoNewPrivileges = false },
		"apparmor":                func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"selinux":                 func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"readonlyRoot":            func(s *specs.Spec) { s.Root.Readonly = true },
		"namespaces":              func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"devices":                 func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c"}} },
		"seccomp":                 func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow} },
		"sysctl":                  func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a": "b"} },
		"personality":             func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
		"maskedPaths":             func(s *specs.Spec) { s.Linux.MaskedPaths = nil },
		"readonlyPaths":           func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/bus"} },
		"resources.memory":        func(s *specs.Spec) { s.Linux.Resources.Memory.Limit = &limit },
		"resources.cpu":           func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares} },
		"resources.pids":          func(s *specs.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit} },
		"resources.devices":       func(s *specs.Spec) { s.Linux.Resources.Devices[0].Allow = true },
		"linux.rootfsPropagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" },
		"process.execCPUAffinity": func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0"} },
		"process.consoleSize":     func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 1} },
		"kubernetesNamespace": func(s *specs.Spec) {
			s.Annotations = map[string]string{"io.kubernetes.cri.sandbox-namespace": "shop"}
		},
		"env COLOUR":  func(s *specs.Spec) { s.Process.Env[1] = "COLOUR=blue" },
		"env NEW":     func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "NEW") },
		"env PATH":    func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "PATH=/bin") },
		"mount /data": func(s *specs.Spec) { s.Mounts[2].Source = "/srv/b" },
		"mount /dev/shm": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/pods/a/shm"})
		},
		"mount /dev":  func(s *specs.Spec) { s.Mounts[1].Options = nil },
		"mount /new":  func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/new"}) },
		"mount order": func(s *specs.Spec) { s.Mounts[0], s.Mounts[1] = s.Mounts[1], s.Mounts[0] },
	} {
		t.Run(name, func(t *testing.T) {
			changed := spec()
			change(changed)
			if diff := cmp.Diff([]string{name}, Match(seedOf(keyOf(t, spec())), keyOf(t, changed))); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{name}, Match(seedOf(keyOf(t, changed)), keyOf(t, spec()))); diff != "" {
				t.Errorf("the other way: %s", diff)
			}
		})
	}
}

func TestWhatTheSeedDeclaresLateMayDiffer(t *testing.T) {
	seed := seedOf(keyOf(t, spec()))
	seed.LateEnv, seed.LateMounts = []string{"COLOUR", "NEW"}, []string{"/data", "/more"}
	changed := spec()
	changed.Process.Env = []string{"NEW=1", "PATH=/bin", "COLOUR=blue"}
	changed.Mounts = append(slices.Delete(changed.Mounts, 2, 3), specs.Mount{Destination: "/more/", Source: "/x"})
	if differs := Match(seed, keyOf(t, changed)); len(differs) > 0 {
		t.Errorf("differs in %v", differs)
	}
	changed.Process.Env = append(changed.Process.Env, "OTHER=1")
	if diff := cmp.Diff([]string{"env OTHER"}, Match(seed, keyOf(t, changed))); diff != "" {
		t.Error(diff)
	}
}

func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	s := spec()
	s.Process.Args = []string{"\xff"}
	if _, err := KeyOf(s); err == nil {
		t.Error("accepted: all such text would be equal")
	}
	s = spec()
	s.Process.Env = []string{"A=\xff"}
	a := keyOf(t, s)
	s.Process.Env = []string{"A=\xfe"}
	if differs := Match(seedOf(a), keyOf(t, s)); len(differs) != 1 {
		t.Errorf("two values that are not UTF-8 differ in %v", differs)
	}
}

func TestASpecWithoutProcessRootOrLinuxIsRefused(t *testing.T) {
	for name, s := range map[string]*specs.Spec{"nil": nil, "empty": {}, "no linux": {Process: &specs.Process{}, Root: &specs.Root{}}} {
		if _, err := KeyOf(s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestKeyOfChangesNothingInTheSpec(t *testing.T) {
	s := spec()
	keyOf(t, s)
	if diff := cmp.Diff(spec(), s); diff != "" {
		t.Error(diff)
	}
}

func TestKeysHoldDigestsAndNoValues(t *testing.T) {
	s := spec()
	s.Process.Env = append(s.Process.Env, "TOKEN=hunter2hunter2")
	data, err := proto.Marshal(keyOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "hunter2") || strings.Contains(string(data), "/srv/a") {
		t.Error("the key tells a value")
	}
}

func TestRandomSpecsHaveOneKeyOnlyIfTheyDifferInWhatIsBoundLate(t *testing.T) {
	for seed := range uint64(3000) {
		compareKeys(t, seed, 0, 1)
	}
}

// FuzzRandomSpecsHaveOneKeyOnlyIfTheyDifferInWhatIsBoundLate has specs that differ in more than one field, too.
func FuzzRandomSpecsHaveOneKeyOnlyIfTheyDifferInWhatIsBoundLate(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint8(1))
	f.Add(uint64(2), uint8(5), uint8(3))
	f.Fuzz(compareKeys)
}

// compareKeys makes a random spec, and another from it, by so many changes each, and compares them and their keys. A spec that is refused wakes nothing.
func compareKeys(t *testing.T, seed uint64, common, changes uint8) {
	r := rand.New(rand.NewPCG(seed, 1))
	a, b := spec(), spec()
	for range common % 8 {
		at := r.Uint64()
		for _, s := range []*specs.Spec{a, b} {
			mutate(rand.New(rand.NewPCG(at, 2)), reflect.ValueOf(s).Elem(), "")
		}
	}
	var where []string
	for range changes % 8 {
		where = append(where, mutate(r, reflect.ValueOf(b).Elem(), ""))
	}
	keyA, errA := KeyOf(a)
	keyB, errB := KeyOf(b)
	if errA != nil || errB != nil {
		return
	}
	same, differs := sameSpec(t, a, b), Match(seedOf(keyA), keyB)
	if same != (len(differs) == 0) {
		t.Fatalf("seed %d: %v changed, specs count as equal: %t, keys differ in %v", seed, where, same, differs)
	}
}

// sameSpec says by comparing the specs themselves, without any digest, whether one may stand for the other.
func sameSpec(t *testing.T, a, b *specs.Spec) bool {
	t.Helper()
	plain := func(s *specs.Spec) map[string]any {
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ociVersion", "hostname", "domainname", "annotations", "hooks"} {
			delete(m, name)
		}
		delete(m["root"].(map[string]any), "path")
		delete(m["process"].(map[string]any), "oomScoreAdj")
		env, _ := m["process"].(map[string]any)["env"].([]any)
		slices.SortStableFunc(env, func(a, b any) int {
			name := func(v any) string { n, _, _ := strings.Cut(v.(string), "="); return n }
			return strings.Compare(name(a), name(b))
		})
		linux := m["linux"].(map[string]any)
		delete(linux, "cgroupsPath")
		if list, ok := linux["namespaces"].([]any); ok {
			linux["namespaces"] = slices.DeleteFunc(list, func(v any) bool { return lateNamespaces[v.(map[string]any)["type"]] })
			if len(linux["namespaces"].([]any)) == 0 {
				delete(linux, "namespaces")
			}
		}
		if resources, ok := linux["resources"].(map[string]any); ok {
			maps.DeleteFunc(resources, func(_ string, v any) bool {
				limits, ok := v.(map[string]any)
				return ok && len(limits) == 0
			})
			if len(resources) == 0 {
				delete(linux, "resources")
			}
		}
		if list, ok := m["mounts"].([]any); ok {
			m["mounts"] = slices.DeleteFunc(list, func(v any) bool {
				dst, _ := v.(map[string]any)["destination"].(string)
				return lateMounts["/"+strings.Trim(dst, "/")]
			})
		}
		return m
	}
	return cmp.Equal(plain(a), plain(b))
}

// mutate changes one field somewhere below v and says which.
func mutate(r *rand.Rand, v reflect.Value, where string) string {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return mutate(r, v.Elem(), where)
	case reflect.Struct:
		n := r.IntN(v.NumField())
		return mutate(r, v.Field(n), where+"."+v.Type().Field(n).Name)
	case reflect.Slice:
		if v.Len() == 0 || r.IntN(3) == 0 {
			v.Set(reflect.Append(v, reflect.New(v.Type().Elem()).Elem()))
			return mutate(r, v.Index(v.Len()-1), where+"[new]")
		}
		return mutate(r, v.Index(r.IntN(v.Len())), where+"[i]")
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		value := reflect.New(v.Type().Elem()).Elem()
		where = mutate(r, value, where+"[key]")
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
		return where
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() + 1<<min(uint(v.Type().Bits())-1, 60))
	case reflect.Interface:
		v.Set(reflect.ValueOf("x"))
	default:
		panic("no case for " + where + " of kind " + v.Kind().String())
	}
	return where
}

// FuzzAMatchMeansEqualKeys holds Match against the plain comparison of two keys without what is late.
func FuzzAMatchMeansEqualKeys(f *testing.F) {
	f.Add("PATH=/bin", "PATH=/bin", "/data", "/data", "PATH", "/data", uint64(1), uint64(1))
	f.Add("A=1", "A=2", "/a", "/b", "A", "/b", uint64(0), uint64(1<<63))
	f.Add("A", "A=", "/a/", "/a", "", "", uint64(1), uint64(1))
	f.Fuzz(func(t *testing.T, envA, envB, mountA, mountB, lateEnv, lateMount string, limitA, limitB uint64) {
		build := func(env, mount string, limit uint64) (*api.Key, error) {
			s := spec()
			s.Process.Env = append(s.Process.Env, strings.Split(env, "\n")...)
			s.Process.Rlimits[0].Hard = limit
			for _, m := range strings.Split(mount, "\n") {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: m, Source: "/srv"})
			}
			return KeyOf(s)
		}
		a, errA := build(envA, mountA, limitA)
		b, errB := build(envB, mountB, limitB)
		if errA != nil || errB != nil {
			return
		}
		seed := seedOf(a)
		seed.LateEnv, seed.LateMounts = []string{lateEnv}, []string{lateMount}
		differs := Match(seed, b)
		strip := func(k *api.Key) *api.Key {
			k = proto.CloneOf(k)
			delete(k.Env, lateEnv)
			delete(k.Mounts, lateMount)
			k.MountOrder = slices.DeleteFunc(k.MountOrder, func(m string) bool { return m == lateMount })
			return k
		}
		if diff := cmp.Diff(strip(a), strip(b), protocmp.Transform()); (diff == "") != (len(differs) == 0) {
			t.Errorf("Match says %v, the keys differ so: %s", differs, diff)
		}
	})
}
