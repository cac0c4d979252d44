package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Runtime is the name by which containerd's clients ask for this shim.
const Runtime = "io.containerd.sprout.v2"

// endTimeout bounds how long the last answers and events may take on their way out.
const endTimeout = 5 * time.Second

// Serve is the life of a shim that a launcher has started with its socket. It returns when the shim shall end.
func Serve(ctx context.Context, socket *os.File, p seedpool.ShimParams) error {
	if err := becomeShim(); err != nil {
		return err
	}
	go staySmall()
	l, err := inherited(socket)
	if err != nil {
		return err
	}
	if err := settle(p); err != nil {
		return errors.Join(err, withdraw(l, p))
	}
	return serve(ctx, l, p, lookAhead(seedpool.IdleParams{ShimParams: p}, seedpool.PathsFromEnv(), nil))
}

// serve answers requests on l until the last task is gone and containerd asks for the end, or a signal does.
func serve(ctx context.Context, l net.Listener, p seedpool.ShimParams, early *ahead) error {
	noteAddress(p)
	ctx = log.WithLogger(ctx, log.L.WithFields(log.Fields{"runtime": Runtime, "ns": p.Namespace}))
	// What works beside the server ends with this, not with sd's own context: containerd's OOM watcher does not know the error of that and would spin.
	beside, cancel := context.WithCancel(namespaces.WithNamespace(ctx, p.Namespace))
	defer cancel()
	ctx, sd := shutdown.WithShutdown(beside)
	stopOnSignal(ctx, sd.Shutdown)

	publisher, err := shim.NewPublisher(p.ContainerdTTRPC)
	if err != nil {
		return errors.Join(fmt.Errorf("connect to containerd: %w", err), withdraw(l, p))
	}
	events := newEventQueue(beside, publisher)
	server, err := newServer(beside, p, events, sd, early)
	if err != nil {
		return errors.Join(err, withdraw(l, p))
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, &doorbell{l, early.connected}) }()

	select {
	case err = <-served:
		err = fmt.Errorf("serve tasks: %w", err)
		sd.Shutdown()
		<-sd.Done()
	case <-sd.Done():
		if cause := sd.Err(); !errors.Is(cause, shutdown.ErrShutdown) {
			err = fmt.Errorf("shut down: %w", cause)
		}
	}
	return errors.Join(err, finish(server, events, p))
}

func newServer(ctx context.Context, p seedpool.ShimParams, events *eventQueue, sd shutdown.Service, early *ahead) (*ttrpc.Server, error) {
	service, err := newService(ctx, p, events, sd, early)
	if err != nil {
		return nil, err
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return nil, fmt.Errorf("make server: %w", err)
	}
	taskAPI.RegisterTTRPCTaskService(server, service)
	api.RegisterTasksService(server, tasks{service})
	return server, nil
}

// withdraw takes the socket away. It goes before it is closed: a launcher that finds none makes one, which would not be ours to remove.
func withdraw(l io.Closer, p seedpool.ShimParams) error {
	return errors.Join(removeSocket(p.Address), l.Close())
}

// finish lets the last answer and the last events out, and closes the socket.
func finish(server *ttrpc.Server, events *eventQueue, p seedpool.ShimParams) error {
	err := removeSocket(p.Address)
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	select {
	case <-events.drained:
	case <-ctx.Done():
		err = errors.Join(err, errors.New("publish last events: containerd does not take them"))
	}
	return errors.Join(err, server.Shutdown(ctx))
}
