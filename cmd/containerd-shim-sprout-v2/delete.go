package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// exitFile is what the shim leaves in the bundle when it has deleted the task with all that belonged to it.
const exitFile = "sprout.exit"

// exit is how a container ended, its status as a shell shows it.
type exit struct {
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
	PID    uint32    `json:"pid"`
}

// remove prints how the container ended. When its shim has not removed the rest of it, this becomes `sprout-shim cleanup`.
func remove(a args, stdout io.Writer) error {
	if a.bundle == "" {
		cwd, err := os.Getwd()
		if err != nil {
			return err
		}
		// The working directory may be that of another container of the same namespace.
		a.bundle = filepath.Join(filepath.Dir(cwd), a.id)
	}
	e, err := readExit(a.bundle)
	if err != nil {
		return execShim(a, "cleanup")
	}
	if _, err := stdout.Write(e.encode()); err != nil {
		return fmt.Errorf("print exit: %w", err)
	}
	return nil
}

func readExit(bundle string) (exit, error) {
	data, err := os.ReadFile(filepath.Join(bundle, exitFile))
	if err != nil {
		return exit{}, err
	}
	var e exit
	if err := json.Unmarshal(data, &e); err != nil {
		return exit{}, err
	}
	if e.At.IsZero() {
		return exit{}, errors.Join(fs.ErrInvalid, fmt.Errorf("read %s: no time", exitFile))
	}
	return e, nil
}

// encode makes a containerd.task.v3.DeleteResponse.
func (e exit) encode() []byte {
	at := appendVarint(nil, 1, uint64(e.At.Unix()))
	at = appendVarint(at, 2, uint64(e.At.Nanosecond()))
	message := appendVarint(nil, 1, uint64(e.PID))
	message = appendVarint(message, 2, uint64(e.Status))
	return appendString(message, 3, string(at))
}
