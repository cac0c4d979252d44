package seedpool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/pelletier/go-toml/v2"
)

// DefaultConfigFile is read when no other is named; it need not exist.
const DefaultConfigFile = "/etc/sprout/sproutd.toml"

// Duration is written as text: "30s", "2m".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Config is sproutd's configuration file.
type Config struct {
	RunDir         string   `toml:"run_dir"`
	StateDir       string   `toml:"state_dir"`
	CgroupRoot     string   `toml:"cgroup_root"`
	CRIU           string   `toml:"criu"`
	Runc           string   `toml:"runc"`
	Containerd     string   `toml:"containerd"`
	Shim           string   `toml:"shim"`
	IdleShims      int      `toml:"idle_shims"`
	RefillParallel int      `toml:"refill_parallel"`
	RefillBackoff  Duration `toml:"refill_backoff"`
	BindTimeout    Duration `toml:"bind_timeout"`
	MetricsAddress string   `toml:"metrics_address"`
	LogLevel       string   `toml:"log_level"`
	Restore        Sharing  `toml:"restore"`
	Pages          Storing  `toml:"pages"`
	Fork           Forking  `toml:"fork"`
	Seeds          Keeping  `toml:"seeds"`
	Pool           Policy   `toml:"pool"`
	GC             Sweeping `toml:"gc"`
}

// Sweeping says how often what belongs to nobody is looked for; 0: only when sproutd starts.
type Sweeping struct {
	Interval Duration `toml:"interval"`
}

// Keeping says what becomes of seeds that are not right any more, and which ones sproutd bakes by itself.
type Keeping struct {
	Rebuild bool `toml:"rebuild"`
	// Disk is what all seeds together may take, beside the page store; 0: no bound.
	Disk Size `toml:"disk"`
	// Auto: of each container that is started cold, not only of those that ask for it.
	Auto bool `toml:"auto"`
	// AutoAllow and AutoDeny are globs of names of images; what is denied is not allowed.
	AutoAllow []string `toml:"auto_allow"`
	AutoDeny  []string `toml:"auto_deny"`
	// AutoSpares are those of a seed whose spares are booted: without one it is of no use.
	AutoSpares int `toml:"auto_spares"`
	// AutoMax is how many such seeds there may be, AutoUnused for how long one is kept that nothing is started from; 0: for ever.
	AutoMax    int      `toml:"auto_max"`
	AutoUnused Duration `toml:"auto_unused"`
}

// Policy says how pools follow demand, and when spares are given back.
type Policy struct {
	// HalfLife is how long after a burst half of the spares that it asked for are kept.
	HalfLife Duration `toml:"half_life"`
	// MaxAge is how old a spare may become; 0: as old as it will.
	MaxAge Duration `toml:"max_age"`
	// KeepFree is the memory that is left to the machine, and Memory what all spares may take; 0: no bound.
	KeepFree Size `toml:"keep_free"`
	Memory   Size `toml:"memory"`
	// WakesParallel is for how many starts instances are made at a time, 0: as many as there are CPUs, and WakeWait how long another waits for its turn.
	WakesParallel int      `toml:"wakes_parallel"`
	WakeWait      Duration `toml:"wake_wait"`
}

// Forking says whether instances are cloned from a template.
type Forking struct {
	Enabled bool `toml:"enabled"`
	// Idle is how long a template is kept of which nobody has made use; 0: as long as there is memory.
	Idle Duration `toml:"idle"`
}

// Storing says where the memory of seeds is kept.
type Storing struct {
	Store bool `toml:"store"`
	// Quota bounds the page store; 0: no bound.
	Quota Size `toml:"quota"`
}

// Sharing says which instances share their seed's one copy of its memory.
type Sharing struct {
	Shared bool `toml:"shared"`
	// From is the size of the smallest image that is worth it.
	From Size `toml:"from"`
}

// shares says whether the instances of an image of so many bytes do.
func (s Sharing) shares(bytes uint64) bool { return s.Shared && bytes >= uint64(s.From) }

// Size is a number of bytes, written as text: "4MiB", "512KiB".
type Size uint64

