package seedpool

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

// Annotations by which a container asks for a seed of its image and spec, and says what is not in them.
const (
	ownAnnotations     = "sprout.dev/"
	annotationAuto     = ownAnnotations + "auto"
	annotationReady    = ownAnnotations + "ready"
	annotationWarmup   = ownAnnotations + "warmup"
	annotationLateEnv  = ownAnnotations + "late-env"
	annotationLateMnts = ownAnnotations + "late-mount"
)

// Annotations that containerd's CRI plugin makes.
const (
	annotationKind  = "io.kubernetes.cri.container-type"
	annotationImage = "io.kubernetes.cri.image-name"
	kindSandbox     = "sandbox"
)

// autoPerImage bounds the seeds that sproutd bakes of one image by itself: containers of which each is unlike all before would have it bake for ever.
const autoPerImage = 4

// OwnAnnotations are those of a container that are for sprout.
func OwnAnnotations(spec *specs.Spec) map[string]string {
	own := make(map[string]string)
	for name, value := range spec.Annotations {
		if strings.HasPrefix(name, ownAnnotations) {
			own[name] = value
		}
	}
	return own
}

// seedForNext decides whether a seed is to be baked of a container that was started cold, and says so for whoever asks about that start; empty: nobody wants one.
func (p *Pool) seedForNext(ctx context.Context, r *api.ReportRequest) string {
	mode, err := p.autoMode(r.Annotations)
	if err == nil && mode == "" || !lackedSeed(r.Start) {
		return ""
	}
	var o *order
	if err == nil {
		o, err = p.autoOrder(ctx, r, mode)
	}
	if err == nil {
		err = p.wantSeed(o)
	}
	switch {
	case errors.Is(err, errSandbox):
		return ""
	case err != nil:
		return "no seed is baked of it: " + err.Error()
	}
	return fmt.Sprintf("seed %s is being baked of it, of mode %s, for the next start (`sprout seed inspect %s`)", o.request.Name, mode, o.request.Name)
}

// autoMode is the mode of which a container wants a seed; empty: of none.
func (p *Pool) autoMode(annotations map[string]string) (mode string, err error) {
	switch value := annotations[annotationAuto]; value {
	case "true", ModePrestart:
		return ModePrestart, nil
	case ModeClone:
		return ModeClone, nil
	case "false":
		return "", nil
	case "":
		if p.config.Seeds.Auto {
			return ModePrestart, nil
		}
		return "", nil
	default:
		return "", fail(errdefs.ErrInvalidArgument, "annotation %s=%s: want true, %s, %s or false", annotationAuto, value, ModePrestart, ModeClone)
	}
}

// lackedSeed says whether a start was cold because no seed fits the container.
func lackedSeed(start *api.Start) bool {
	return slices.ContainsFunc(start.Fallbacks, func(f *api.Fallback) bool {
		return Reason(f.Reason) == ReasonNoSeed || Reason(f.Reason) == ReasonKeyDiffers
	})
}

// errSandbox: it is the sandbox of a pod, of which nobody wants a seed.
var errSandbox = errors.New("it is the sandbox of a pod")

// autoOrder is the order for a seed like a container, which is what it would be if a user had asked for it.
func (p *Pool) autoOrder(ctx context.Context, r *api.ReportRequest, mode string) (*order, error) {
	if p.imageStore == nil {
		return nil, fail(errdefs.ErrFailedPrecondition, "sproutd does not ask containerd (containerd = \"\" in its configuration)")
	}
	ctx, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	c, err := p.imageStore.Container(ctx, r.Start.Namespace, r.Start.Id)
	if err != nil {
		return nil, err
	}
	spec, err := DecodeSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	if spec.Annotations[annotationKind] == kindSandbox {
		return nil, errSandbox
	}
	if name := spec.Annotations[annotationImage]; name != "" {
		c.Image = name
	}
	if err := p.config.Seeds.allows(c.Image); err != nil {
		return nil, err
	}
	if !sparesFit(spec) && mode == ModePrestart {
		return nil, fail(errdefs.ErrFailedPrecondition, "it shares namespaces, as all in a pod do, and spares of mode prestart have their own: annotate it %s=%s", annotationAuto, ModeClone)
	}
	_, chain := p.rootfs.Container(r.Start.Namespace, r.Start.Id)
	if chain == "" {
		return nil, fail(errdefs.ErrFailedPrecondition, "its snapshot is not of sprout's snapshotter")
	}
	request := &api.BakeRequest{
		Namespace: r.Start.Namespace, Image: c.Image, ChainId: chain, Spec: c.Spec, Mode: mode, Automatic: true,
		LateEnv: listed(r.Annotations[annotationLateEnv]), LateMounts: listed(r.Annotations[annotationLateMnts]),
	}
	if err := p.fillIn(ctx, request, spec, r.Annotations); err != nil {
		return nil, err
	}
	o, err := p.order(request)
	if err == nil && mode == ModePrestart {
		o.bounds.min, o.bounds.max = uint32(p.config.Seeds.AutoSpares), uint32(p.config.Seeds.AutoSpares)
	}
	return o, err
}

