"""Computes for about a second, sleeps for about a second, and prints what the kernel says of it: one line of JSON.

Arguments: seconds to compute, seconds to sleep. Where the environment says in STARTED_MONOTONIC_NS when this process began, `wall_s` is
its whole life: it ends at once after the line, without the interpreter's own clean-up.
"""

import json
import os
import sys
import time


def main():
    compute_s = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    sleep_s = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    first_ns = time.monotonic_ns()
    started_ns = int(os.environ.get("STARTED_MONOTONIC_NS", first_ns))
    total = 0
    while time.monotonic_ns() < first_ns + compute_s * 1e9:
        for number in range(1000):
            total += number * number
    asleep_ns = time.monotonic_ns()
    time.sleep(sleep_s)
    slept_ns = time.monotonic_ns() - asleep_ns
    with open("/proc/self/schedstat") as schedstat:
        on_cpu_ns, run_delay_ns, _ = schedstat.read().split()
    truth = {
        "role": "compute-then-sleep",
        "pid": os.getpid(),
        "wall_s": (time.monotonic_ns() - started_ns) / 1e9,
        "slept_s": slept_ns / 1e9,
        "schedstat_ns": int(on_cpu_ns),
        "run_delay_ns": int(run_delay_ns),
        "on_cpu_ns": time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID),
        "total": total,
    }
    print(json.dumps(truth), flush=True)
    os._exit(0)


main()
