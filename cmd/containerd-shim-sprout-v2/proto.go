package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Wire types of protobuf.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

var errTruncated = errors.New("decode protobuf: truncated")

// field is one decoded field. Its tag is number<<3 | wire type, which says which of the values counts: a field with a known number and another wire type is one
// that nobody knows.
type field struct {
	tag    uint64
	varint uint64
	bytes  []byte
}

// fields calls visit for every field of a message. Groups, which protobuf gave up before containerd began, are an error.
func fields(message []byte, visit func(field) error) error {
	for len(message) > 0 {
		f, rest, err := readField(message)
		if err != nil {
			return err
		}
		if err := visit(f); err != nil {
			return err
		}
		message = rest
	}
	return nil
}

func readField(message []byte) (field, []byte, error) {
	tag, rest, err := readVarint(message)
	if err != nil {
		return field{}, nil, err
	}
	f := field{tag: tag}
	if number := tag >> 3; number == 0 || number > 1<<29-1 {
		return field{}, nil, fmt.Errorf("decode protobuf: field number %d", number)
	}
	switch tag & 7 {
	case wireVarint:
		f.varint, rest, err = readVarint(rest)
		return f, rest, err
	case wire64:
		return fixed(f, rest, 8)
	case wire32:
		return fixed(f, rest, 4)
	case wireBytes:
		var n uint64
		if n, rest, err = readVarint(rest); err != nil {
			return field{}, nil, err
		}
		if n > uint64(len(rest)) {
			return field{}, nil, errTruncated
		}
		f.bytes = rest[:n]
		return f, rest[n:], nil
	}
	return field{}, nil, fmt.Errorf("decode protobuf: wire type %d", tag&7)
}

func fixed(f field, rest []byte, size int) (field, []byte, error) {
	if len(rest) < size {
		return field{}, nil, errTruncated
	}
	f.bytes = rest[:size]
	return f, rest[size:], nil
}

func readVarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errTruncated
	}
	return v, b[n:], nil
}

// appendString appends a string field; protobuf leaves out empty ones.
func appendString(message []byte, number uint64, s string) []byte {
	if s == "" {
		return message
	}
	return append(appendHeader(message, number, uint64(len(s))), s...)
}

func appendHeader(message []byte, number, size uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(message, number<<3|wireBytes), size)
}

// appendVarint appends an integer field; protobuf leaves out zeroes.
func appendVarint(message []byte, number, v uint64) []byte {
	if v == 0 {
		return message
	}
	return binary.AppendUvarint(binary.AppendUvarint(message, number<<3|wireVarint), v)
}
