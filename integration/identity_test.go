package integration

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

func TestAnInstanceFindsOutWhichOneItIs(t *testing.T) {
	seen := make(map[string]string)
	for _, rung := range wakes {
		t.Run(rung.name, func(t *testing.T) {
			s := rung.ready(t)
			for _, name := range []string{"one", "two"} {
				id := "identity-" + rung.name + "-" + name
				setPool(t, s, "python", rung.spares)
				run(t, s, id, "python-demo", "--env", "HOSTNAME="+name)
				wantRung(t, s, id, rung.rung)
				if got := get(t, s, id, "/file?path=/run/sprout/env"); got != "HOSTNAME="+name+"\x00" {
					t.Errorf("env is %q", got)
				}
				for _, file := range []string{"generation", "entropy"} {
					got := get(t, s, id, "/file?path=/run/sprout/"+file)
					if before, ok := seen[got]; ok || len(got) < 32 {
						t.Errorf("%s of %s is %q, as that of %q", file, id, got, before)
					}
					seen[got] = id
				}
				var said struct{ ID, Namespace, Seed, Rung string }
				if err := json.Unmarshal([]byte(get(t, s, id, "/file?path=/run/sprout/instance")), &said); err != nil {
					t.Fatal(err)
				}
				if said.ID != id || said.Namespace != s.Namespace || said.Seed != "python" || said.Rung != rung.rung {
					t.Errorf("instance is %+v", said)
				}
			}
		})
	}
}

// draws asks an app for one number from each of its generators.
func draws(t *testing.T, s *stack.Stack, id, path string) map[string]any {
	t.Helper()
	drawn := make(map[string]any)
	if err := json.Unmarshal([]byte(get(t, s, id, path)), &drawn); err != nil || len(drawn) < 3 {
		t.Fatalf("%s draws %v: %v", id, drawn, err)
	}
	return drawn
}

func TestInstancesDrawNumbersOfTheirOwn(t *testing.T) {
	t.Parallel()
	aids, err := filepath.Abs("../contrib/reseed")
	if err != nil {
		t.Fatal(err)
	}
	s := configuredStack(t, stack.Cloning, "python-demo", "node-demo", "php-demo", "tomcat-demo")
	jar := agent(t, s, aids)
	for _, app := range []struct {
		name, path, env string
		// repeats are the generators that repeat with the aid, and alone those that must without it. One that the app has for each thread may, or may not.
		repeats, alone []string
	}{
		{"python", "/random", "PYTHONPATH=/reseed/python", nil, []string{"numpy", "openssl", "random"}},
		{"node", "/random", "NODE_OPTIONS=--require=/reseed/node/reseed.js", nil, []string{"bytes", "random", "uuid"}},
		{"php", "/random", "PHP_INI_SCAN_DIR=:/reseed/php", nil, nil},
		{"tomcat", "/random.jsp", "JAVA_TOOL_OPTIONS=-javaagent:/jar/sprout-reseed.jar", []string{"random"}, []string{"math", "random"}},
	} {
		t.Run(app.name, func(t *testing.T) {
			aid := []string{"--env", app.env, "--mount", "type=bind,src=" + aids + ",dst=/reseed,options=rbind:ro", "--mount", "type=bind,src=" + filepath.Dir(jar) + ",dst=/jar,options=rbind:ro"}
			same := compared(t, s, app.name, app.path, append([]string{"--after-wake", "signal=URG"}, aid...), aid)
			if !slices.Equal(same, app.repeats) {
				t.Errorf("with the aid %v repeat, want %v", same, app.repeats)
			}
			same = compared(t, s, app.name, app.path, nil, nil)
			for _, name := range app.alone {
				if !slices.Contains(same, name) {
					t.Errorf("without the aid only %v repeat: what this test compares is not what it means to", same)
				}
			}
		})
	}
}

