package main

// Rules of output, and the only file that knows about tables and terminals:
//   - stdout is data: a table, or with --json one JSON document. stderr is talk: progress, notices, errors.
//   - talk starts with "sprout: ", has no capital letter and no full stop.
//   - an error may carry a hint: one more line that says what to do.
//   - progress is one line that is rewritten on a terminal, and one line a step elsewhere.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// hinted is an error with the line that tells the user what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, text string) error { return hinted{err, text} }

func errMissing(what string) error { return fmt.Errorf("%s is missing", what) }

func errExtra(arg string) error { return fmt.Errorf("argument %q is one too many", arg) }

// complain prints an error and its hint.
func complain(err error) {
	text := err.Error()
	if s, ok := status.FromError(errors.Unwrap(err)); ok && s != nil {
		text = s.Message()
	} else if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	fmt.Fprintln(os.Stderr, "sprout: "+text)
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintln(os.Stderr, "sprout: hint: "+h.hint)
	}
}

// notice prints one line of talk.
func notice(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "sprout: "+format+"\n", args...)
}

// jsonFlag is the flag of every listing.
func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

// printJSON writes one message, or a list of them, as one JSON document.
func printJSON[M proto.Message](w io.Writer, messages ...M) error {
	docs := make([]json.RawMessage, 0, len(messages))
	for _, m := range messages {
		doc, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
		if err != nil {
			return err
		}
		docs = append(docs, doc)
	}
	return writeJSON(w, docs)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table writes rows under a heading, columns aligned.
func table(w io.Writer, heading string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(strings.Fields(heading), "\t"))
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// progress shows the steps of long work on stderr.
type progress struct {
	terminal bool
	last     string
	width    int
}

func newProgress() *progress {
	return &progress{terminal: isTerminal(os.Stderr)}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// show replaces the current line on a terminal; elsewhere it prints a line when the step is a new one.
func (p *progress) show(step, text string) {
	line := fmt.Sprintf("sprout: %-7s %s", step, text)
	switch {
	case p.terminal && step == p.last:
		fmt.Fprintf(os.Stderr, "\r%-*s", p.width, line)
	case p.terminal:
		p.end()
		fmt.Fprint(os.Stderr, line)
	case step != p.last:
		fmt.Fprintln(os.Stderr, line)
	}
	p.last, p.width = step, len(line)
}

// end leaves the last line standing.
func (p *progress) end() {
	if p.terminal && p.last != "" {
		fmt.Fprintln(os.Stderr)
	}
	p.last = ""
}

func bytesText(n uint64) string {
	const unit = 1 << 10
	switch {
	case n >= unit*unit*unit:
		return fmt.Sprintf("%.1f GiB", float64(n)/(unit*unit*unit))
	case n >= unit*unit:
		return fmt.Sprintf("%.1f MiB", float64(n)/(unit*unit))
	case n >= unit:
		return fmt.Sprintf("%.1f KiB", float64(n)/unit)
	default:
		return fmt.Sprintf("%d B", n)
	}
}

// millis prints a duration as milliseconds with two decimals: the unit of everything that sprout measures.
func millis(nanoseconds int64) string {
	return fmt.Sprintf("%.2f", float64(nanoseconds)/float64(time.Millisecond))
}

// age prints how long ago a moment was, in its largest unit.
func age(unixNanoseconds int64) string {
	d := time.Since(time.Unix(0, unixNanoseconds))
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d >= time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d >= time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	default:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
}
