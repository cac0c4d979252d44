package seedpool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Measures of the picture, in pixels: each trace has a row of two panels.
const (
	panelWide, panelHigh = 420, 170
	rowHigh              = panelHigh + 70
)

// modelPicture shows of each trace what pools are worth, by what they hold, and how the one that follows demand does so.
type modelPicture struct {
	body bytes.Buffer
	rows int
}

// panel draws at a place, in units of the data.
type panel struct {
	to         *bytes.Buffer
	left, top  int
	wide, high float64 // the largest values
}

func (p panel) at(x, y float64) string {
	return fmt.Sprintf("%.1f,%.1f", float64(p.left)+x/p.wide*panelWide, float64(p.top)+panelHigh-y/p.high*panelHigh)
}

func (p panel) frame(xName, yName string) {
	fmt.Fprintf(p.to, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#bbb"/>`, p.left, p.top, panelWide, panelHigh)
	fmt.Fprintf(p.to, `<text x="%d" y="%d">%s, up to %.0f</text><text x="%d" y="%d">%s, up to %.0f</text>`+"\n", p.left, p.top+panelHigh+14, xName, p.wide, p.left+4, p.top+12, yName, p.high)
}

func (p panel) line(colour string, points []string) {
	fmt.Fprintf(p.to, `<polyline fill="none" stroke="%s" points="`, colour)
	for _, at := range points {
		fmt.Fprintf(p.to, "%s ", at)
	}
	fmt.Fprintln(p.to, `"/>`)
}

func (p panel) dot(colour string, x, y float64) {
	var cx, cy float64
	_, _ = fmt.Sscanf(p.at(x, y), "%f,%f", &cx, &cy)
	fmt.Fprintf(p.to, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", cx, cy, colour)
}

const (
	fixedColour, followColour, startsColour = "#888888", "#3fa66a", "#d6b05b"
)

func (m *modelPicture) add(name string, follows outcome, fixed []outcome) {
	top := 60 + m.rows*rowHigh
	m.rows++
	fmt.Fprintf(&m.body, `<text x="20" y="%d" font-size="13">%s</text>`+"\n", top-8, name)
	worth := panel{&m.body, 20, top, 42, 100}
	worth.frame("spares held on average", "% of the starts thawed")
	var points []string
	for _, f := range fixed {
		points = append(points, worth.at(f.held, 100*f.hits))
		worth.dot(fixedColour, f.held, 100*f.hits)
	}
	worth.line(fixedColour, points)
	worth.dot(followColour, follows.held, 100*follows.hits)
	course := panel{&m.body, 40 + panelWide, top, float64(len(follows.spares)), max(slices.Max(follows.spares), slices.Max(follows.starts))}
	course.frame("minutes", "spares, and starts in the minute")
	for _, series := range []struct {
		colour string
		values []float64
	}{{startsColour, follows.starts}, {followColour, follows.spares}} {
		points = nil
		for minute, v := range series.values {
			points = append(points, course.at(float64(minute), v))
		}
		course.line(series.colour, points)
	}
}

// write writes the picture where the benchmarks write theirs, if this is a run that has such a place.
func (m *modelPicture) write() error {
	out := os.Getenv("SPROUT_OUT")
	if out == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(out, "bench"), 0o755); err != nil {
		return err
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11"><rect width="100%%" height="100%%" fill="white"/>`+
		`<text x="20" y="24" font-size="14">pools under a simulated clock: <tspan fill="%s">following demand</tspan>, <tspan fill="%s">of fixed sizes</tspan>; <tspan fill="%s">starts</tspan></text>`+"\n",
		2*panelWide+60, 60+m.rows*rowHigh, followColour, fixedColour, startsColour)
	return os.WriteFile(filepath.Join(out, "bench", "model.svg"), append([]byte(head), append(m.body.Bytes(), "</svg>\n"...)...), 0o600)
}
