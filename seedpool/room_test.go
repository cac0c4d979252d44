package seedpool

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestSeedsWithoutAPoolMakeRoomForOthers(t *testing.T) {
	const size = 40 << 20
	for name, c := range map[string]struct {
		limit Size
		want  []string
		fails bool
	}{
		"no bound":                   {0, []string{"automatic", "old", "paged", "pooled", "young"}, false},
		"room":                       {200 << 20, []string{"automatic", "old", "paged", "pooled", "young"}, false},
		"one goes":                   {160 << 20, []string{"old", "paged", "pooled", "young"}, false},
		"the one not used for long":  {120 << 20, []string{"paged", "pooled", "young"}, false},
		"all that may":               {80 << 20, []string{"paged", "pooled"}, false},
		"it would not be enough":     {79 << 20, []string{"automatic", "old", "paged", "pooled", "young"}, true},
		"not even alone, all remain": {1, []string{"automatic", "old", "paged", "pooled", "young"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.config.Seeds.Disk = c.limit
			p := b.recovered()
			for n, seed := range []string{"pooled", "old", "young", "automatic", "paged"} {
				s := b.seed("ns", seed, keyOf(t, spec()))
				p.mu.Lock()
				s.used = time.Unix(int64(n), 0)
				s.meta.Info.ImageBytes, s.meta.Paged = size, seed == "paged"
				if seed == "pooled" {
					s.bounds = spareBounds{max: 1}
				}
				s.meta.Info.Automatic = seed == "automatic"
				p.mu.Unlock()
			}
			err := p.makeRoom(t.Context(), p.newSeed(&api.SeedMeta{Info: &api.SeedInfo{Id: "new", Namespace: "ns", Name: "new", ImageBytes: size}}))
			if reason, _ := ReasonOf(err); (err != nil) != c.fails || c.fails && (reason != ReasonDiskFull || !strings.Contains(err.Error(), "seed rm")) {
				t.Error(err)
			}
			var left []string
			for s := range maps.Values(p.seeds) {
				left = append(left, s.meta.Info.Name)
			}
			slices.Sort(left)
			if diff := cmp.Diff(c.want, left); diff != "" {
				t.Error(diff)
			}
		})
	}
}
