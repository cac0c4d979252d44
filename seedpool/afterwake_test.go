package seedpool

import (
	"strings"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestAfterWakeIsReadAsItIsWritten(t *testing.T) {
	for in, want := range map[string]string{
		"signal=URG":             "signal=URG",
		"signal=SIGUSR1":         "signal=SIGUSR1",
		"http://:8080/reseed":    "http://127.0.0.1:8080/reseed",
		"exec=/app/reseed 'a b'": "exec=/app/reseed 'a b'",
	} {
		a, err := ParseAfterWake(in, time.Second, true)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := AfterWakeText(a); got != want || !a.IgnoreFailure || a.TimeoutNanoseconds != 1e9 {
			t.Errorf("%s: %s, %v", in, got, a)
		}
	}
	if AfterWakeText(nil) != "" || CheckAfterWake(nil) != nil {
		t.Error("nothing to do is something")
	}
}

func TestAfterWakeThatCannotBeDoneIsRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "accepted",
		"signal=NOSUCH":       "NOSUCH",
		"http://example.org/": "accepted",
		"exec=":               "accepted",
		"log=ready":           "accepted",
		"tcp://:80":           "accepted",
	} {
		if _, err := ParseAfterWake(in, time.Second, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	if _, err := ParseAfterWake("signal=URG", 0, false); err == nil {
		t.Error("no time at all is accepted")
	}
	if err := CheckAfterWake(&api.AfterWake{Kind: "shell", Target: "x", TimeoutNanoseconds: 1}); err == nil {
		t.Error("an unknown kind is accepted")
	}
}
