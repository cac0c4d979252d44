package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// The protocol that the shim behind the address speaks.
const (
	taskVersion = 3
	protocol    = "ttrpc"
)

// logDebug is containerd.runtime.bootstrap.v1.LOG_LEVEL_DEBUG; levels below it tell more.
const logDebug = -4

// stdinLimit and stdinTimeout bound what is read from standard input. containerd writes a few hundred bytes and closes it; the time is for a caller who does not.
const (
	stdinLimit   = 10 << 20
	stdinTimeout = 5 * time.Second
)

// bootstrap is what a start is told, whichever dialect it was told in.
type bootstrap struct {
	// protobuf: containerd sent BootstrapParams and wants a BootstrapResult.
	protobuf bool
	// id and namespace as in BootstrapParams.
	id, namespace string
	debug         bool
	ttrpc, grpc   string
	publisher     string
	socketDir     string
	// shimCgroup and systemdCgroup are the runc options of these names: a cgroup that the shim shall be in, and whether systemd makes that of the container.
	shimCgroup    string
	systemdCgroup bool
	// otherOptions are the ones that the CRI plugin sends in place of runc's, whole: their text is TOML, which the shim can read and this program cannot.
	otherOptions []byte
}

// readBootstrap takes the parameters of a start from the dialect that containerd speaks.
func readBootstrap(a args, stdin []byte) bootstrap {
	// Runtime options, which an older containerd sends, can look like BootstrapParams: the container's name tells them apart.
	if b, err := decodeBootstrap(stdin); err == nil && b.id == a.id && b.namespace == a.namespace {
		b.grpc = firstOf(b.grpc, a.address)
		b.publisher = firstOf(b.publisher, a.publisher)
		b.debug = b.debug || a.debug
		return b
	}
	b := bootstrap{
		id: a.id, namespace: a.namespace, debug: a.debug,
		grpc:      firstOf(a.address, os.Getenv("GRPC_ADDRESS")),
		ttrpc:     firstOf(os.Getenv("TTRPC_ADDRESS"), a.address+".ttrpc"),
		publisher: a.publisher,
	}
	b.readOptions(stdin)
	return b
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// decodeBootstrap decodes containerd.runtime.bootstrap.v1.BootstrapParams.
func decodeBootstrap(message []byte) (bootstrap, error) {
	b := bootstrap{protobuf: true}
	err := fields(message, func(f field) error {
		switch f.tag {
		case 1<<3 | wireBytes:
			b.id = string(f.bytes)
		case 2<<3 | wireBytes:
			b.namespace = string(f.bytes)
		case 3<<3 | wireVarint:
			b.debug = int32(f.varint) <= logDebug
		case 5<<3 | wireBytes:
			b.ttrpc = string(f.bytes)
		case 6<<3 | wireBytes:
			b.grpc = string(f.bytes)
		case 7<<3 | wireBytes:
			b.publisher = string(f.bytes)
		case 8<<3 | wireBytes:
			b.readExtension(f.bytes)
		case 9<<3 | wireBytes:
			b.socketDir = string(f.bytes)
		}
		return nil
	})
	return b, err
}

// readExtension looks for runc's options in one Extension, a message around an Any.
func (b *bootstrap) readExtension(extension []byte) {
	// What cannot be decoded is not runc's options: the task service gets them again, whole, and judges them.
	_ = fields(extension, func(f field) error {
		if f.tag == 1<<3|wireBytes {
			b.readOptions(f.bytes)
		}
		return nil
	})
}

// readOptions takes what concerns the shim itself from an Any that holds containerd.runc.v1.Options, and keeps one that holds runtimeoptions.v1.Options; any other is
// passed over.
func (b *bootstrap) readOptions(message []byte) {
	var url string
	var value []byte
	err := fields(message, func(f field) error {
		switch f.tag {
		case 1<<3 | wireBytes:
			url = string(f.bytes)
		case 2<<3 | wireBytes:
			value = f.bytes
		}
		return nil
	})
	if err != nil {
		return
	}
	switch strings.TrimPrefix(url, "type.googleapis.com/") {
	case "runtimeoptions.v1.Options":
		b.otherOptions = message
		return
	case "containerd.runc.v1.Options":
	default:
		return
	}
	_ = fields(value, func(f field) error {
		switch f.tag {
		case 3<<3 | wireBytes:
			b.shimCgroup = string(f.bytes)
		case 9<<3 | wireVarint:
			b.systemdCgroup = f.varint != 0
		}
		return nil
	})
}

// readStdin reads what containerd sends. A terminal is not asked, and nobody is waited for in vain: nothing was sent, then.
func readStdin(stdin *os.File) ([]byte, error) {
	if info, err := stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return nil, nil
	}
	type result struct {
		data []byte
		err  error
	}
	got := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(stdin, stdinLimit))
		got <- result{data, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, fmt.Errorf("read standard input: %w", r.err)
		}
		return r.data, nil
	case <-time.After(stdinTimeout):
		return nil, nil
	}
}

// answer is the result of a start in the dialect that was spoken.
func (b bootstrap) answer(address string) ([]byte, error) {
	if b.protobuf {
		message := appendVarint(nil, 1, taskVersion)
		message = appendString(message, 2, address)
		return appendString(message, 3, protocol), nil
	}
	return json.Marshal(struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}{taskVersion, address, protocol})
}