// compared bakes an app and says which generators repeat in two instances of it that were woken. The app has drawn before it is baked: what is created at
// its first use is there.
func compared(t *testing.T, s *stack.Stack, name, path string, bake, start []string) (same []string) {
	t.Helper()
	image := name + "-demo"
	args := append([]string{"seed", "bake", "--mode", "clone", "--name", name, "--image", stack.Ref(image), "--ready", "http://:8080" + path, "--warmup", "20"}, bake...)
	if _, err := s.Sprout(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	setPool(t, s, name, 1) // so that the template stands
	setPool(t, s, name, 0)
	var both []map[string]any
	for _, id := range []string{name + "-one", name + "-two"} {
		run(t, s, id, image, start...)
		if said := explain(t, s, id); strings.Contains(said, "rung cold") {
			t.Fatalf("%s was not woken:\n%s", id, said)
		}
		both = append(both, draws(t, s, id, path))
		remove(t, s, id)
	}
	for generator := range both[0] {
		if both[0][generator] == both[1][generator] {
			same = append(same, generator)
		}
	}
	slices.Sort(same)
	return same
}

// agent makes the Java aid's jar, with the compiler that Tomcat has for its pages.
func agent(t *testing.T, s *stack.Stack, aids string) string {
	t.Helper()
	out := t.TempDir()
	_, err := s.Ctr(t.Context(), "run", "--rm", "--mount", "type=bind,src="+aids+",dst=/reseed,options=rbind:ro", "--mount", "type=bind,src="+out+",dst=/out,options=rbind:rw",
		stack.Ref("tomcat-demo"), "compile", "java", "-cp", "/usr/share/java/eclipse-jdt-core.jar", "org.eclipse.jdt.internal.compiler.batch.Main",
		"-source", "17", "-target", "17", "-nowarn", "-proc:none", "-d", "/out", "/reseed/java/SproutReseed.java")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(out, "sprout-reseed.jar")
	jar, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer jar.Close()
	w := zip.NewWriter(jar)
	for _, part := range [][2]string{{"META-INF/MANIFEST.MF", filepath.Join(aids, "java", "MANIFEST.MF")}, {"SproutReseed.class", filepath.Join(out, "SproutReseed.class")}} {
		data, err := os.ReadFile(part[1])
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.Create(part[0])
		if err == nil {
			_, err = io.Copy(f, strings.NewReader(string(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAnAppIsToldThatItWasWokenBeforeItsStartIsOver(t *testing.T) {
	s := house
	for _, c := range []struct {
		name, action string
		optional     bool
		// fails: what the error of the start says; empty: it starts.
		fails string
	}{
		{"http", "http://:8080/", false, ""},
		{"exec", "exec=touch /tmp/woken", false, ""},
		{"exec-fails", "exec=false", false, "--after-wake-optional"},
		{"http-fails", "http://:8080/nowhere", false, "404"},
		{"may-fail", "exec=false", true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed, id := "told-"+c.name, "told-"+c.name
			env := []string{"--env", "TOLD=" + c.name}
			args := append([]string{"--ready", "http://:8080/pid", "--after-wake", c.action, "--after-wake-timeout", "2s"}, env...)
			if c.optional {
				args = append(args, "--after-wake-optional")
			}
			baked(t, s, seed, "python-demo", args...)
			setPool(t, s, seed, 0)
			if c.fails != "" {
				start := append([]string{"run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter}, env...)
				_, err := s.Ctr(t.Context(), append(start, stack.Ref("python-demo"), id)...)
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("start says %v, want %q", err, c.fails)
				}
				remove(t, s, id)
				return
			}
			run(t, s, id, "python-demo", env...)
			said := wantRung(t, s, id, "restore")
			if !strings.Contains(said, "after-wake") {
				t.Errorf("explain does not show what it took:\n%s", said)
			}
			if c.name == "exec" {
				if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/tmp/woken", pid(t, s, id))); err != nil {
					t.Error(err)
				}
			}
			get(t, s, id, "/pid")
		})
	}
}
