package bake

import (
	"bufio"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

const (
	// keptLines is how much of the app's output an error shows.
	keptLines = 20
	// keptLineBytes cuts a kept line: it is for a person to read.
	keptLineBytes = 400
	// maxLineBytes is where a line without an end is taken as one.
	maxLineBytes = 64 << 10
)

// logs reads what the app writes: it keeps the last lines and says when one has matched.
type logs struct {
	match   *regexp.Regexp
	matched chan struct{}
	readers sync.WaitGroup

	// mu is above what it guards: the last lines, oldest first, and whether matched is closed.
	mu    sync.Mutex
	lines []string
	hit   bool
}

// newLogs makes logs that wait for a line that match accepts; nil waits for none.
func newLogs(match *regexp.Regexp) *logs {
	return &logs{match: match, matched: make(chan struct{})}
}

// follow reads r in the background until it ends.
func (l *logs) follow(r io.Reader) {
	l.readers.Go(func() {
		buffered := bufio.NewReaderSize(r, maxLineBytes)
		for {
			// ErrBufferFull gives the filled buffer: it counts as a line, reading goes on behind it.
			line, err := buffered.ReadSlice('\n')
			if len(line) > 0 {
				l.add(strings.TrimRight(string(line), "\r\n"))
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
		}
	})
}

func (l *logs) add(line string) {
	matches := l.match != nil && l.match.MatchString(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, printable(line))
	if len(l.lines) > keptLines {
		l.lines = append(l.lines[:0:0], l.lines[1:]...)
	}
	if matches && !l.hit {
		l.hit = true
		close(l.matched)
	}
}

// last gives the kept lines, oldest first.
func (l *logs) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// drained waits until every stream has ended, at most until ctx is done.
func (l *logs) drained(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		l.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// printable makes a line of an untrusted app safe for a terminal.
func printable(line string) string {
	if len(line) > keptLineBytes {
		line = line[:keptLineBytes] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, line)
}
