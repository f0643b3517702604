"""A chain of calls over two files, in main and in a thread, computing and sleeping.

Arguments: MODE (compute, sleep) SECONDS. The chain, from the outside: `run` and `first` here, `second` and `Third.method` in
chain_inner.py, `fourth` here, and `compute` or `rest` there. The line that runs in each is marked with `# in NAME`; the innermost
function of a computing chain runs any line of its loop. Prints one line of JSON: for each thread its id and from when to when it was in the chain.
"""

import json
import os
import sys
import threading
import time

import chain_inner

SPELLS = []


def native_id():
    """The kernel's number of this thread."""
    if hasattr(threading, "get_native_id"):
        return threading.get_native_id()
    return os.getpid()


def fourth(mode, seconds):
    if mode == "sleep":
        return chain_inner.rest(seconds)  # in fourth, sleep
    return chain_inner.compute(seconds)  # in fourth, compute


def first(mode, seconds):
    return chain_inner.second(fourth, mode, seconds)  # in first


def run(mode, seconds):
    spell = {"tid": native_id(), "from_ns": time.monotonic_ns()}
    first(mode, seconds)  # in run
    spell["to_ns"] = time.monotonic_ns()
    SPELLS.append(spell)


def main():
    mode, seconds = sys.argv[1], float(sys.argv[2])
    # Frames of Python are read from the moment at which the tracer has seen that there is an interpreter, so not from its first one.
    time.sleep(0.3)
    thread = threading.Thread(target=run, args=(mode, seconds))
    thread.start()
    run(mode, seconds)
    thread.join()
    print(json.dumps({"role": "chain", "pid": os.getpid(), "threads": SPELLS}), flush=True)


main()
