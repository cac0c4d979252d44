package linux

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Range is a part of a file, up to To.
type Range struct{ From, To int64 }

// DataRanges lists the parts of a file, between two offsets, that are no holes.
func DataRanges(path string, from, to int64) (list []Range, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for from < to {
		data, err := f.Seek(from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= to {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if from, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		list = append(list, Range{data, min(from, to)})
	}
	return list, nil
}
