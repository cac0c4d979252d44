package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// figure is one line of results.json.
type figure struct {
	Section string  `json:"section"`
	App     string  `json:"app"`
	Rung    string  `json:"rung"`
	Metric  string  `json:"metric"`
	Unit    string  `json:"unit"`
	N       int     `json:"n"`
	Median  float64 `json:"median"`
	P99     float64 `json:"p99"`
}

// results gathers samples until the run is over.
type results struct {
	order   []figure
	samples map[figure][]float64
}

func newResults() *results { return &results{samples: map[figure][]float64{}} }

// add keeps one sample of a figure.
func (r *results) add(section, app, rung, metric, unit string, value float64) {
	key := figure{Section: section, App: app, Rung: rung, Metric: metric, Unit: unit}
	if _, ok := r.samples[key]; !ok {
		r.order = append(r.order, key)
	}
	r.samples[key] = append(r.samples[key], value)
}

// figures are the samples' medians and 99th percentiles, those of one app and metric next to each other.
func (r *results) figures() []figure {
	list := make([]figure, 0, len(r.order))
	slices.SortStableFunc(r.order, func(a, b figure) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.App, b.App), cmp.Compare(a.Metric, b.Metric))
	})
	for _, f := range r.order {
		values := slices.Sorted(slices.Values(r.samples[f]))
		f.N, f.Median, f.P99 = len(values), percentile(values, 0.5), percentile(values, 0.99)
		list = append(list, f)
	}
	return list
}

// percentile interpolates between the two nearest ranks of sorted values; with fewer than a hundred samples the 99th is all but the maximum.
func percentile(sorted []float64, p float64) float64 {
	at := p * float64(len(sorted)-1)
	low := int(math.Floor(at))
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

func (r *results) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	list := r.figures()
	doc, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), append(doc, '\n'), 0o644); err != nil {
		return err
	}
	text, err := os.Create(filepath.Join(dir, "results.txt"))
	if err != nil {
		return err
	}
	defer text.Close()
	if err := printTable(io.MultiWriter(os.Stdout, text), list); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.svg"), plot(list), 0o644)
}

// printTable shows each figure with its ratio to stock runc of the same section, app and metric.
func printTable(w io.Writer, list []figure) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SECTION\tAPP\tMETRIC\tRUNG\tN\tMEDIAN\tP99\tUNIT\t× RUNC")
	for _, f := range list {
		ratio := ""
		if base, ok := baseline(list, f); ok && f.Rung != baseRung {
			ratio = fmt.Sprintf("%.3f", f.Median/base)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%.2f\t%.2f\t%s\t%s\n", f.Section, f.App, f.Metric, f.Rung, f.N, f.Median, f.P99, f.Unit, ratio)
	}
	return t.Flush()
}

// baseRung is what every other rung is compared with: the stock runtime.
const baseRung = "runc"

func baseline(list []figure, f figure) (float64, bool) {
	for _, b := range list {
		if b.Rung == baseRung && b.Section == f.Section && b.App == f.App && b.Metric == f.Metric && b.Median > 0 {
			return b.Median, true
		}
	}
	return 0, false
}
