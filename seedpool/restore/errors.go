package restore

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
)

// logLines is how many of the last lines of CRIU's log an error carries.
const logLines = 20

// errEnded means that CRIU has died: it was killed, or it crashed over a damaged image.
var errEnded = errors.New("it ended without an answer")

// Error is a dump or restore that failed, with what CRIU wrote last.
type Error struct {
	// Op is dump or restore.
	Op string
	// Hint is what to do about it; empty when nothing better is known than the error itself.
	Hint string
	// Log holds the last lines of CRIU's log, oldest first; empty when it wrote none.
	Log []string
	Err error
}

func (e *Error) Error() string { return e.Op + " with criu: " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// refusal is CRIU's own word, which is the first error that it met; the last one only says that it failed.
func refusal(resp *rpc.CriuResp) error {
	text := strings.TrimSpace(resp.GetCrErrmsg())
	if text == "" {
		text = "it gives no reason"
	}
	if errno := resp.GetCrErrno(); errno != 0 {
		return fmt.Errorf("%s (errno %d)", text, errno)
	}
	return errors.New(text)
}

// newError adds the end of CRIU's log, or of what it printed when it did not get as far as to open one.
func newError(op, log string, s *session, err error) *Error {
	e := &Error{Op: op, Err: err}
	data, readErr := os.ReadFile(log)
	if readErr != nil && s != nil {
		data = s.output.Bytes()
	}
	if text := strings.TrimSpace(string(data)); text != "" {
		e.Log = strings.Split(text, "\n")
	}
	e.Log = e.Log[max(0, len(e.Log)-logLines):]
	e.Hint = hint(err.Error() + "\n" + strings.Join(e.Log, "\n"))
	return e
}

// hints tell what to do about a restore that failed. The first that matches wins: the rare causes come first. What a dump meets depends on the app, and is the
// bake's to explain.
var hints = []struct {
	text *regexp.Regexp
	hint string
}{
	{
		regexp.MustCompile(`(?i)cannot allocate memory|errno 12\b|out of memory`),
		"the image does not fit into the memory limit of the container, or the host has too little left",
	},
	{
		regexp.MustCompile(`(?i)no space left`),
		"the disk below the run directory or the snapshots is full: free space (sprout seed ls, sprout seed rm)",
	},
	{
		regexp.MustCompile(`(?i)has bad (size|mode|build-id)|can't open file|unable to open .*: no such file`),
		"a file that the app had open is not the same in this container: bake the seed again on this image",
	},
	{
		regexp.MustCompile(`(?i)no mapping for .* mountpoint`),
		"the container that was baked had a mount that its spec does not have: bake the seed again",
	},
	{
		regexp.MustCompile(`(?i)magic|unexpected eof|protobuf|unpack|` + regexp.QuoteMeta(errEnded.Error())),
		"the image may be damaged: sprout seed verify tells, and a new bake mends it",
	},
	{
		regexp.MustCompile(`(?i)sysctl|/proc/sys|operation not permitted|permission denied`),
		"CRIU lacks a privilege or a kernel feature on this host: sprout doctor tells which",
	},
}

func hint(text string) string {
	for _, h := range hints {
		if h.text.MatchString(text) {
			return h.hint
		}
	}
	return ""
}
