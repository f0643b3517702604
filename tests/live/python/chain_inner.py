"""The other file of chain_outer.py."""

import time


class Third:
    """Its method has a qualified name."""

    def __init__(self, callback):
        self.callback = callback

    def method(self, mode, seconds):
        return self.callback(mode, seconds)  # in Third.method


def second(callback, mode, seconds):
    return Third(callback).method(mode, seconds)  # in second


def compute(seconds):
    end = time.monotonic() + seconds  # from compute
    total = 0
    while time.monotonic() < end:
        for number in range(1000):
            total += number * number
    return total  # to compute


def rest(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.002)  # in rest
