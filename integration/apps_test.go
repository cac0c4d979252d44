package integration

import (
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

// app is one of the programs in the demo images.
type app struct {
	name, image string
	// command runs it, where it is not what the image runs.
	command []string
	// ready and warmup are what its seed is baked with.
	ready, warmup string
	// ask has it answer so many requests, one after the other, in the network namespace of a process.
	ask func(pid, requests int) error
	// refused is why it is not cloned; empty: it is.
	refused string
	// clones and requests are how many are alive at once, and how often each is asked, where there is no time for more.
	clones, requests int
}

// apps are all but python, which other tests have much of. Those from gunicorn on are servers that fork their workers.
var apps = []app{
	{"tomcat", "tomcat-demo", nil, "http://:8080/", "50", askHTTP, "", 10, 1000},
	{"node", "node-demo", nil, "http://:8080/", "20", askHTTP, "", 10, 1000},
	{"redis", "redis-demo", nil, "tcp://:6379", "0", askRedis, "", 2, 300},
	{"gunicorn", "gunicorn-demo", nil, "http://:8080/", "30", askHTTP, "", 5, 300},
	{"nginx", "php-demo", []string{"nginx", "-c", "/etc/nginx/static.conf"}, "http://:8080/", "20", askHTTP, "", 5, 300},
	{"php-fpm", "php-demo", []string{"php-fpm8.2", "--fpm-config", "/etc/php/8.2/fpm/tcp.conf", "--allow-to-run-as-root"}, "tcp://:9000", "0", askFPM, "", 5, 300},
	{"php", "php-demo", nil, "http://:8080/", "20", askHTTP, "not of the first one", 0, 0},
}

var python = app{name: "python", image: "python-demo", ask: askHTTP, clones: 10, requests: 1000}

// bake makes a seed of the app.
func (a app) bake(t *testing.T, s *stack.Stack) string {
	t.Helper()
	args := []string{"--ready", a.ready, "--warmup", a.warmup}
	if len(a.command) > 0 {
		args = append(append(args, "--"), a.command...)
	}
	return baked(t, s, a.name, a.image, args...)
}

// run starts a container of the app and returns the host's pid of its first process.
func (a app) run(t *testing.T, s *stack.Stack, id, rung string) (first int, explained string) {
	t.Helper()
	list := []string{"run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter, stack.Ref(a.image), id}
	if _, err := s.Ctr(t.Context(), append(list, a.command...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s, id) })
	return pid(t, s, id), wantRung(t, s, id, rung)
}
