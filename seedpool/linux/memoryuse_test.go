package linux

import (
	"os"
	"testing"
)

func TestMemoryUseOfAProcessAddsUp(t *testing.T) {
	before, err := ReadMemoryUse(os.Getpid())
	must(t, err)
	grown := make([]byte, 32<<20)
	for i := 0; i < len(grown); i += 4096 {
		grown[i] = 1
	}
	after, err := ReadMemoryUse(os.Getpid())
	must(t, err)
	for name, more := range map[string]uint64{
		"resident": after.Resident - before.Resident, "proportional": after.Proportional - before.Proportional, "private": after.Private - before.Private,
	} {
		if more < uint64(len(grown))*9/10 || more > uint64(len(grown))*2 {
			t.Errorf("%s: %d bytes more, of %d that were touched", name, more, len(grown))
		}
	}
	if after.Private > after.Proportional || after.Proportional > after.Resident {
		t.Errorf("not private ≤ proportional ≤ resident: %+v", after)
	}
	grown[0]++
	twice := after
	twice.Add(after)
	if twice.Resident != 2*after.Resident || twice.Private != 2*after.Private || twice.Proportional != 2*after.Proportional {
		t.Errorf("twice %+v is %+v", after, twice)
	}
	if _, err := ReadMemoryUse(1 << 30); err == nil {
		t.Error("a process that does not exist uses memory")
	}
}
