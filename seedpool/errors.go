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

// classed is an error of one of errdefs' classes whose text does not end with the name of the class: the user has no use for it.
type classed struct{ err, class error }

func (c *classed) Error() string        { return c.err.Error() }
func (c *classed) Unwrap() error        { return c.class }
func (c *classed) Is(target error) bool { return errors.Is(c.err, target) }
func (c *classed) As(target any) bool   { return errors.As(c.err, target) }

// fail is fmt.Errorf for an error of a class.
func fail(class error, format string, args ...any) error {
	return &classed{fmt.Errorf(format, args...), class}
}

// Refuse gives an error a reason code.
func Refuse(reason Reason, class error, format string, args ...any) error {
	return refuse(reason, fail(class, format, args...))
}

// ToGRPC is toGRPC for shims.
func ToGRPC(what string, err error) error { return toGRPC(what, err) }

// toGRPC is the one place where an error becomes the answer of an RPC: what was asked, the error's class, the reason code.
func toGRPC(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = refuse(ReasonDiskFull, fail(errdefs.ErrResourceExhausted, "%w", err))
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	s := status.New(status.Code(errgrpc.ToGRPC(err)), what+": "+text)
	if reason, ok := ReasonOf(err); ok {
		// A status without the code is still the right answer, with less to say.
		if detailed, err := s.WithDetails(&api.Refusal{Reason: string(reason)}); err == nil {
			s = detailed
		}
	}
	return s.Err()
}
