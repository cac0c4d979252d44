package fork

import (
	"fmt"
	"path/filepath"
	"testing"
)

func TestUnixSocketsInsideAreTheClones(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	template := makeTemplate(t, startScript(t, "path = '"+path+"'"+`
stream, full, gram, packets, half = (socket.socketpair(socket.AF_UNIX, k) for k in (1, 1, 2, 5, 1))
twin = os.dup(stream[0].fileno())
stream[0].setblocking(False)
full[0].send(b"waits "); full[0].send(b"still"); full[1].send(b"both")
half[0].shutdown(socket.SHUT_WR)
gram[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
os.umask(0)
listener = socket.socket(socket.AF_UNIX); listener.bind(path); os.chmod(path, 0o610); os.chown(path, 7, 8); listener.listen(5)
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.bind("\0log")
fresh = socket.socket(socket.AF_UNIX)
`, `
  os.write(twin, b"twin"); gram[0].send(b"gram"); gram[0].send(b""); packets[1].send(b"packet")
  assert os.get_blocking(twin) is False and stream[1].getblocking()
  caller = socket.socket(socket.AF_UNIX); caller.connect(path); caller.send(word.encode())
  fresh.connect(path); note = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); note.sendto(b"log", "\0log")
  st = os.stat(path)
  print(stream[1].recv(9), full[1].recv(99), full[0].recv(99), gram[1].recv(9), gram[1].recv(9), packets[0].recv(9), half[1].recv(9), listener.accept()[0].recv(9),
    log.recv(9), gram[1].getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED), listener.getsockname() == path, "%o" % st.st_mode, st.st_uid, st.st_gid, flush=True)
`))
	for _, word := range []string{"one", "two"} {
		tree, _ := overlay(t)
		got := talk(t, template, Sandbox{OwnNet: true, Root: true, Proc: true}, Files{Root: tree}, word)
		want := fmt.Sprintf("b'twin' b'waits still' b'both' b'gram' b'' b'packet' b'' b'%s' b'log' 1 True 140610 7 8\n", word)
		if got != want {
			t.Errorf("clone says %s want %s", got, want)
		}
	}
}
