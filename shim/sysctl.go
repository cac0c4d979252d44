package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// setSysctls writes the spec's, each in the namespace that it belongs to: an image has none of those namespaces.
func (a *attempt) setSysctls(context.Context) error {
	if len(a.spec.Linux.Sysctl) == 0 {
		return nil
	}
	of := make(map[specs.LinuxNamespaceType][]string)
	for name := range a.spec.Linux.Sysctl {
		kind := sysctlNamespace(name)
		if kind == "" {
			return fmt.Errorf("set %s: it belongs to no namespace", name)
		}
		of[kind] = append(of[kind], name)
	}
	joins := a.req.joins()
	for kind, names := range of {
		if *joins[kind] == hostNamespace(kind) {
			return fmt.Errorf("set %s: the %s namespace is the host's", names[0], kind)
		}
		if err := a.writeSysctls(kind, names); err != nil {
			return err
		}
	}
	return nil
}

// sysctlNamespace is the kind of namespace that a sysctl belongs to, as runc has it; empty: none, or none that a container may change.
func sysctlNamespace(name string) specs.LinuxNamespaceType {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return specs.IPCNamespace
	case "kernel.domainname":
		return specs.UTSNamespace
	}
	switch {
	case strings.HasPrefix(name, "net."):
		return specs.NetworkNamespace
	case strings.HasPrefix(name, "fs.mqueue."):
		return specs.IPCNamespace
	}
	return ""
}

// writeSysctls writes those of one namespace: /proc/sys shows those of the thread that opens it.
func (a *attempt) writeSysctls(kind specs.LinuxNamespaceType, names []string) error {
	ns, err := linux.NSFile(int(a.instance.Pid), procNamespaces[kind])
	if err != nil {
		return err
	}
	defer ns.Close()
	return linux.Enter([]linux.NS{{File: ns}}, func() error {
		for _, name := range names {
			file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
			if err := os.WriteFile(file, []byte(a.spec.Linux.Sysctl[name]), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}
