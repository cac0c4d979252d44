package seedpool

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// refusal is an error that says as a reason code why a rung cannot be had. The code reaches the shim beside the text: see ReasonOf.
type refusal struct {
	reason Reason
	err    error
}

func refuse(reason Reason, err error) error { return &refusal{reason, err} }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// ReasonOf finds the reason code in an error that sproutd has answered with, as it came or converted by errgrpc.ToNative.
func ReasonOf(err error) (Reason, bool) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason, true
	}
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		return Reason(r.Reason), true
	}
	if s, ok := status.FromError(err); ok {
		for _, detail := range s.Details() {
			if r, ok := detail.(*api.Refusal); ok {
				return Reason(r.Reason), true
			}
		}
	}
	return "", false
}

// toGRPC is the one place where an error becomes the answer of an RPC: what was asked, the error's class, the reason code.
func toGRPC(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = refuse(ReasonDiskFull, fmt.Errorf("%w (%w)", err, errdefs.ErrResourceExhausted))
	}
	mapped := errgrpc.ToGRPC(fmt.Errorf("%s: %w", what, err))
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return mapped
	}
	s, ok := status.FromError(mapped)
	if !ok {
		return mapped
	}
	// A status without the code is still the right answer, with less to say.
	if detailed, err := s.WithDetails(&api.Refusal{Reason: string(r.reason)}); err == nil {
		s = detailed
	}
	return s.Err()
}
