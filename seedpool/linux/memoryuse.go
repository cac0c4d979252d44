package linux

import (
	"bytes"
	"fmt"
	"strconv"
)

// MemoryUse is what the memory of processes takes, in bytes.
type MemoryUse struct {
	// Resident counts every page that is mapped. Proportional counts one that n processes map as one n-th: over all processes it adds up to what the machine has spent.
	// Private counts those that nobody else maps.
	Resident, Proportional, Private uint64
}

// Add adds another process's.
func (m *MemoryUse) Add(other MemoryUse) {
	m.Resident += other.Resident
	m.Proportional += other.Proportional
	m.Private += other.Private
}

// ReadMemoryUse reads that of one process, which may be frozen. The kernel walks its page tables: some ms for each GB.
func ReadMemoryUse(pid int) (m MemoryUse, err error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	data, err := readProc(path, make([]byte, 4096))
	if err != nil {
		return m, err
	}
	for line := range bytes.Lines(data) {
		to := m.field(line)
		if to == nil {
			continue
		}
		fields := bytes.Fields(line)
		if len(fields) != 3 {
			return m, fmt.Errorf("parse %s: %q", path, line)
		}
		kib, err := strconv.ParseUint(string(fields[1]), 10, 54)
		if err != nil {
			return m, fmt.Errorf("parse %s: %w", path, err)
		}
		*to += kib << 10
	}
	return m, nil
}

// field is where a line of smaps_rollup counts; nil: nowhere.
func (m *MemoryUse) field(line []byte) *uint64 {
	name, _, _ := bytes.Cut(line, []byte(":"))
	switch string(name) {
	case "Rss":
		return &m.Resident
	case "Pss":
		return &m.Proportional
	case "Private_Clean", "Private_Dirty":
		return &m.Private
	}
	return nil
}
