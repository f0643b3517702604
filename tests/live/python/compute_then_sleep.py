"""Computes for about a second, sleeps for about a second, and prints what the kernel says of it: one line of JSON.

Arguments: seconds to compute, seconds to sleep. Wall time is taken from the process's own start, as /proc gives it, so that it covers
what passed before Python ran; its resolution is a clock tick.
"""

import json
import os
import sys
import time


def started_at():
    """Seconds between boot and the start of this process."""
    with open("/proc/self/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def main():
    compute_s = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    sleep_s = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    first = time.monotonic()
    total = 0
    while time.monotonic() < first + compute_s:
        for number in range(1000):
            total += number * number
    asleep = time.monotonic()
    time.sleep(sleep_s)
    slept = time.monotonic() - asleep
    with open("/proc/self/schedstat") as schedstat:
        on_cpu_ns, run_delay_ns, _ = schedstat.read().split()
    truth = {
        "role": "compute-then-sleep",
        "pid": os.getpid(),
        "wall_s": time.clock_gettime(time.CLOCK_BOOTTIME) - started_at(),
        "own_wall_s": time.monotonic() - first,
        "slept_s": slept,
        "schedstat_ns": int(on_cpu_ns),
        "run_delay_ns": int(run_delay_ns),
        "on_cpu_ns": time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID),
        "total": total,
    }
    print(json.dumps(truth), flush=True)


main()
