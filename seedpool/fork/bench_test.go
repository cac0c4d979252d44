package fork

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkClone makes one clone after the other, with and without pauses, and asks each once. Ten are alive at the end, whose memory is summed up.
func BenchmarkClone(b *testing.B) {
	for _, app := range []struct {
		name  string
		start func() int
	}{
		{"python", func() int { return startWitness(b) }},
		{"node", func() int { return start(b, "/usr/bin/node", "testdata/server.js") }},
		{"java", func() int {
			return start(b, "/usr/bin/java", "-Xmx512m", "-XX:+UseG1GC", "-XX:-UsePerfData", "-cp", "testdata", "Server")
		}},
	} {
		for _, gap := range []time.Duration{0, 100 * time.Millisecond} {
			b.Run(fmt.Sprintf("%s/gap=%v", app.name, gap), func(b *testing.B) {
				benchmarkClone(b, app.start(), gap)
			})
		}
	}
}

func benchmarkClone(b *testing.B, pid int, gap time.Duration) {
	for range 200 {
		get(b, pid, "/")
	}
	alone := pss(b, pid)
	template := makeTemplate(b, pid)
	var ready, reply []float64
	var alive []*Clone
	for b.Loop() {
		time.Sleep(gap)
		began := time.Now()
		c := makeClone(b, template)
		release(b, c)
		ready = append(ready, float64(time.Since(began).Microseconds())/1000)
		get(b, c.PID, "/")
		reply = append(reply, float64(time.Since(began).Microseconds())/1000)
		if alive = append(alive, c); len(alive) > 10 {
			if err := alive[0].Discard(); err != nil {
				b.Fatal(err)
			}
			alive = alive[1:]
		}
	}
	sum := pss(b, pid) + pss(b, zygotePID(b, template))
	for _, c := range alive {
		sum += pss(b, c.PID)
	}
	slices.Sort(ready)
	slices.Sort(reply)
	b.ReportMetric(ready[len(ready)/2], "fork_ms")
	b.ReportMetric(reply[len(reply)/2], "first_reply_ms")
	b.ReportMetric(float64(len(alive)), "clones_alive")
	b.ReportMetric(float64(sum)/1024, "memory_mb")
	b.ReportMetric(float64(alone)/1024, "alone_mb")
}

// pss is a process's share of memory in KiB.
func pss(t testing.TB, pid int) int {
	t.Helper()
	rollup := field(proc(t, pid, "smaps_rollup"), "Pss")
	kib, err := strconv.Atoi(rollup[:len(rollup)-len(" kB")])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
