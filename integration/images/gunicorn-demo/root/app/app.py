"""A WSGI app that says which of the workers has answered."""

import os


def app(environ, start_response):
    body = b"%d\n" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
