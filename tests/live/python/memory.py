"""Memory as Python programs use it: `cow` forks workers that look at the parent's strings, `churn` makes a large array anew in each step.
`--healthy`: numbers in an array instead of strings; one buffer that is used again. `--apart`: the strings are
there, and workers look at numbers in an array. The last line is what the program measured of itself."""

import array
import json
import os
import random
import sys
import time


def private_dirty(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Private_Dirty:"))


def look_at_samples(data):
    total = 0
    for sample in data:
        total += len(sample) if isinstance(sample, str) else 1
    return total


def cow(healthy, count, workers):
    apart = "--apart" in sys.argv
    numbers = array.array("q", range(count)) if healthy or apart else None
    strings = None if healthy else [f"sample-{number:08}" for number in range(count)]
    data = strings if numbers is None else numbers
    started = time.monotonic()
    children = []
    for _ in range(workers):
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            look_at_samples(data)
            os.write(tell, b"x")
            time.sleep(0.3)
            os._exit(0)
        os.close(tell)
        children.append((pid, ready))
    facts = []
    for pid, ready in children:
        os.read(ready, 1)
        facts.append({"pid": pid, "private_dirty_bytes": private_dirty(pid)})
    for pid, _ in children:
        os.waitpid(pid, 0)
    return {"workers": facts, "took_s": time.monotonic() - started}


def train_step(healthy, kept, size):
    buffer = kept if healthy else bytearray(size)
    view = memoryview(buffer)
    step = random.randrange(1, 200)
    for at in range(0, size, 4096):
        view[at] = step
    return len(buffer)


def churn(healthy, steps, size):
    kept = bytearray(size)
    started = time.monotonic()
    for _ in range(steps):
        train_step(healthy, kept, size)
    return {"took_s": time.monotonic() - started}


def main():
    kind, healthy = sys.argv[1], "--healthy" in sys.argv
    if kind == "cow":
        facts = cow(healthy, 4_000_000, 2)
    else:
        facts = churn(healthy, 40, 64 << 20)
    print(json.dumps({"pid": os.getpid(), **facts}))


main()
