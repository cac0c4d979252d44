package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// contextOf is the test's context while it runs, and one that can still be used in its clean-up.
func contextOf(t *testing.T) context.Context {
	return context.WithoutCancel(t.Context())
}

func askHTTP(pid, requests int) error { return stack.GetMany(pid, "8080", "/", requests) }

func askRedis(pid, requests int) error {
	return stack.InNetNS(pid, func() error {
		conn, err := net.DialTimeout("tcp4", "127.0.0.1:6379", 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		replies := bufio.NewReader(conn)
		for n := range requests {
			if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return err
			}
			if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
				return err
			}
			if line, err := replies.ReadString('\n'); err != nil || line != "+PONG\r\n" {
				return fmt.Errorf("request %d of %d: redis says %q: %w", n+1, requests, line, err)
			}
		}
		return nil
	})
}
