package kube

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/vishvananda/netlink"
)

// enclosed is set for the copy of this program that runs the tests.
const enclosed = "SPROUT_KUBE_ENCLOSED"

// nodeAddress is the one that the kubelet registers: it refuses that of the loopback device. The range is for documentation.
const nodeAddress = "192.0.2.1"

var (
	// sysctls are what a kubelet changes for the whole kernel.
	sysctls = []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"}
	// private are the directories that get an empty tmpfs: libcni and the kubelet write there, whatever their configuration says.
	private = []string{"/var/lib/cni", "/var/log/containers", "/var/lib/kubelet", "/var/run/kubernetes"}
)

func TestMain(m *testing.M) {
	if os.Getenv(enclosed) == "" {
		os.Exit(enclose())
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enclose runs this program again in namespaces of its own, and puts back what it has changed outside of them.
func enclose() (code int) {
	defer restoreSysctls()()
	for _, dir := range private {
		if err := os.Mkdir(dir, 0o755); err == nil {
			defer os.Remove(dir)
		}
	}
	// The child shall die with this program: the kernel looks at the thread that started it.
	runtime.LockOSThread()
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), enclosed+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := c.Run(); err != nil {
		if !errors.As(err, new(*exec.ExitError)) {
			fmt.Fprintln(os.Stderr, "these tests need root:", err)
		}
		return 1
	}
	return 0
}

// restoreSysctls remembers settings; the function that it returns puts them back.
func restoreSysctls() func() {
	before := map[string][]byte{}
	for _, name := range sysctls {
		if data, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			before[name] = data
		}
	}
	return func() {
		for name, data := range before {
			if err := os.WriteFile(filepath.Join("/proc/sys", name), data, 0); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}

// furnish gives the namespaces what a node has: a loopback device, an address, a default route, empty directories.
func furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	node := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node"}}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeAddress), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(node), netlink.AddrAdd(node, address), netlink.LinkSetUp(node)); err != nil {
		return fmt.Errorf("make the node's network: %w", err)
	}
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: node.Attrs().Index, Dst: everywhere}); err != nil {
		return fmt.Errorf("make the node's route: %w", err)
	}
	for _, dir := range private {
		if err := mount.All([]mount.Mount{{Type: "tmpfs", Source: "tmpfs"}}, dir); err != nil {
			return err
		}
	}
	return nil
}
