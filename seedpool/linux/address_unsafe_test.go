package linux

import "unsafe"

// addressOf is where mapped memory begins.
func addressOf(memory []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&memory[0]))) }
