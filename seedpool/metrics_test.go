package seedpool

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// gathered are the metrics of a pool by name.
func gathered(t *testing.T, p *Pool) map[string]*dto.MetricFamily {
	t.Helper()
	list, err := p.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, family := range list {
		byName[family.GetName()] = family
	}
	return byName
}

func TestEveryMetricOfTheDashboardExists(t *testing.T) {
	data, err := os.ReadFile("../contrib/grafana/sprout.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct{ List []struct{ Query string } }
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	b := newBed(t)
	p := b.recovered()
	b.seed("ns", "shop", keyOf(t, spec()))
	described := make(chan *prometheus.Desc)
	go func() {
		p.metrics.registry.Describe(described)
		close(described)
	}()
	known := make(map[string]bool)
	for desc := range described {
		known[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	name := regexp.MustCompile(`sprout_\w+`)
	used := 0
	check := func(where, text string) {
		for _, metric := range name.FindAllString(text, -1) {
			used++
			if !known[strings.TrimSuffix(metric, "_bucket")] {
				t.Errorf("%s: there is no metric %s", where, metric)
			}
		}
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			check(panel.Title, target.Expr)
		}
	}
	for _, variable := range dashboard.Templating.List {
		check("variable", variable.Query)
	}
	if used < len(known) {
		t.Errorf("the dashboard uses metrics %d times, and there are %d", used, len(known))
	}
}

func TestRefillsPressureAndMemoryAreCounted(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	p.metrics.refilled(false, refuse(ReasonDiskFull, errors.New("x")))
	if _, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false); err != nil {
		t.Fatal(err)
	}
	b.ready("shop", 1)
	all := gathered(t, p)
	value := func(metric string, labels ...string) float64 {
		t.Helper()
		for _, m := range all[metric].GetMetric() {
			have := make([]string, 0, len(m.Label))
			for _, l := range m.Label {
				have = append(have, l.GetValue())
			}
			if strings.Join(have, " ") == strings.Join(labels, " ") {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		t.Errorf("%s%v is missing: %v", metric, labels, all[metric])
		return 0
	}
	// Labels are in the order of their names.
	if n := value("sprout_refill_total", "", "made"); n != 2 {
		t.Errorf("%v spares were made", n)
	}
	if n := value("sprout_refill_total", string(ReasonDiskFull), "failed"); n != 1 {
		t.Errorf("%v failed", n)
	}
	if n := value("sprout_pool_spares", "ns", "shop", "claimed"); n != 1 {
		t.Errorf("%v are claimed", n)
	}
	if n := value("sprout_memory_bytes", "ns", "physical", "shop"); n == 0 {
		t.Error("the spare takes no memory")
	}
	if n := value("sprout_pressure"); n != 0 {
		t.Errorf("pressure %v", n)
	}
}
