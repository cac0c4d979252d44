package fork

import (
	"encoding/hex"
	"strings"
)

// stubListing is the executor of op lists: the only machine code of ours in a template, its zygote and its clones. It is position-independent, uses no stack (threads
// that share one run it at once) and keeps its state in registers that the kernel preserves: rbx is the op, r15 the header (see header), r14 the flags.
//
// Left of the bar are the bytes that run, right of it what GNU as made them from; a test holds the bytes.
const stubListing = `
next:
   0: 4c 8b 73 38           | mov r14,[rbx+0x38]
   4: 48 8b 7b 08           | mov rdi,[rbx+0x8]
   8: 41 f7 c6 01 00 00 00  | test r14d,0x1
   f: 74 03                 | je 14 <next+0x14>
  11: 48 8b 3f              | mov rdi,[rdi]
  14: 48 8b 73 10           | mov rsi,[rbx+0x10]
  18: 41 f7 c6 02 00 00 00  | test r14d,0x2
  1f: 74 03                 | je 24 <next+0x24>
  21: 48 8b 36              | mov rsi,[rsi]
  24: 48 8b 53 18           | mov rdx,[rbx+0x18]
  28: 41 f7 c6 04 00 00 00  | test r14d,0x4
  2f: 74 03                 | je 34 <next+0x34>
  31: 48 8b 12              | mov rdx,[rdx]
  34: 4c 8b 53 20           | mov r10,[rbx+0x20]
  38: 41 f7 c6 08 00 00 00  | test r14d,0x8
  3f: 74 03                 | je 44 <next+0x44>
  41: 4d 8b 12              | mov r10,[r10]
  44: 4c 8b 43 28           | mov r8,[rbx+0x28]
  48: 41 f7 c6 10 00 00 00  | test r14d,0x10
  4f: 74 03                 | je 54 <next+0x54>
  51: 4d 8b 00              | mov r8,[r8]
  54: 4c 8b 4b 30           | mov r9,[rbx+0x30]
  58: 41 f7 c6 20 00 00 00  | test r14d,0x20
  5f: 74 03                 | je 64 <next+0x64>
  61: 4d 8b 09              | mov r9,[r9]
  64: 41 f7 c6 40 00 00 00  | test r14d,0x40
  6b: 74 05                 | je 72 <next+0x72>
  6d: 48 89 37              | mov [rdi],rsi
  70: eb 5a                 | jmp cc <advance>
  72: 41 f7 c6 80 00 00 00  | test r14d,0x80
  79: 74 03                 | je 7e <call>
  7b: 48 89 fc              | mov rsp,rdi
call:
  7e: 48 8b 03              | mov rax,[rbx]
  81: 0f 05                 | syscall
  83: 41 f7 c6 00 01 00 00  | test r14d,0x100
  8a: 74 11                 | je 9d <call+0x1f>
  8c: 48 83 f8 f5           | cmp rax,0xfffffffffffffff5
  90: 74 3a                 | je cc <advance>
  92: 48 83 f8 fc           | cmp rax,0xfffffffffffffffc
  96: 74 e6                 | je 7e <call>
  98: 48 85 c0              | test rax,rax
  9b: 74 e1                 | je 7e <call>
  9d: 41 f7 c6 00 02 00 00  | test r14d,0x200
  a4: 74 07                 | je ad <call+0x2f>
  a6: 48 8b 4b 40           | mov rcx,[rbx+0x40]
  aa: 48 89 01              | mov [rcx],rax
  ad: 41 f7 c6 00 04 00 00  | test r14d,0x400
  b4: 75 08                 | jne be <call+0x40>
  b6: 48 3d 01 f0 ff ff     | cmp rax,0xfffffffffffff001
  bc: 73 29                 | jae e7 <fail>
  be: 41 f7 c6 00 08 00 00  | test r14d,0x800
  c5: 74 05                 | je cc <advance>
  c7: 48 85 c0              | test rax,rax
  ca: 74 12                 | je de <jump>
advance:
  cc: 41 f7 c6 00 10 00 00  | test r14d,0x1000
  d3: 75 09                 | jne de <jump>
  d5: 48 83 c3 50           | add rbx,0x50
  d9: e9 22 ff ff ff        | jmp 0 <next>
jump:
  de: 48 8b 5b 48           | mov rbx,[rbx+0x48]
  e2: e9 19 ff ff ff        | jmp 0 <next>
fail:
  e7: 49 89 5f 10           | mov [r15+0x10],rbx
  eb: 49 89 47 18           | mov [r15+0x18],rax
  ef: 49 8b 3f              | mov rdi,[r15]
  f2: 49 8d 77 08           | lea rsi,[r15+0x8]
  f6: ba 20 00 00 00        | mov edx,0x20
  fb: b8 01 00 00 00        | mov eax,0x1
 100: 0f 05                 | syscall
 102: bf 6f 00 00 00        | mov edi,0x6f
 107: b8 e7 00 00 00        | mov eax,0xe7
 10c: 0f 05                 | syscall
 10e: f4                    | hlt
`

// stub is the code of stubListing.
var stub = assemble(stubListing)

func assemble(listing string) (code []byte) {
	for line := range strings.Lines(listing) {
		bytes, _, isCode := strings.Cut(line, "|")
		if _, after, ok := strings.Cut(bytes, ":"); isCode && ok {
			part, err := hex.DecodeString(strings.ReplaceAll(after, " ", ""))
			if err != nil {
				panic("fork: stub listing: " + err.Error())
			}
			code = append(code, part...)
		}
	}
	return code
}
