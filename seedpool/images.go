package seedpool

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Images is what the pool asks containerd for; sproutd puts the two together. Errors are errdefs'.
type Images interface {
	// Image is what a name stands for now; NotFound: nothing.
	Image(ctx context.Context, namespace, ref string) (Image, error)
	// Container is what a container was asked for.
	Container(ctx context.Context, namespace, id string) (Container, error)
}

// Container is the name of a container's image, and its OCI runtime spec as JSON.
type Container struct {
	Image string
	Spec  []byte
}

// Image is one image as far as containers depend on it.
type Image struct {
	// ChainID is that of its layers: what snapshots stand on.
	ChainID string
	Config  ocispec.ImageConfig
}

// imageTimeout bounds a question to containerd, which may be starting and want something of us.
const imageTimeout = 2 * time.Second

// noteImage adds to a request what its image says about containers, so that the bake can be repeated with the image's successor. Without it that has to be done by hand.
func (p *Pool) noteImage(ctx context.Context, r *api.BakeRequest) {
	r.ImageConfig = nil
	if p.imageStore == nil || r.Image == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	image, err := p.imageStore.Image(ctx, r.Namespace, r.Image)
	if err == nil && image.ChainID == r.ChainId {
		r.ImageConfig, err = json.Marshal(image.Config)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithFields(log.Fields{"ns": r.Namespace, "image": r.Image}).Warn("find image of seed: it will not be followed")
	}
}

// followImage gives the request with which an app is to be baked on what the image's name stands for now; moved: that is another image than it was. An image of which
// nothing is known, or no more, is as it was.
func (p *Pool) followImage(ctx context.Context, r *api.BakeRequest) (_ *api.BakeRequest, moved bool, err error) {
	if p.imageStore == nil || len(r.ImageConfig) == 0 {
		return r, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	image, err := p.imageStore.Image(ctx, r.Namespace, r.Image)
	switch {
	case errdefs.IsNotFound(err):
		return r, false, nil
	case err != nil:
		return nil, false, err
	case image.ChainID == r.ChainId:
		return r, false, nil
	}
	r = proto.CloneOf(r)
	r.ChainId = image.ChainID
	if r.Spec, err = moveSpec(r.Spec, r.ImageConfig, image.Config); err != nil {
		return nil, true, err
	}
	r.ImageConfig, err = json.Marshal(image.Config)
	return r, true, err
}

// moveSpec makes of the spec of a container of one image that of a container of another which was asked for in the same way.
func moveSpec(spec, from []byte, to ocispec.ImageConfig) ([]byte, error) {
	s, err := DecodeSpec(spec)
	if err != nil {
		return nil, err
	}
	var old ocispec.ImageConfig
	if err := json.Unmarshal(from, &old); err != nil {
		return nil, fmt.Errorf("decode image configuration: %w", err)
	}
	if old.User != to.User {
		return nil, fail(errdefs.ErrFailedPrecondition, "the image's user was %q and is %q: bake it again by hand", old.User, to.User)
	}
	moveProcess(s.Process, old, to)
	return json.Marshal(s)
}

// moveProcess replaces what came from the old image, and keeps what was asked for besides.
func moveProcess(p *specs.Process, old, to ocispec.ImageConfig) {
	switch {
	case slices.Equal(p.Args, slices.Concat(old.Entrypoint, old.Cmd)):
		p.Args = slices.Concat(to.Entrypoint, to.Cmd)
	case len(old.Entrypoint) > 0 && len(p.Args) >= len(old.Entrypoint) && slices.Equal(p.Args[:len(old.Entrypoint)], old.Entrypoint):
		p.Args = slices.Concat(to.Entrypoint, p.Args[len(old.Entrypoint):])
	}
	if p.Cwd == workDir(old) {
		p.Cwd = workDir(to)
	}
	var env []string
	own := make(map[string]bool) // names of variables that do not come from the image
	for _, entry := range p.Env {
		if !slices.Contains(old.Env, entry) {
			name, _, _ := strings.Cut(entry, "=")
			own[name] = true
			env = append(env, entry)
		}
	}
	for _, entry := range to.Env {
		if name, _, _ := strings.Cut(entry, "="); !own[name] {
			env = append(env, entry)
		}
	}
	p.Env = env
}

func workDir(c ocispec.ImageConfig) string {
	if c.WorkingDir == "" {
		return "/"
	}
	return c.WorkingDir
}
