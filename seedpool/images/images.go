// Package images asks containerd what it has of images. It speaks to its services as they are: sproutd needs no more of a client than this.
package images

import (
	"context"
	"encoding/json"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sproutrun/sprout/seedpool"
)

// Containerd is a connection to containerd, which need not run yet.
type Containerd struct {
	conn    *grpc.ClientConn
	content content.Store
}

// Connect does not wait for containerd.
func Connect(socket string) (*Containerd, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	return &Containerd{conn: conn, content: proxy.NewContentStore(contentapi.NewContentClient(conn))}, nil
}

// Close ends the connection.
func (c *Containerd) Close() error { return c.conn.Close() }

// Container implements seedpool.Images.
func (c *Containerd) Container(ctx context.Context, namespace, id string) (seedpool.Container, error) {
	found, err := containersapi.NewContainersClient(c.conn).Get(namespaces.WithNamespace(ctx, namespace), &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return seedpool.Container{}, fmt.Errorf("get container %s: %w", id, errgrpc.ToNative(err))
	}
	return seedpool.Container{Image: found.GetContainer().GetImage(), Spec: found.GetContainer().GetSpec().GetValue()}, nil
}

// Image implements seedpool.Images.
func (c *Containerd) Image(ctx context.Context, namespace, ref string) (seedpool.Image, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	found, err := imagesapi.NewImagesClient(c.conn).Get(ctx, &imagesapi.GetImageRequest{Name: ref})
	if err != nil {
		return seedpool.Image{}, fmt.Errorf("get image %s: %w", ref, errgrpc.ToNative(err))
	}
	target := found.GetImage().GetTarget()
	image, err := c.read(ctx, ocispec.Descriptor{MediaType: target.GetMediaType(), Digest: digest.Digest(target.GetDigest()), Size: target.GetSize()})
	if err != nil {
		return seedpool.Image{}, fmt.Errorf("read image %s: %w", ref, err)
	}
	return image, nil
}

// read finds the configuration of an image for this machine.
func (c *Containerd) read(ctx context.Context, target ocispec.Descriptor) (seedpool.Image, error) {
	config, err := images.Config(ctx, c.content, target, platforms.Default())
	if err != nil {
		return seedpool.Image{}, err
	}
	data, err := content.ReadBlob(ctx, c.content, config)
	if err != nil {
		return seedpool.Image{}, err
	}
	var image ocispec.Image
	if err := json.Unmarshal(data, &image); err != nil {
		return seedpool.Image{}, fmt.Errorf("decode configuration: %w", err)
	}
	if len(image.RootFS.DiffIDs) == 0 {
		return seedpool.Image{}, fmt.Errorf("it has no layers: %w", errdefs.ErrFailedPrecondition)
	}
	return seedpool.Image{ChainID: identity.ChainID(image.RootFS.DiffIDs).String(), Config: image.Config}, nil
}
