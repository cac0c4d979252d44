package stack

import (
	"fmt"
	"os"
)

// configure writes both daemons' configuration files.
func (s *Stack) configure() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	// A link of the stack's own, so that a test can put another program in CRIU's place.
	if err := os.Symlink(s.bin("criu"), s.path("criu")); err != nil {
		return err
	}
	disabled, pods, err := s.configureCRI()
	if err != nil {
		return err
	}
	containerd := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = [%s"io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[proxy_plugins.%s]
  type = "snapshot"
  address = %q
  [proxy_plugins.%s.exports]
    root = %q
`, s.path("root"), s.path("state"), disabled, s.Address(), s.path("containerd.ttrpc"), Snapshotter, s.path("run/snapshotter.sock"), Snapshotter, s.path("lib/snapshots"))
	if err := os.WriteFile(s.path("containerd.toml"), []byte(containerd+pods), 0o600); err != nil {
		return err
	}
	sproutd := fmt.Sprintf("run_dir = %q\nstate_dir = %q\ncgroup_root = %q\ncriu = %q\nrunc = %q\ncontainerd = %q\n%s\n",
		s.RunDir(), s.path("lib"), s.CgroupRoot(), s.path("criu"), s.bin("runc"), s.Address(), s.config)
	return os.WriteFile(s.path("sproutd.toml"), []byte(sproutd), 0o600)
}
