package seedpool

import (
	"net"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

func TestAKeeperThatEndsWhileItIsAskedDoesNotRun(t *testing.T) {
	dir, err := os.MkdirTemp("", "kp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k := &keepers{paths: Paths{RunDir: dir}, open: make(map[string]*keeperConn)}
	if err := os.Mkdir(dir+"/keepers", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", k.paths.KeeperSocket("s1"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	if _, err := k.find(t.Context(), "s1"); !errdefs.IsNotFound(err) {
		t.Errorf("one that closes the connection: %v", err)
	}
	_ = l.Close()
	<-done
	if _, err := k.find(t.Context(), "s1"); !errdefs.IsNotFound(err) {
		t.Errorf("one that is not there: %v", err)
	}
}
