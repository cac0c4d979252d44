package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// Measures of the picture, in pixels.
const (
	barHeight = 16
	labelWide = 330
	barWide   = 620
	topSpace  = 40
)

var colours = map[string]string{"runc": "#888888", "cold": "#5b8fd6", "restore": "#e2a03f", "fork": "#8a63c9", "thaw": "#3fa66a"}

// plot draws one horizontal bar a figure, on a logarithmic scale because waking and booting differ by two orders of magnitude.
func plot(list []figure) []byte {
	var b bytes.Buffer
	height := topSpace + len(list)*(barHeight+4) + 20
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"11\">\n", labelWide+barWide+110, height)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/><text x=\"8\" y=\"20\" font-size=\"14\">median; logarithmic scale</text>\n")
	low, high := bounds(list)
	for i, f := range list {
		y := topSpace + i*(barHeight+4)
		colour, ok := colours[f.Rung]
		if !ok {
			colour = "#bbbbbb"
		}
		label := fmt.Sprintf("%s  %s  %s  %s", f.Section, f.App, f.Metric, f.Rung)
		fmt.Fprintf(&b, "<text x=\"8\" y=\"%d\">%s</text>", y+12, html.EscapeString(label))
		wide := width(f.Median, low, high)
		fmt.Fprintf(&b, "<rect class=\"bar\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", labelWide, y, wide, barHeight, colour)
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%.2f %s</text>\n", labelWide+wide+6, y+12, f.Median, html.EscapeString(f.Unit))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// bounds are the smallest and largest medians above zero.
func bounds(list []figure) (low, high float64) {
	low, high = math.Inf(1), 0
	for _, f := range list {
		if f.Median > 0 {
			low, high = min(low, f.Median), max(high, f.Median)
		}
	}
	return low, high
}

func width(value, low, high float64) float64 {
	if value <= 0 || high <= low {
		return 2
	}
	// The smallest bar keeps a tenth of the width, so that it can be seen.
	return barWide * (0.1 + 0.9*math.Log(value/low)/math.Log(high/low))
}
