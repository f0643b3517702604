"""Starts a worker that computes in a process of its own, and sleeps and looks again until it has ended, as launchers do.

Arguments: HOW WORKLOAD. `agent`: two workers, of which the second one computes longer, looked at in a loop; `timeout`: one, by
Popen.wait(timeout); `paced`: the launcher does its own thing in a loop of sleeps, and ends the worker only after it.

Prints as JSON its own number, and that of the worker that mattered.
"""

import json
import os
import subprocess
import sys
import time

how, workload = sys.argv[1:]


def start(milliseconds):
    return subprocess.Popen([workload, "cpu", "--duration", f"{milliseconds}ms"], stdout=subprocess.DEVNULL)


def watch(workers):
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.02)


if how == "agent":
    workers = [start(700), start(1500)]
    watch(workers)
elif how == "timeout":
    workers = [start(1500)]
    workers[-1].wait(timeout=60)
else:
    workers = [start(60000)]
    for _ in range(75):
        time.sleep(0.02)
    time.sleep(0.3)
    workers[-1].kill()
    workers[-1].wait()
print(json.dumps({"pid": os.getpid(), "worker": workers[-1].pid}))
