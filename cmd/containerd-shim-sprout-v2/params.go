package main

// params are all that a shim is told: the same text as seedpool.ShimParams, which is not imported as it links more than the standard library.
type params struct {
	Namespace         string   `json:"namespace"`
	ID                string   `json:"id"`
	Group             string   `json:"group"`
	Address           string   `json:"address"`
	Bundle            string   `json:"bundle"`
	ContainerdAddress string   `json:"containerd_address"`
	ContainerdTTRPC   string   `json:"containerd_ttrpc"`
	Publisher         string   `json:"publisher"`
	Debug             bool     `json:"debug,omitempty"`
	Cgroup            string   `json:"cgroup,omitempty"`
	Options           []byte   `json:"options,omitempty"`
	OOMScore          *int     `json:"oom_score,omitempty"`
	Launcher          int      `json:"launcher,omitempty"`
	Env               []string `json:"env,omitempty"`
}
