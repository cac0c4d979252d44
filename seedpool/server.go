package seedpool

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/containerd/ttrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// service answers the RPCs of Pool and Seeds: one RPC in each server_*.go.
type service struct{ pool *Pool }

// Server serves a pool's API.
type Server struct {
	server *ttrpc.Server
	pool   *Pool
}

// NewServer makes the server of a pool's API. Only root may talk to it.
func NewServer(p *Pool) (*Server, error) {
	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireUidGid(os.Geteuid(), -1)))
	if err != nil {
		return nil, fmt.Errorf("make API server: %w", err)
	}
	s := &service{pool: p}
	api.RegisterPoolService(srv, s)
	api.RegisterSeedsService(srv, s)
	return &Server{server: srv, pool: p}, nil
}

// Serve answers on l until Shutdown.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return s.server.Serve(ctx, l) }

// Shutdown takes no more requests, lets those of starts finish, within ctx, and then ends all connections.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.pool.requests.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	return s.server.Close()
}
