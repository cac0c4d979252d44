package main

import (
	"strings"
	"testing"
)

func TestMedianAndPercentileComeFromTheSamples(t *testing.T) {
	r := newResults()
	for i := 1; i <= 101; i++ {
		r.add("s", "a", "runc", "m", "ms", float64(i))
		r.add("s", "a", "thaw", "m", "ms", float64(i)/2)
	}
	list := r.figures()
	if len(list) != 2 || list[0].N != 101 || list[0].Median != 51 || list[0].P99 != 100 {
		t.Fatalf("figures: %+v", list)
	}
	var b strings.Builder
	if err := printTable(&b, list); err != nil || !strings.Contains(b.String(), "0.500") {
		t.Fatalf("ratio to runc is missing: %v\n%s", err, b.String())
	}
}

func TestPlotHoldsABarForEachFigure(t *testing.T) {
	r := newResults()
	r.add("start", "python", "runc", "first_reply_ms", "ms", 900)
	r.add("start", "python", "thaw", "first_reply_ms", "ms", 30)
	svg := string(plot(r.figures()))
	if strings.Count(svg, "<rect class=\"bar\"") != 2 || !strings.HasSuffix(svg, "</svg>\n") {
		t.Fatalf("plot: %s", svg)
	}
}
