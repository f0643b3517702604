"""Two threads fight for the interpreter lock. Not a contended pthread mutex: no owner may be named.

Argument: for how many seconds. Prints one line of JSON.
"""

import json
import os
import sys
import threading
import time


def compute(seconds, truth):
    """Pure Python all the way: the interpreter lock is only given up when another thread asks for it."""
    end = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < end:
        for number in range(1000):
            turns += number & 1
    truth.append({"tid": threading.get_native_id(), "turns": turns})


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    truth = []
    threads = [threading.Thread(target=compute, args=(seconds, truth)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"role": "gil-fight", "pid": os.getpid(), "threads": truth}), flush=True)


main()
