package seedpool

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAnAnswerCarriesClassTextAndReason(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		code   codes.Code
		text   string
		reason Reason
	}{
		"refusal":         {refuse(ReasonNoSpare, fail(errdefs.ErrNotFound, "seed %s: none", "x")), codes.NotFound, "do: seed x: none", ReasonNoSpare},
		"wrapped":         {fmt.Errorf("a: %w", refuse(ReasonSeedBad, fail(errdefs.ErrDataLoss, "b"))), codes.DataLoss, "do: a: b", ReasonSeedBad},
		"joined":          {errors.Join(refuse(ReasonUpperNotEmpty, fail(errdefs.ErrFailedPrecondition, "a")), nil), codes.FailedPrecondition, "do: a", ReasonUpperNotEmpty},
		"full disk":       {fmt.Errorf("write: %w", syscall.ENOSPC), codes.ResourceExhausted, "do: write: no space left on device", ReasonDiskFull},
		"plain":           {errors.New("x"), codes.Unknown, "do: x", ""},
		"class and errno": {fail(errdefs.ErrUnavailable, "a: %w", syscall.ECONNREFUSED), codes.Unavailable, "do: a: connection refused", ""},
		"deadline":        {context.DeadlineExceeded, codes.DeadlineExceeded, "do: context deadline exceeded", ""},
		"status":          {status.Error(codes.FailedPrecondition, "two\nlines"), codes.FailedPrecondition, "do: two\nlines", ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer := toGRPC("do", c.err)
			s, _ := status.FromError(answer)
			if s.Code() != c.code || s.Message() != c.text {
				t.Errorf("%s %q, want %s %q", s.Code(), s.Message(), c.code, c.text)
			}
			for _, got := range []error{answer, errgrpc.ToNative(answer), fmt.Errorf("client: %w", errgrpc.ToNative(answer))} {
				if reason, _ := ReasonOf(got); reason != c.reason {
					t.Errorf("reason %q of %v, want %q", reason, got, c.reason)
				}
			}
		})
	}
	if toGRPC("do", nil) != nil {
		t.Error("nil became an error")
	}
	if err := fail(errdefs.ErrUnavailable, "a: %w", syscall.ECONNREFUSED); !errors.Is(err, syscall.ECONNREFUSED) || !errdefs.IsUnavailable(err) {
		t.Error("the class hides the cause, or the cause the class")
	}
}
