package seedpool

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// processEnv makes the test binary another process: a keeper, a sproutd or a shim.
const processEnv = "SEEDPOOL_TEST_PROCESS"

func TestMain(m *testing.M) {
	role, rest, _ := strings.Cut(os.Getenv(processEnv), " ")
	var err error
	switch role {
	case "":
		os.Exit(m.Run())
	case "keeper":
		err = keeperProcess(rest)
	case "sproutd":
		err = sproutdProcess(rest)
	case "offering":
		err = offeringProcess()
	case "stranger":
		err = strangerProcess(rest)
	default:
		err = idleProcess(role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+": "+err.Error())
		os.Exit(1)
	}
}

// untilTerm ends with SIGTERM.
func untilTerm() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM)
}
