package fork

import (
	"fmt"
	"testing"
)

func TestSystemVMemoryAndSettingsAreTheClones(t *testing.T) {
	template := makeTemplate(t, startScript(t, `
open("/proc/sys/kernel/msgmax", "w").write("9000"); open("/proc/sys/fs/mqueue/msg_max", "w").write("11")
libc.shmat.restype = ctypes.c_void_p
def attach(n, flags=0): return libc.shmat(n, None, flags)
libc.shmctl(libc.shmget(0, 1, 0o600), 0, None) # so that the numbers are not those of a new namespace
whole, loose = libc.shmget(7, 5000, 0o1640), libc.shmget(0, 9, 0o600)
assert libc.shmctl(loose, 1, struct.pack("iIIIIH58x", 0, 7, 8, 0, 0, 0o660)) == 0
at, read = attach(whole), attach(whole, 0o10000)
ctypes.memmove(at, b"seed", 4); ctypes.memmove(at + 4999, b"z", 1)
other = attach(loose); ctypes.memmove(other, b"loose", 5); libc.shmdt(ctypes.c_void_p(other))
`, `
  seen = ctypes.string_at(read, 4) + ctypes.string_at(at + 4999, 1)
  ctypes.memmove(at, word.encode(), 4)
  rows = [r.split()[:4] + r.split()[6:9] for r in open("/proc/sysvipc/shm")][1:]
  print(*[int(open("/proc/sys/" + f).read()) for f in ("kernel/msgmax", "fs/mqueue/msg_max", "kernel/msgmnb")], seen, ctypes.string_at(read, 4), ctypes.string_at(attach(loose), 9), libc.shmget(7, 0, 0) == whole, [r[1] for r in rows] == [str(whole), str(loose)], *[":".join(r[:1] + r[2:]) for r in rows], flush=True)
`))
	for _, word := range []string{"one.", "two."} {
		got, _ := talk(t, template, Sandbox{OwnNet: true}, Files{}, word)
		want := fmt.Sprintf("9000 11 16384 b'seedz' b'%s' b'loose\\x00\\x00\\x00\\x00' True True 7:640:5000:2:0:0 0:660:9:0:7:8\n", word)
		if got != want {
			t.Errorf("clone says %s want %s", got, want)
		}
	}
}
