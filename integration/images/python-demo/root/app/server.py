"""A pandas web service on :8080, with a few endpoints that let a test look at the process from inside."""

import json
import os
import random
import signal
import socket
import ssl
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier
from urllib.parse import parse_qs, urlsplit

import numpy
import pandas

WORKERS = 4
SALES = pandas.DataFrame({
    "shop": [f"shop-{i % 50}" for i in range(100_000)],
    "amount": [(i * 7919) % 1000 / 10 for i in range(100_000)],
})
pool = ThreadPoolExecutor(WORKERS)


def report():
    totals = SALES.groupby("shop")["amount"].agg(["sum", "mean"])
    return totals.sort_values("sum", ascending=False).head(5).to_string() + "\n"


def randomness():
    """One draw from every source of randomness that a clone could share with its siblings."""
    return {
        "random": random.random(),
        "numpy": float(numpy.random.random()),
        "uuid": str(uuid.uuid4()),
        "urandom": os.urandom(16).hex(),
        "openssl": ssl.RAND_bytes(16).hex(),
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        endpoint = ENDPOINTS.get(url.path)
        try:
            if endpoint is None:
                raise LookupError(url.path)
            self.reply(200, endpoint(query))
        except (LookupError, FileNotFoundError) as e:
            self.reply(404, f"not found: {e}\n")
        except (OSError, ValueError) as e:
            self.reply(500, f"{e}\n")

    do_POST = do_GET

    def reply(self, status, body):
        body = body if isinstance(body, bytes) else str(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def read_file(query):
    with open(query["path"], "rb") as f:
        return f.read()


def write_file(query):
    with open(query["path"], "w") as f:
        return f.write(query["data"])


def write_log(query):
    sys.stdout.write("x" * int(query["bytes"]) + "\n")
    sys.stdout.flush()
    return "ok"


ENDPOINTS = {
    "/": lambda q: pool.submit(report).result(),
    "/pid": lambda q: os.getpid(),
    "/uid": lambda q: os.getuid(),
    "/hostname": lambda q: socket.gethostname(),
    "/env": lambda q: os.environ[q["name"]],
    "/random": lambda q: json.dumps(randomness()),
    "/file": read_file,
    "/write": write_file,
    "/log": write_log,
    "/exit": lambda q: os._exit(int(q["code"])),
}


def start_workers():
    """Makes the pool's threads now rather than at the first requests."""
    met = Barrier(WORKERS + 1)
    for _ in range(WORKERS):
        pool.submit(met.wait)
    met.wait()


ThreadingHTTPServer.request_queue_size = 128
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
start_workers()
server = ThreadingHTTPServer(("", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
