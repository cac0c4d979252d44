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

// pingRedis asks redis in a container whether it is alive.
func pingRedis(t *testing.T, s *stack.Stack, id string) {
	t.Helper()
	err := stack.InNetNS(pid(t, s, id), func() error {
		conn, err := net.DialTimeout("tcp4", "127.0.0.1:6379", 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil && line != "+PONG\r\n" {
			err = fmt.Errorf("redis says %q", line)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
