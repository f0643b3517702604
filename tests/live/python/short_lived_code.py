"""Code that is freed as soon as it has run: functions of modules that nobody keeps, each for some milliseconds.

Arguments: SECONDS. Each turn compiles `made_NUMBER` in `made_NUMBER.py`, whose functions have the same size each time, so that one's
memory is used again by the next. Prints one line of JSON: from when to when each of them ran.
"""

import json
import os
import sys
import time

SOURCE = """def made_{0}(until):
    while time.monotonic_ns() < until:
        pass
    time.sleep(0.001)
made_{0}(until)
"""


def run(seconds):
    turns = []
    end = time.monotonic() + seconds
    number = 10000
    while time.monotonic() < end:
        source = SOURCE.format(number)
        from_ns = time.monotonic_ns()
        exec(compile(source, f"made_{number}.py", "exec"), {"time": time, "until": from_ns + 2_000_000})  # in run
        turns.append([number, from_ns, time.monotonic_ns()])
        number += 1
    return turns


time.sleep(0.3)
print(json.dumps({"role": "short-lived", "pid": os.getpid(), "turns": run(float(sys.argv[1]))}), flush=True)
