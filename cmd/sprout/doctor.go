package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/urfave/cli/v3"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// Oldest versions that sprout is built for: containerd's bootstrap protocol changed in 2.3, and CRIU before 4.2 cannot restore sockets on kernels from 6.16 on.
const (
	oldestContainerd = "2.3"
	oldestCRIU       = "4.2"
)

// check is one line of the doctor's report.
type check struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, limited (works without it), missing, unknown
	Says  string `json:"says"`
	Fix   string `json:"fix,omitempty"`
}

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "check what this machine can do, by trying it",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			checks := append(kernelChecks(), sproutdChecks(ctx, cmd)...)
			checks = append(checks, containerdChecks(ctx, cmd)...)
			if err := report(cmd, checks); err != nil {
				return err
			}
			for _, c := range checks {
				if c.State == "missing" {
					return errors.New("something is missing: see the fixes above")
				}
			}
			return nil
		},
	}
}

func report(cmd *cli.Command, checks []check) error {
	if cmd.Bool("json") {
		return writeJSON(cmd.Root().Writer, checks)
	}
	rows := make([][]string, 0, len(checks))
	for _, c := range checks {
		rows = append(rows, []string{c.Name, c.State, c.Says})
		if c.Fix != "" && c.State != "ok" {
			rows = append(rows, []string{"", "fix:", c.Fix})
		}
	}
	return table(cmd.Root().Writer, "CHECK STATE DETAIL", rows)
}

func kernelChecks() []check {
	probes := linux.Probes()
	checks := make([]check, 0, len(probes))
	for _, p := range probes {
		c := check{Name: p.Name, State: "ok", Says: p.Needs}
		switch err := p.Run(); {
		case errors.Is(err, linux.ErrUnknown):
			c.State, c.Says = "unknown", err.Error()
		case err != nil && p.Optional:
			c.State, c.Says, c.Fix = "limited", err.Error()+": "+p.Needs, p.Fix
		case err != nil:
			c.State, c.Says, c.Fix = "missing", err.Error(), p.Fix
		}
		checks = append(checks, c)
	}
	return checks
}

func sproutdChecks(ctx context.Context, cmd *cli.Command) []check {
	daemon := check{Name: "sproutd", State: "ok"}
	criu := check{Name: "criu", State: "unknown", Says: "sproutd knows which one it uses"}
	c, err := dial(ctx, cmd)
	if err == nil {
		defer c.Close()
		var v *api.VersionResponse
		if v, err = c.Seeds.Version(ctx, &api.Empty{}); err == nil {
			daemon.Says = fmt.Sprintf("version %s, pid %d", v.Version, v.Pid)
			criu = versionCheck("criu", v.Criu, oldestCRIU, "install CRIU 4.2 or later and name it in sproutd's configuration (criu = …)")
		}
	}
	if err != nil {
		daemon.State, daemon.Says = "missing", err.Error()
		daemon.Fix = "systemctl start sproutd (contrib/systemd), or name its run directory with --run-dir; until then every start is a cold one"
	}
	return []check{daemon, criu}
}

func containerdChecks(ctx context.Context, cmd *cli.Command) []check {
	daemon := check{Name: "containerd", State: "missing", Fix: "start containerd, or name its socket with --address"}
	c, err := client.New(cmd.String("address"), client.WithTimeout(3*time.Second))
	if err != nil {
		daemon.Says = err.Error()
		return []check{daemon}
	}
	defer c.Close()
	v, err := c.Version(ctx)
	if err != nil {
		daemon.Says = err.Error()
		return []check{daemon}
	}
	daemon = versionCheck("containerd", strings.TrimPrefix(v.Version, "v"), oldestContainerd, "install containerd 2.3 or later")
	return []check{daemon, snapshotterCheck(ctx, c), shimCheck(ctx, c)}
}

// snapshotterCheck asks containerd which snapshotters it has wired.
func snapshotterCheck(ctx context.Context, c *client.Client) check {
	wired := check{Name: "snapshotter wired", State: "missing", Fix: "add contrib/containerd/sprout.toml to containerd's configuration and restart it"}
	plugins, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+snapshotter)
	switch {
	case err != nil:
		wired.Says = err.Error()
	case len(plugins.Plugins) == 0:
		wired.Says = "containerd has no snapshotter " + snapshotter
	default:
		wired.State, wired.Says = "ok", "proxy plugin "+snapshotter
	}
	return wired
}

// shimCheck looks for the launcher where containerd looks: on its own path.
func shimCheck(ctx context.Context, c *client.Client) check {
	const launcher = "containerd-shim-sprout-v2"
	found := check{Name: "shim on containerd's path", State: "missing", Says: launcher + " not found", Fix: "`make install`, or put it on the PATH of containerd's service"}
	server, err := c.IntrospectionService().Server(ctx)
	if err != nil {
		found.State, found.Says = "unknown", err.Error()
		return found
	}
	environ, err := os.ReadFile("/proc/" + strconv.FormatUint(server.Pid, 10) + "/environ")
	if err != nil {
		found.State, found.Says = "unknown", err.Error()
		return found
	}
	for _, entry := range strings.Split(string(environ), "\x00") {
		list, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		if path := findExecutable(launcher, list); path != "" {
			found.State, found.Says = "ok", path
		}
	}
	return found
}

// versionCheck compares the first two numbers of a version.
func versionCheck(name, have, oldest, fix string) check {
	c := check{Name: name, State: "ok", Says: have, Fix: fix}
	h, okHave := majorMinor(have)
	o, _ := majorMinor(oldest)
	switch {
	case !okHave:
		c.State = "unknown"
	case h[0] < o[0] || h[0] == o[0] && h[1] < o[1]:
		c.State, c.Says = "missing", have+" is older than "+oldest
	}
	return c
}

func majorMinor(version string) (parts [2]int, ok bool) {
	fields := strings.SplitN(version, ".", 3)
	if len(fields) < 2 {
		return parts, false
	}
	for i := range parts {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return parts, false
		}
		parts[i] = n
	}
	return parts, true
}

// findExecutable looks a program up in a PATH list that is not this process's own.
func findExecutable(name, list string) string {
	for _, dir := range filepath.SplitList(list) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
