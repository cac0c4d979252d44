package seedpool

// ShimParams is all that a shim is told when it stops being idle, or when a launcher starts it: JSON, one line. The launcher, which links nothing but the
// standard library, has a copy of this struct.
type ShimParams struct {
	// Namespace is containerd's; ID the container's, Group that of its pod or its own.
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	Group     string `json:"group"`
	// Address is the socket that the shim shall serve on, as containerd will dial it: unix:///path.
	Address string `json:"address"`
	// Bundle is the container's directory.
	Bundle string `json:"bundle"`
	// ContainerdAddress is containerd's gRPC socket, ContainerdTTRPC its ttrpc socket, Publisher its binary that publishes events.
	ContainerdAddress string `json:"containerd_address"`
	ContainerdTTRPC   string `json:"containerd_ttrpc"`
	Publisher         string `json:"publisher"`
	Debug             bool   `json:"debug,omitempty"`
	// Cgroup is the one that runc's option shim_cgroup wants the shim in; empty: it stays where it is.
	Cgroup string `json:"cgroup,omitempty"`
	// Options are runtime options that the launcher cannot read, an encoded Any, among which that of the shim's cgroup may be.
	Options []byte `json:"options,omitempty"`
	// OOMScore is what the shim's OOM score shall be; nil: as it is.
	OOMScore *int `json:"oom_score,omitempty"`
	// Launcher is the process that asks. An idle shim serves only if its containers inherit from it what they would from a child of that process.
	Launcher int `json:"launcher,omitempty"`
	// Env is the environment that containerd gave the launcher, NAME=VALUE.
	Env []string `json:"env,omitempty"`
}

// IdleParams is what sproutd tells a shim that is idle no longer: the launcher's parameters and what the pool foresees.
type IdleParams struct {
	ShimParams
	Foreseen
}

// Foreseen is how a container will most likely be woken that is about to be created, so that its shim need not wait for the request. Zero: it had better wait.
type Foreseen struct {
	// Rung is thaw when there may be a spare for it, which can then be claimed at once, and fork when it may be cloned.
	Rung Rung `json:"rung,omitempty"`
	// Upperdir is the upper directory of the container's snapshot.
	Upperdir string `json:"upperdir,omitempty"`
}
