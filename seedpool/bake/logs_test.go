package bake

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

func read(match *regexp.Regexp, text string) *logs {
	l := newLogs(match)
	l.follow(strings.NewReader(text))
	l.readers.Wait()
	return l
}

func TestLastLinesAreKept(t *testing.T) {
	var text strings.Builder
	for i := range 3 * keptLines {
		fmt.Fprintf(&text, "line %d\r\n", i)
	}
	text.WriteString("no newline at the end")
	got := read(nil, text.String()).last()
	if len(got) != keptLines || got[0] != fmt.Sprintf("line %d", 2*keptLines+1) || got[keptLines-1] != "no newline at the end" {
		t.Errorf("kept %q", got)
	}
}

func TestLineMatchesOnEitherStream(t *testing.T) {
	l := newLogs(regexp.MustCompile("^ready [0-9]+$"))
	out, outWriter := io.Pipe()
	l.follow(out)
	l.follow(strings.NewReader("ready\nready x\nready 7\n"))
	<-l.matched
	if _, err := io.WriteString(outWriter, "ready 8\n"); err != nil {
		t.Fatal(err)
	}
	if err := outWriter.Close(); err != nil {
		t.Fatal(err)
	}
	l.readers.Wait()
}

func TestLineThatNeverMatchesIsNotAHit(t *testing.T) {
	l := read(regexp.MustCompile("^ready$"), "not ready\nnearly ready\n")
	select {
	case <-l.matched:
		t.Error("a line matched")
	default:
	}
}

func TestEndlessLineIsCut(t *testing.T) {
	l := read(nil, strings.Repeat("x", 5*maxLineBytes)+"\nlast\n")
	got := l.last()
	if len(got) != 7 || got[6] != "last" || len(got[0]) > keptLineBytes+len("…") {
		t.Errorf("%d lines, last %q", len(got), got[len(got)-1])
	}
}

func TestKeptLinesCannotSteerATerminal(t *testing.T) {
	if got := read(nil, "\x1b[2Jred\a\x9b\xff\tok\n").last()[0]; strings.ContainsAny(got, "\x1b\a\u009b") || !strings.HasSuffix(got, "\tok") {
		t.Errorf("kept %q", got)
	}
}
