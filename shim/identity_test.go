package shim

import "testing"

func TestLateEnvIsWhatWasDeclared(t *testing.T) {
	env := []string{"PATH=/bin", "TOKEN=a\nb", "NAME=", "BARE"}
	for _, c := range []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"TOKEN", "NAME", "ABSENT"}, "TOKEN=a\nb\x00NAME=\x00"},
		{[]string{"BARE"}, "BARE\x00"},
	} {
		if got := string(lateEnv(env, c.names)); got != c.want {
			t.Errorf("%v: %q, want %q", c.names, got, c.want)
		}
	}
}
