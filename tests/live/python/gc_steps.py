"""Steps that make a little cyclic garbage and collect it, while many small objects in cycles are alive.

First argument: how many objects are alive. Second: how many steps. Third, `freeze`: they are put out of the collector's sight first.
Prints one line of JSON: how much CPU time collecting took, by the interpreter's own callbacks.
"""

import gc
import json
import os
import sys
import time

collecting = {"began": 0.0, "s": 0.0}


def on_collection(phase, _):
    if phase == "start":
        collecting["began"] = time.thread_time()
    else:
        collecting["s"] += time.thread_time() - collecting["began"]


def cycle():
    first, second = {}, {}
    first["other"], second["other"] = second, first
    return first


def train_step():
    for _ in range(300):
        cycle()
    total = 0
    for number in range(200000):
        total += number & 3
    gc.collect()
    return total


def main():
    alive, steps, freeze = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["freeze"]
    gc.disable()
    data = [cycle() for _ in range(alive // 2)]
    gc.enable()
    if freeze:
        gc.freeze()
    gc.callbacks.append(on_collection)
    began, started = time.thread_time(), time.monotonic()
    for _ in range(steps):
        train_step()
    loop_cpu_s = time.thread_time() - began
    truth = {"role": "gc-steps", "pid": os.getpid(), "alive": len(data) * 2, "gc_cpu_s": collecting["s"]}
    truth["loop_cpu_s"] = loop_cpu_s
    truth["took_s"] = time.monotonic() - started
    print(json.dumps(truth), flush=True)
    # Taking all these objects down at the end is no part of this.
    os._exit(0)


main()
