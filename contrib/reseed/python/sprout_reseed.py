"""Gives an instance that was woken random numbers of its own.

All instances of a seed wake with the same memory. Loaded when the app boots (sitecustomize.py beside this file does it), this module listens to the signal that a
seed baked with --after-wake signal=URG sends, and then reseeds, from the kernel:

- random, and numpy.random's global generator if numpy is loaded,
- OpenSSL, and so what ssl and everything above it draws: the generator of every thread follows at its next use,
- the names that tempfile tries.

os.urandom, secrets and uuid.uuid4 ask the kernel anyway. Generators that the app has made for itself (random.Random(), numpy.random.default_rng()) are the app's own
to reseed: register(callback) calls it after each wake. String hashing keeps the seed's secret.
"""

import os
import random
import signal
import sys
import tempfile

SIGNAL = signal.SIGURG  # does nothing in a process that does not listen
ENTROPY = 48

_callbacks = []


def register(callback):
    """Has callback() called after each wake, in the main thread; returns it, so that it serves as a decorator."""
    _callbacks.append(callback)
    return callback


def reseed():
    """Reseeds everything, from the kernel."""
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(os.urandom(ENTROPY), ENTROPY)
    tempfile._name_sequence = None
    for callback in _callbacks:
        callback()


def _listen():
    before = signal.getsignal(SIGNAL)

    def woken(number, frame):
        reseed()
        if callable(before):
            before(number, frame)

    signal.signal(SIGNAL, woken)


_listen()