// sizeUnits are powers of two.
var sizeUnits = []struct {
	name  string
	bytes uint64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads a whole number and a unit.
func (s *Size) UnmarshalText(text []byte) error {
	for _, unit := range sizeUnits {
		number, ok := strings.CutSuffix(string(text), unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || n > math.MaxUint64/unit.bytes {
			break
		}
		*s = Size(n * unit.bytes)
		return nil
	}
	return fmt.Errorf("size %q: want a whole number of B, KiB, MiB or GiB", text)
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is the number in the largest unit of which it is a whole number.
func (s Size) String() string {
	for _, unit := range sizeUnits {
		if n := uint64(s); n > 0 && n%unit.bytes == 0 {
			return strconv.FormatUint(n/unit.bytes, 10) + unit.name
		}
	}
	return "0B"
}

// Default is the configuration of an empty file.
func Default() Config {
	return Config{
		RunDir:         RunDirFromEnv(),
		StateDir:       DefaultStateDir,
		CgroupRoot:     DefaultCgroupRoot,
		CRIU:           "criu",
		Runc:           "runc",
		Containerd:     "/run/containerd/containerd.sock",
		IdleShims:      2,
		RefillParallel: 1,
		RefillBackoff:  Duration(time.Minute),
		BindTimeout:    Duration(30 * time.Second),
		LogLevel:       "info",
		Restore:        Sharing{Shared: false, From: 24 << 20},
		Fork:           Forking{Enabled: true, Idle: Duration(10 * time.Minute)},
		Seeds:          Keeping{Rebuild: true, AutoAllow: []string{"*"}, AutoDeny: []string{}, AutoSpares: 1, AutoMax: 16, AutoUnused: Duration(7 * 24 * time.Hour)},
		Pool:           Policy{HalfLife: Duration(5 * time.Minute), MaxAge: Duration(24 * time.Hour), KeepFree: 512 << 20, WakeWait: Duration(5 * time.Second)},
		GC:             Sweeping{Interval: Duration(time.Hour)},
	}
}

// LoadConfig reads a configuration file over the defaults. A key that is not known is an error with its name and line. A file that does not exist is
// empty, unless it was asked for: mustExist.
func LoadConfig(file string, mustExist bool) (Config, error) {
	c := Default()
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !mustExist {
		return c, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	if err := parseConfig(data, &c); err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", file, err)
	}
	return c, nil
}

func parseConfig(data []byte, c *Config) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c)
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			errs = append(errs, fmt.Errorf("line %d: unknown key %s; `sproutd config default` prints those that there are", line, path.Join(e.Key()...)))
		}
		return errors.Join(errs...)
	}
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := wrong.Position()
		return fmt.Errorf("line %d: %s: %w", line, path.Join(wrong.Key()...), wrong)
	}
	if err != nil {
		return err
	}
	return c.Validate()
}

// Validate refuses what cannot work, and names the key.
func (c Config) Validate() error {
	for _, dir := range []struct{ key, value string }{{"run_dir", c.RunDir}, {"state_dir", c.StateDir}, {"cgroup_root", c.CgroupRoot}} {
		if !filepath.IsAbs(dir.value) || filepath.Clean(dir.value) != dir.value || dir.value == "/" {
			return fmt.Errorf("%s = %q: want a clean absolute path below /", dir.key, dir.value)
		}
	}
	// The longest socket is keepers/<seed>.sock; the kernel takes 107 bytes.
	if n := len(Paths{RunDir: c.RunDir}.KeeperSocket(newID())); n > 107 {
		return fmt.Errorf("run_dir = %q: %d bytes too long for the sockets below it", c.RunDir, n-107)
	}
	for _, program := range []struct{ key, value string }{{"criu", c.CRIU}, {"runc", c.Runc}} {
		if program.value == "" {
			return fmt.Errorf("%s is empty: want a program", program.key)
		}
	}
	for _, number := range []struct {
		key             string
		value, min, max int
	}{
		{"idle_shims", c.IdleShims, 0, 1000},
		{"refill_parallel", c.RefillParallel, 1, 64},
		{"seeds.auto_spares", c.Seeds.AutoSpares, 1, 1000},
		{"seeds.auto_max", c.Seeds.AutoMax, 0, 10000},
		{"pool.wakes_parallel", c.Pool.WakesParallel, 0, 1000},
	} {
		if number.value < number.min || number.value > number.max {
			return fmt.Errorf("%s = %d: want %d to %d", number.key, number.value, number.min, number.max)
		}
	}
	for _, d := range []struct {
		key   string
		value Duration
	}{{"refill_backoff", c.RefillBackoff}, {"bind_timeout", c.BindTimeout}, {"pool.half_life", c.Pool.HalfLife}, {"pool.wake_wait", c.Pool.WakeWait}} {
		if d.value < Duration(time.Second) {
			return fmt.Errorf("%s = %q: want at least 1s", d.key, time.Duration(d.value))
		}
	}
	for _, d := range []struct {
		key   string
		value Duration
	}{{"pool.max_age", c.Pool.MaxAge}, {"gc.interval", c.GC.Interval}, {"fork.idle", c.Fork.Idle}, {"seeds.auto_unused", c.Seeds.AutoUnused}} {
		if d.value != 0 && d.value < Duration(time.Second) {
			return fmt.Errorf("%s = %q: want 0s, or at least 1s", d.key, time.Duration(d.value))
		}
	}
	if _, ok := logLevels[c.LogLevel]; !ok {
		return fmt.Errorf("log_level = %q: want debug, info, warn or error", c.LogLevel)
	}
	return nil
}

var logLevels = map[string]log.Level{"debug": log.DebugLevel, "info": log.InfoLevel, "warn": log.WarnLevel, "error": log.ErrorLevel}

// Paths are the places that the configuration names.
func (c Config) Paths() Paths { return Paths{RunDir: c.RunDir, StateDir: c.StateDir} }
