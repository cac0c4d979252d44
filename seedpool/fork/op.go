package fork

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Flag changes how the stub runs an op.
type Flag uint64

// Flags, as stubListing tests them. The lowest six say which arguments are addresses to read the argument from.
const (
	FlagIndirect Flag = 1 << iota // argument 0; shift it for the others
	_
	_
	_
	_
	_
	FlagPoke   // no call: write argument 1 to the address in argument 0
	FlagStack  // set the stack pointer to argument 0 before the call: rt_sigreturn finds its frame so
	FlagWait   // repeat while the result is 0 or EINTR, until EAGAIN: futex waits for a word to change
	FlagStore  // write the result to Ret
	FlagIgnore // an error is no failure
	FlagIfZero // go on at Next if the result is 0: the child's way out of a clone, and the end of a file
	FlagJump   // go on at Next
)

// indirect marks argument n as an address to read from.
func indirect(n int) Flag { return FlagIndirect << n }

// Op is one step of a list: a system call, or with FlagPoke a store.
type Op struct {
	// What it is for; people see it when it fails.
	What  string
	NR    uint64
	Args  [6]uint64
	Flags Flag
	Ret   uint64
	// Next is a list of the same program, or a label of another.
	Next string
}

// opSize is what the stub adds to get to the next op.
const opSize = 80

// program is memory in the making: data and op lists for one place in the template.
type program struct {
	base   uint64
	data   []byte
	lists  []*list
	labels map[string]uint64
}

type list struct {
	name string
	ops  []Op
}

func newProgram(base uint64) *program { return &program{base: base, labels: map[string]uint64{}} }

func (p *program) list(name string) *list {
	l := &list{name: name}
	p.lists = append(p.lists, l)
	return l
}

func (l *list) add(ops ...Op) { l.ops = append(l.ops, ops...) }

// bytes places data and returns its address.
func (p *program) bytes(b []byte, align int) uint64 {
	for len(p.data)%align != 0 {
		p.data = append(p.data, 0)
	}
	at := p.base + uint64(len(p.data))
	p.data = append(p.data, b...)
	return at
}

func (p *program) string(s string) uint64 { return p.bytes(append([]byte(s), 0), 1) }

// words places 64-bit words.
func (p *program) words(w ...uint64) uint64 {
	var b []byte
	for _, v := range w {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return p.bytes(b, 8)
}

// place gives every list its address. Nothing is added to the program afterwards.
func (p *program) place() {
	for _, l := range p.lists {
		if p.labels[l.name] != 0 {
			continue // has a place of its own
		}
		p.labels[l.name] = p.bytes(make([]byte, len(l.ops)*opSize), 8)
	}
}

// encode writes the ops, with the addresses of the lists that they name.
func (p *program) encode() error {
	for _, l := range p.lists {
		at := int(p.labels[l.name] - p.base)
		for _, op := range l.ops {
			next := uint64(0)
			if op.Flags&(FlagJump|FlagIfZero) != 0 {
				if next = p.labels[op.Next]; next == 0 {
					return fmt.Errorf("list %s: %s goes on at %q, which is nowhere", l.name, op.What, op.Next)
				}
			}
			words := append([]uint64{op.NR}, op.Args[:]...)
			for i, w := range append(words, uint64(op.Flags), op.Ret, next) {
				binary.LittleEndian.PutUint64(p.data[at+8*i:], w)
			}
			at += opSize
		}
	}
	return nil
}

// at names the op at an address, or its absence.
func (p *program) at(address uint64) string {
	for _, l := range p.lists {
		if start := p.labels[l.name]; address >= start && address < start+uint64(len(l.ops)*opSize) {
			n := (address - start) / opSize
			return fmt.Sprintf("%s/%d %s", l.name, n, l.ops[n].What)
		}
	}
	return fmt.Sprintf("op at %#x", address)
}

// String lists the program for people and golden files.
func (p *program) String() string {
	var b strings.Builder
	for _, l := range p.lists {
		fmt.Fprintf(&b, "%s:\n", l.name)
		for n, op := range l.ops {
			fmt.Fprintf(&b, "%3d  %s\n", n, op)
		}
	}
	return b.String()
}

// String is one line: name(arguments) → result, what it is for.
func (o Op) String() string {
	var args []string
	last := len(o.Args)
	for last > 0 && o.Args[last-1] == 0 && o.Flags&indirect(last-1) == 0 {
		last--
	}
	for n, a := range o.Args[:last] {
		text := fmt.Sprintf("%#x", a)
		if o.Flags&indirect(n) != 0 {
			text = "[" + text + "]"
		}
		args = append(args, text)
	}
	name := callName(o.NR)
	if o.Flags&FlagPoke != 0 {
		name = "poke"
	}
	line := name + "(" + strings.Join(args, ", ") + ")"
	if o.Flags&FlagStore != 0 {
		line += fmt.Sprintf(" = [%#x]", o.Ret)
	}
	for _, f := range []struct {
		flag Flag
		text string
	}{{FlagStack, "stack"}, {FlagWait, "wait"}, {FlagIgnore, "any result"}} {
		if o.Flags&f.flag != 0 {
			line += ", " + f.text
		}
	}
	switch {
	case o.Flags&FlagIfZero != 0:
		line += ", if 0 → " + o.Next
	case o.Flags&FlagJump != 0:
		line += " → " + o.Next
	}
	return line + "  # " + o.What
}
