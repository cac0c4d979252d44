package keeper

import (
	"fmt"
	"os"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// What it is told it hears by a connection to a unix socket of its own.
func TestAnInstanceIsToldOfItsOwnFilesOnly(t *testing.T) {
	b := prepareBed(t, "node-demo")
	b.bake(b.img.Spec(t, "node", "-e", `
const fs = require('fs'), net = require('net')
fs.mkdirSync('/tmp/seen/deep', {recursive: true})
const told = net.createServer(c => c.on('data', line => fs.appendFileSync('/tmp/told', line))).listen('/tmp/socket', () => {
  const line = net.connect('/tmp/socket')
  for (const dir of ['/tmp/seen', '/tmp/seen/deep', '/etc/passwd', '/']) fs.watch(dir, (event, name) => line.write(dir + ' ' + event + ' ' + name + '\n'))
})
setTimeout(() => fs.writeFileSync('/tmp/seen/up', ''), 100)
`), "file=/tmp/told", confined)
	b.spawn()
	for id, i := range map[string]*api.Instance{"restored": b.make("restored"), "one": b.fork("one"), "two": b.fork("two")} {
		if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
			t.Fatal(err)
		}
		root := fmt.Sprintf("/proc/%d/root/tmp/", i.Pid)
		if err := os.WriteFile(root+"seen/deep/"+id, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		told, want := "", fmt.Sprintf("/tmp/seen rename up\n/tmp/seen/deep rename %s\n", id)
		for deadline := time.Now().Add(10 * time.Second); told != want && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			data, err := os.ReadFile(root + "told")
			if err != nil {
				t.Fatal(err)
			}
			told = string(data)
		}
		if told != want {
			t.Errorf("%s was told %q, want %q", id, told, want)
		}
	}
}
