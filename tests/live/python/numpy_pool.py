"""Threads of a pool multiply matrices with NumPy, each in its own thread. Argument: seconds.

Prints one line of JSON: for each thread its id and from when to when it multiplied.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy


def multiply(seconds):
    size = 600
    matrix = numpy.ones((size, size))
    spell = {"tid": threading.get_native_id(), "from_ns": time.monotonic_ns()}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        matrix @ matrix  # in multiply
    spell["to_ns"] = time.monotonic_ns()
    return spell


def main():
    seconds = float(sys.argv[1])
    with ThreadPoolExecutor(2) as pool:
        spells = list(pool.map(multiply, [seconds, seconds]))
    unique = {spell["tid"]: spell for spell in spells}
    print(json.dumps({"role": "numpy-pool", "pid": os.getpid(), "threads": list(unique.values())}), flush=True)


main()
