package fork

import (
	"fmt"
	"path/filepath"
	"testing"
)

func TestEachCloneIsToldOfItsOwnFilesOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "watched")
	template := makeTemplate(t, startScript(t, "dir = b'"+dir+"'"+`
os.mkdir(dir)
kept = open(dir + b"/kept", "a")
notify = libc.inotify_init1(0o4000)
for n in range(4): libc.inotify_add_watch(notify, (b"/usr", dir, b"/etc", dir + b"/kept")[n], (0x100, 0x4000fff, 0x100, 0x80000002)[n])
for n in (1, 3): libc.inotify_rm_watch(notify, n)
os.read(notify, 1000)
import select
poll = select.epoll(); poll.register(notify, select.EPOLLIN)
`, `
  quiet = poll.poll(0)
  os.close(os.open(dir + b"/" + word.encode(), os.O_CREAT | os.O_WRONLY))
  for _ in range(2): kept.write("x"); kept.flush()
  told, data, at = [len(poll.poll(0))], os.read(notify, 4096), 0
  while at < len(data):
    wd, mask, _, size = struct.unpack_from("iIII", data, at); at += 16 + size
    told.append("%d:%x:%s" % (wd, mask, data[at - size:at].rstrip(b"\0").decode()))
  print(quiet, *told, libc.inotify_add_watch(notify, b"/", 2) > 4, os.get_blocking(notify), flush=True)
`))
	for _, word := range []string{"one", "two"} {
		tree, _ := overlay(t)
		got, _ := talk(t, template, Sandbox{OwnNet: true, Root: true, Proc: true}, Files{Root: tree}, word)
		want := fmt.Sprintf("[] 1 2:100:%[1]s 2:20:%[1]s 2:8:%[1]s 2:2:kept 4:2: 4:8000: 2:2:kept True False\n", word)
		if got != want {
			t.Errorf("clone says %s want %s", got, want)
		}
	}
}