// fillIn adds to a request the seed's name, and when the app is ready.
func (p *Pool) fillIn(ctx context.Context, r *api.BakeRequest, spec *specs.Spec, annotations map[string]string) (err error) {
	if r.Name, err = autoName(r, spec); err != nil {
		return err
	}
	if text := annotations[annotationWarmup]; text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return fail(errdefs.ErrInvalidArgument, "annotation %s=%s: want a number of requests", annotationWarmup, text)
		}
		r.Warmup = uint32(n)
	}
	text := annotations[annotationReady]
	if text == "" {
		if text, err = p.exposed(ctx, r); err != nil {
			return err
		}
	}
	ready, err := bake.ParseReadiness(text)
	if err != nil {
		return fail(errdefs.ErrInvalidArgument, "annotation %s: %w", annotationReady, err)
	}
	r.Ready = ready.API()
	return nil
}

// exposed is the check of a container that does not say when it is ready: the one TCP port that its image exposes is open.
func (p *Pool) exposed(ctx context.Context, r *api.BakeRequest) (string, error) {
	image, err := p.imageStore.Image(ctx, r.Namespace, r.Image)
	if err != nil {
		return "", err
	}
	var ports []string
	for port := range image.Config.ExposedPorts {
		if number, protocol, _ := strings.Cut(port, "/"); protocol == "" || protocol == "tcp" {
			ports = append(ports, number)
		}
	}
	if len(ports) != 1 {
		return "", fail(errdefs.ErrFailedPrecondition, "its image exposes %d TCP ports, not one, so say when it is ready: annotation %s=http://:8080/", len(ports), annotationReady)
	}
	return "tcp://:" + ports[0], nil
}

// autoName names the seed of an image and a spec, apart from what is declared late.
func autoName(r *api.BakeRequest, spec *specs.Spec) (string, error) {
	key, err := KeyOf(spec)
	if err != nil {
		return "", err
	}
	for _, name := range r.LateEnv {
		delete(key.Env, name)
	}
	for _, where := range r.LateMounts {
		delete(key.Mounts, path.Clean(where))
	}
	key.MountOrder = nil
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(key)
	if err != nil {
		return "", err
	}
	repository, _, _ := strings.Cut(path.Base(r.Image), ":")
	words := strings.FieldsFunc(repository, func(c rune) bool { return !strings.ContainsRune(nameRunes, c) })
	name := strings.Join(append(words, "auto"), "-")
	return strings.TrimLeft(name[max(0, len(name)-40):], "-") + "-" + digest(append(data, r.ChainId...))[:8], nil
}

// nameRunes are those of which words in a seed's name are made.
const nameRunes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// listed splits the value of an annotation that is a list.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
}

// sparesFit says whether a spare, which has namespaces of its own, could be a container.
func sparesFit(spec *specs.Spec) bool {
	own := make(map[specs.LinuxNamespaceType]bool)
	for _, ns := range spec.Linux.Namespaces {
		own[ns.Type] = ns.Path == ""
	}
	return own[specs.NetworkNamespace] && own[specs.IPCNamespace] && own[specs.UTSNamespace]
}

// allows says why no seed may be baked of an image by itself; nil: it may.
func (k Keeping) allows(image string) error {
	fits := func(glob string) bool { return globbed(glob, image) }
	if !slices.ContainsFunc(k.AutoAllow, fits) || slices.ContainsFunc(k.AutoDeny, fits) {
		return fail(errdefs.ErrPermissionDenied, "image %s is not allowed by auto_allow and auto_deny in sproutd's configuration", image)
	}
	return nil
}

// globbed says whether a glob stands for a text; * is anything.
func globbed(glob, text string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, ".*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(text)
}

// roomForSeed says why a seed must not be baked of a container although it may; nil: it is to be.
func (p *Pool) roomForSeed(o *order) error {
	all, ofImage := 0, 0
	p.mu.Lock()
	for _, s := range p.seeds {
		if s.meta.Info.Automatic {
			all++
			if s.namespace == o.request.Namespace && s.meta.ChainId == o.request.ChainId {
				ofImage++
			}
		}
	}
	p.mu.Unlock()
	switch {
	case all >= p.config.Seeds.AutoMax:
		return fail(errdefs.ErrResourceExhausted, "there are %d automatic seeds (auto_max in sproutd's configuration)", all)
	case ofImage >= autoPerImage:
		return fail(errdefs.ErrResourceExhausted, "there are %d automatic seeds of its image: what differs between its containers may be declared late (annotations %s, %s)",
			ofImage, annotationLateEnv, annotationLateMnts)
	}
	return nil
}
