"""Opens a file for writing, writes and closes it, over and over. Arguments: FILE PIECES ROUNDS; of no piece nothing is written. The first
time it takes a moment before it closes it, so that somebody can look at what it has open.

Prints as JSON how long closing took.
"""

import json
import os
import sys
import time

path, pieces, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
piece = b"x" * 4096


def finish(file):
    os.close(file)


closing_s = 0.0
for turn in range(rounds):
    file = os.open(path, os.O_WRONLY)
    for _ in range(pieces):
        os.write(file, piece)
    time.sleep(0 if turn else 0.3)
    began = time.monotonic()
    finish(file)
    closing_s += time.monotonic() - began
print(json.dumps({"pid": os.getpid(), "closing_s": closing_s}))
