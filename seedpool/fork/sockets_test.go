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
	if c, err := template.Clone(timeout(t), Sandbox{OwnNet: true}, Files{}); err == nil {
		t.Errorf("clone %v would take the file of the template's listener", c)
	}
	for _, word := range []string{"one", "two"} {
		tree, _ := overlay(t)
		got, _ := talk(t, template, Sandbox{OwnNet: true, Root: true, Proc: true}, Files{Root: tree}, word)
		want := fmt.Sprintf("b'twin' b'waits still' b'both' b'gram' b'' b'packet' b'' b'%s' b'log' 1 True 140610 7 8\n", word)
		if got != want {
			t.Errorf("clone says %s want %s", got, want)
		}
	}
}

func TestPacketSocketsAreTheClones(t *testing.T) {
	template := makeTemplate(t, startScript(t, `
bound, caller, six, fresh = (socket.socket(f, socket.SOCK_DGRAM) for f in (2, 2, 10, 2))
bound.bind(("127.0.0.1", 5353)); bound.setsockopt(socket.SOL_IP, 8, 1)
caller.connect(("127.0.0.1", 5353))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); six.bind(("::", 5353)); six.setblocking(False)
port = caller.getsockname()
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); route.bind((7, 1)); route.setsockopt(270, 1, 33)
`, `
  caller.send(word.encode()); data, _, _, sender = bound.recvmsg(9, 99)
  fresh.sendto(b"six", ("127.0.0.1", 5353))
  route.send(struct.pack("IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
  print(data, sender == port == caller.getsockname(), bound.getsockopt(socket.SOL_IP, 8), six.getsockname()[:2], six.getblocking(), six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
    bound.recv(9), route.getsockname(), struct.unpack("IHHII", route.recv(9999)[:16])[1:] , flush=True)
`))
	for _, word := range []string{"one", "two"} {
		got, _ := talk(t, template, Sandbox{OwnNet: true}, Files{}, word)
		if want := "b'" + word + "' True 1 ('::', 5353) False 1 b'six' (7, 1) (16, 2, 1, 7)\n"; got != want {
			t.Errorf("clone says %s want %s", got, want)
		}
	}
}

func TestTimersAreTheClones(t *testing.T) {
	template := makeTemplate(t, startScript(t, `
got = []
for n in (34, 35, 36): signal.signal(n, lambda s, f: got.append(s))
def make(number, notify, tid=0, clock=1):
  t = ctypes.c_int()
  assert libc.syscall(222, clock, struct.pack("Qiii44x", 7, number, notify, tid), ctypes.byref(t)) == 0
  return t.value
for n in range(3): make(34, 1)
a, b, c = make(34, 0), make(35, 4, 1), make(36, 0)
assert libc.syscall(226, 1) == 0
assert libc.syscall(223, a, 0, struct.pack("4q", 0, 0, 1000, 0), None) == 0
assert libc.syscall(223, b, 0, struct.pack("4q", 3, 5, 2000, 0), None) == 0
`, `
  left = ctypes.create_string_buffer(32)
  seen = [libc.syscall(224, n, left) == 0 and struct.unpack("4q", left)[:2] + (struct.unpack("4q", left)[2] // 100,) for n in range(7)]
  assert libc.syscall(223, b, 0, struct.pack("4q", 0, 0, 0, 1000), None) == 0
  while not got: time.sleep(0.001)
  print(seen, got, flush=True)
`))
	for range 2 {
		got, _ := talk(t, template, Sandbox{OwnNet: true}, Files{}, "go")
		if want := "[(0, 0, 0), False, (0, 0, 0), (0, 0, 9), (3, 5, 19), (0, 0, 0), False] [35]\n"; got != want {
			t.Errorf("clone says %s want %s", got, want)
		}
	}
}
