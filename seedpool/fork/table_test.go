package fork

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Whatever table of descriptors a process has, of kinds that are cloned: the clone's is like it, line by line, and none of it is the template's.
func TestRandomTablesOfDescriptorsAreCloned(t *testing.T) {
	const tables = 20
	seed := rand.IntN(1 << 30)
	if value := os.Getenv("SPROUT_TABLE"); value != "" {
		var err error
		if seed, err = strconv.Atoi(value); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("testdata/table.py")
	if err != nil {
		t.Fatal(err)
	}
	for n := range tables {
		t.Run(fmt.Sprint(seed+n), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("SPROUT_TABLE=%d has this table again as the first", seed+n)
				}
			}()
			pid := start(t, "/usr/bin/python3", "-S", script, fmt.Sprint(seed+n), t.TempDir())
			fds := numbersOf(t, pid)
			want := table(t, pid, fds) // a template's own files that could be written to are taken from it
			template := makeTemplate(t, pid)
			c := makeClone(t, template)
			if diff := cmp.Diff(want, table(t, c.PID, fds)); diff != "" {
				t.Error(diff)
			}
			for _, fd := range fds {
				if same, err := linux.SameDescription(template.pid, fd, c.PID, fd); err != nil || same {
					t.Errorf("descriptor %d is the template's: %v", fd, err)
				}
			}
		})
	}
}

// numbersOf lists the descriptors of a process but for its standard streams.
func numbersOf(t *testing.T, pid int) (list []int) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= standardStreams {
			list = append(list, fd)
		}
	}
	slices.Sort(list)
	return list
}

// passing are lines of fdinfo, or parts of them, that are of this process only: what a file's own number is, and what goes on with the time.
var passing = regexp.MustCompile(`(?m)^(mnt_id|ino|eventfd-id|it_value).*\n|pos:0 ino:[0-9a-f]+ sdev:[0-9a-f]+`)

// table describes descriptors: what fdinfo says, what waits in them, the number of the first one of the same open file, and of the same pipe or socket.
func table(t *testing.T, pid int, fds []int) (lines []string) {
	t.Helper()
	p, err := linux.OpenPidfd(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for n, fd := range fds {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		if err != nil {
			t.Fatal(err)
		}
		info := strings.Split(passing.ReplaceAllString(proc(t, pid, "fdinfo/%d", fd), ""), "\n")
		slices.Sort(info) // an epoll instance lists its watches in the order of addresses
		same, like := slices.IndexFunc(fds[:n+1], func(o int) bool {
			same, err := linux.SameDescription(pid, o, pid, fd)
			return err == nil && same
		}), slices.IndexFunc(fds, func(o int) bool {
			other, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, o))
			return err == nil && (other == link && opened(link) != unnamed || o == fd)
		})
		lines = append(lines, fmt.Sprintf("%d: %s same as %d, like %d:%s %x", fd, opened(link), fds[same], fds[like], strings.Join(info, " "), waits(t, p, fd, link)))
	}
	return lines
}

const unnamed = "a file without a name"

// opened is the path of what has one, and the kind of what has not.
func opened(link string) string {
	if kind, _, numbered := strings.Cut(link, ":["); numbered {
		return kind
	}
	if strings.HasSuffix(link, " (deleted)") {
		return unnamed
	}
	return link
}

// waits is what is to be read from a pipe or a connection, and of the file without a name its content.
func waits(t *testing.T, p *linux.Pidfd, fd int, link string) (content []byte) {
	t.Helper()
	var err error
	switch {
	case strings.HasPrefix(link, "pipe:"):
		content, err = p.Unread(fd, 1<<20)
		if err != nil { // its other end
			content, err = nil, nil
		}
	case strings.HasSuffix(link, " (deleted)"):
		content, err = os.ReadFile(fmt.Sprintf("/proc/%d/fd/%d", p.PID(), fd))
	case strings.HasPrefix(link, "socket:"):
		var s linux.Socket
		if s, err = p.Socket(fd); err == nil {
			s.Address, s.Remote = nil, nil
			content = fmt.Appendf(nil, "%+v", s)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return content
}
