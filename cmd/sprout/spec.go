package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v3"
)

// snapshotter is the name under which containerd knows sprout's snapshotter, as the configuration fragment in contrib has it.
const snapshotter = "sprout"

// baked is what sproutd needs to know of an image.
type baked struct {
	name    string
	chainID string
	spec    *specs.Spec
}

// specFlags are the options of `ctr run` that change what an app can see.
func specFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "image", Usage: "image `REF`, already pulled or imported", Required: true},
		&cli.StringSliceFlag{Name: "env", Usage: "set `NAME=VALUE`"},
		&cli.StringSliceFlag{Name: "mount", Usage: "`type=bind,src=…,dst=…,options=rbind:ro`"},
		&cli.StringFlag{Name: "user", Usage: "`USER[:GROUP]` to run as"},
		&cli.StringFlag{Name: "cwd", Usage: "working `DIR`"},
		&cli.StringFlag{Name: "hostname", Usage: "host `NAME` while baking"},
		&cli.BoolFlag{Name: "read-only", Usage: "root file system read-only"},
		&cli.BoolFlag{Name: "seccomp", Usage: "containerd's default seccomp profile"},
		&cli.Uint64Flag{Name: "memory-limit", Usage: "memory limit in `BYTES`"},
		&cli.Float64Flag{Name: "cpus", Usage: "CPU limit in `CORES`"},
		&cli.StringFlag{Name: "spec", Usage: "take the whole OCI spec from `FILE` (for instance from `ctr container info`) instead of making one"},
		&cli.StringFlag{Name: "like", Usage: "take the spec of an existing container `ID`"},
	}
}

// resolve finds the image in containerd, unpacks it for sprout, and makes the spec of the container to bake.
func resolve(ctx context.Context, cmd *cli.Command) (*baked, error) {
	ctx = namespaces.WithNamespace(ctx, cmd.String("namespace"))
	c, err := client.New(cmd.String("address"))
	if err != nil {
		return nil, hint(fmt.Errorf("connect to containerd at %s: %w", cmd.String("address"), err), "is containerd running? name its socket with --address")
	}
	defer c.Close()
	image, err := c.GetImage(ctx, qualify(cmd.String("image")))
	if errdefs.IsNotFound(err) {
		return nil, hint(fmt.Errorf("image %s is not in namespace %s", qualify(cmd.String("image")), cmd.String("namespace")),
			"pull it (`ctr image pull REF`), or name its namespace with -n; `ctr image ls` lists what is there")
	}
	if err != nil {
		return nil, fmt.Errorf("get image: %w", err)
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		return nil, hint(fmt.Errorf("unpack image %s for snapshotter %s: %w", image.Name(), snapshotter, err),
			"containerd must know the snapshotter: contrib/containerd/sprout.toml has the lines; `sprout doctor` checks it")
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return nil, fmt.Errorf("read layers of %s: %w", image.Name(), err)
	}
	chain := identity.ChainID(layers).String()
	spec, err := specOf(ctx, cmd, c, image, chain)
	if err != nil {
		return nil, err
	}
	return &baked{name: image.Name(), chainID: chain, spec: spec}, nil
}

// qualify adds the tag that a reference without one means.
func qualify(ref string) string {
	if strings.Contains(ref, "@") || strings.LastIndex(ref, ":") > strings.LastIndex(ref, "/") {
		return ref
	}
	return ref + ":latest"
}

func specOf(ctx context.Context, cmd *cli.Command, c *client.Client, image client.Image, chain string) (*specs.Spec, error) {
	switch {
	case cmd.String("spec") != "" && cmd.String("like") != "":
		return nil, fmt.Errorf("give --spec or --like, not both")
	case cmd.String("spec") != "":
		return specFromFile(cmd.String("spec"))
	case cmd.String("like") != "":
		container, err := c.LoadContainer(ctx, cmd.String("like"))
		if err != nil {
			return nil, fmt.Errorf("load container %s: %w", cmd.String("like"), err)
		}
		return container.Spec(ctx)
	}
	opts, err := specOptions(cmd, image)
	if err != nil {
		return nil, err
	}
	return generate(ctx, c, cmd.String("name"), chain, opts)
}

