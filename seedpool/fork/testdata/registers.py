# Two threads hold values in general and vector registers and look at them all the time; the answer is how often they looked, and how often one had changed.
import ctypes, http.server, mmap, os, threading, time

# hold.s: r12, ymm0 and ymm15 are loaded once from rsi and compared to it until [rdi] is not 0; [rdi+8] counts the looks, [rdi+16] the differences.
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("4154c5fe6f06c57e6f7e204c8b2648ff4708c5fd740ec5fdd7c183f8ff751fc585744e20c5fdd7c183f8ff75114c3b26750c48833f0074d6415cc5f877c348ff471048833f0074c6415cc5f877c3"))
hold = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
words = [(ctypes.c_uint64 * 3)() for i in range(2)]
patterns = [ctypes.create_string_buffer(os.urandom(64), 64) for i in range(2)]
for i in range(2): threading.Thread(target=hold, args=(words[i], patterns[i]), daemon=True).start()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        before = [w[1] for w in words]
        for i in range(100):
            time.sleep(0.02)
            if all(w[1] > b for w, b in zip(words, before)): break
        body = " ".join("%s %d" % (w[1] > b, w[2]) for w, b in zip(words, before)).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
server = http.server.HTTPServer(("0.0.0.0", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
