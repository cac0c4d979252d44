package seedpool

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/ttrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Client is one connection to sproutd.
type Client struct {
	Pool  api.PoolService
	Seeds api.SeedsClient
	conn  *ttrpc.Client
}

// Dial connects to sproutd's API socket. It fails at once when nobody listens there.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to sproutd: %w", err)
	}
	c := ttrpc.NewClient(conn)
	return &Client{Pool: api.NewPoolClient(c), Seeds: api.NewSeedsClient(c), conn: c}, nil
}

// Close ends the connection; calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }
