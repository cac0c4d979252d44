package seedpool

import (
	"context"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Events implements api.SeedsService.
func (s *service) Events(ctx context.Context, r *api.EventsRequest, stream api.Seeds_EventsServer) (err error) {
	defer func() { err = toGRPC("follow events", err) }()
	if err := checkScope(r.Namespace); err != nil {
		return err
	}
	next, stop := s.pool.events.follow()
	defer stop()
	if err := stream.Send(&api.Event{Kind: EventFollowing, AtUnixNanoseconds: time.Now().UnixNano()}); err != nil {
		return err
	}
	for {
		select {
		case event := <-next:
			if r.Namespace != "" && event.Namespace != r.Namespace {
				continue
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-s.pool.life.Done():
			return errClosing
		}
	}
}