// generate makes the spec. The user and the additional groups are looked up in the image's own files, which takes a view of them for the moment.
func generate(ctx context.Context, c *client.Client, name, chain string, opts []oci.SpecOpts) (_ *specs.Spec, err error) {
	ctx, done, err := c.WithLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("take a lease: %w", err)
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	container := &containers.Container{ID: name, Snapshotter: snapshotter, SnapshotKey: fmt.Sprintf("sprout-spec-%d-%s", os.Getpid(), name)}
	files := c.SnapshotService(snapshotter)
	if _, err := files.View(ctx, container.SnapshotKey, chain); err != nil {
		return nil, fmt.Errorf("view files of the image: %w", err)
	}
	defer func() { err = errors.Join(err, files.Remove(context.WithoutCancel(ctx), container.SnapshotKey)) }()
	spec, err := oci.GenerateSpec(ctx, c, container, opts...)
	if err != nil {
		return nil, fmt.Errorf("make spec: %w", err)
	}
	return spec, nil
}

// specOptions are in the order in which `ctr run` applies them: a later one overrides an earlier one, and the seed key must come out the same.
func specOptions(cmd *cli.Command, image client.Image) ([]oci.SpecOpts, error) {
	opts := []oci.SpecOpts{oci.WithDefaultSpec(), oci.WithDefaultUnixDevices, oci.WithEnv(cmd.StringSlice("env"))}
	for _, text := range cmd.StringSlice("mount") {
		m, err := parseMount(text)
		if err != nil {
			return nil, err
		}
		opts = append(opts, oci.WithMounts([]specs.Mount{m}))
	}
	opts = append(opts, oci.WithImageConfig(image))
	if cmd.Bool("read-only") {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	if args := cmd.Args().Slice(); len(args) > 0 {
		opts = append(opts, oci.WithProcessArgs(args...))
	}
	if cwd := cmd.String("cwd"); cwd != "" {
		opts = append(opts, oci.WithProcessCwd(cwd))
	}
	if user := cmd.String("user"); user != "" {
		opts = append(opts, oci.WithUser(user), oci.WithAdditionalGIDs(user))
	}
	if cmd.Bool("seccomp") {
		opts = append(opts, seccomp.WithDefaultProfile())
	}
	if cpus := cmd.Float64("cpus"); cpus > 0 {
		const period = 100000
		opts = append(opts, oci.WithCPUCFS(int64(cpus*period), period))
	}
	if limit := cmd.Uint64("memory-limit"); limit > 0 {
		opts = append(opts, oci.WithMemoryLimit(limit))
	}
	if name := cmd.String("hostname"); name != "" {
		opts = append(opts, oci.WithHostname(name))
	}
	return opts, nil
}

func specFromFile(path string) (*specs.Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// `ctr container info` wraps the spec; a bundle's config.json is the spec itself.
	var wrapped struct{ Spec *specs.Spec }
	if err := json.Unmarshal(data, &wrapped); err != nil {
		return nil, fmt.Errorf("parse spec %s: %w", path, err)
	}
	if wrapped.Spec != nil && wrapped.Spec.Process != nil {
		return wrapped.Spec, nil
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("parse spec %s: %w", path, err)
	}
	if spec.Process == nil || spec.Linux == nil {
		return nil, fmt.Errorf("parse spec %s: it has no process or no linux part", path)
	}
	return spec, nil
}

// parseMount reads ctr's mount syntax: comma-separated key=value, options separated by colons.
func parseMount(text string) (specs.Mount, error) {
	var m specs.Mount
	for _, field := range strings.Split(text, ",") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "type":
			m.Type = value
		case "source", "src":
			m.Source = value
		case "destination", "dst":
			m.Destination = value
		case "options":
			m.Options = strings.Split(value, ":")
		default:
			return m, fmt.Errorf("--mount %q: %q is not one of type, src, dst, options", text, key)
		}
	}
	if m.Destination == "" {
		return m, fmt.Errorf("--mount %q: dst is missing", text)
	}
	return m, nil
}
