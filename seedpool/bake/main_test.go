package bake

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sproutrun/sprout/seedpool/imagetest"
)

// TestMain also plays the CRIU that fails, when the test binary is called criu, and the process that is killed while it bakes.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "criu" {
		os.Exit(failingCRIU())
	}
	if job := os.Getenv("SPROUT_TEST_JOB"); job != "" {
		os.Exit(doJob(job))
	}
	code := m.Run()
	if err := imagetest.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// failingCRIU writes the log that the environment asks for and fails.
func failingCRIU() int {
	text := "(00.000001) Error (criu/sk-inet.c:193): inet: Unsupported proto 262 for socket 1f\n(00.000002) Error (criu/cr-dump.c:2128): Dumping FAILED.\n"
	if err := os.WriteFile(os.Getenv("SPROUT_TEST_CRIU_LOG"), []byte(text), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
