package bake

import (
	"fmt"
	"regexp"
	"strings"
)

// criuHints tell what to do about a line of CRIU's log. The first that matches any line wins: the rare causes come first.
var criuHints = []struct {
	line *regexp.Regexp
	hint string
}{
	// The kernel lets nobody pass an io_uring over a socket, which is how CRIU asks for the app's files: send_fds fails with EINVAL.
	{
		regexp.MustCompile(`(?i)io_uring|send_fds failed \(-22\)`),
		"the app uses io_uring, which CRIU does not dump: switch it off (node: env UV_USE_IO_URING=0)",
	},
	{
		regexp.MustCompile(`(?i)mptcp|[Uu]nsupported proto(col)? 262`),
		"the app listens with MPTCP, which CRIU does not dump: switch it off (Go: env GODEBUG=multipathtcp=0)",
	},
	{
		regexp.MustCompile(`(?i)can't (get|setup) rlimit|prlimit`),
		"CRIU may not read the limits of processes of another user: run sproutd with CAP_SYS_RESOURCE, or the app's processes under one user",
	},
	{
		regexp.MustCompile(`(?i)\btty\b|\bpty\b|dangling|shell-job`),
		"the app holds a terminal: bake it without one",
	},
	{
		regexp.MustCompile(`(?i)in-flight connection`),
		"a connection waits to be accepted: make the app accept before it counts as ready",
	},
	{
		regexp.MustCompile(`(?i)external socket|unix.*(external|peer)`),
		"the app is connected to a unix socket outside its container: bake it without that mount",
	},
	{
		regexp.MustCompile(`(?i)can't lookup mount|unreachable|can't (dump|find) .*(external|bind)`),
		"the app holds a file or mount from outside its container: bake it without that mount, or declare it late",
	},
	{
		regexp.MustCompile(`(?i)ghost`),
		"the app keeps a large deleted file open: it is bigger than CRIU keeps in an image",
	},
	{
		regexp.MustCompile(`(?i)file.?locks?`),
		"the app holds a file lock that CRIU does not dump: bake it in a state without locks",
	},
	{
		regexp.MustCompile(`(?i)no space left`),
		"the disk under the images is full: free space (sprout seed ls, sprout seed rm)",
	},
	{
		regexp.MustCompile(`(?i)seccomp`),
		"CRIU does not carry the seccomp filters that the app has put on top of the spec's own",
	},
	{
		regexp.MustCompile(`(?i)unsupported|unknown|unexpected|can't dump`),
		"the app uses something that CRIU does not dump: the line of the log above names it; it always starts cold",
	},
}

func criuHint(log []string) string {
	text := strings.Join(log, "\n")
	for _, h := range criuHints {
		if h.line.MatchString(text) {
			return h.hint
		}
	}
	return ""
}

// timeoutHint tells what an app that did not become ready was doing instead.
func timeoutHint(r Readiness, sockets []tcpSocket) string {
	if r.Kind != HTTP && r.Kind != TCP {
		return "nothing of the kind was seen in time: check the readiness, or allow more time"
	}
	names := listening(sockets)
	address := r.address()
	for _, s := range sockets {
		if s.state == tcpListen && s.local.Port() == address.Port() {
			return fmt.Sprintf("the app listens on %s: check the path, or allow more time", s.local)
		}
	}
	if len(names) == 0 {
		return "nothing listens in the container: the app may need more time, or a network (while it is baked it has only lo)"
	}
	return fmt.Sprintf("the app listens on %s, not on port %d: check the readiness", strings.Join(names, ", "), address.Port())
}
