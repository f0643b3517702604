"""Writes a few files over and over, each durably, as checkpoints are. Arguments: HOW FOLDER ROUNDS. `truncate`: what a file had is cut off
first (O_TRUNC), so that its blocks are freed; `in-place`: it is written over.

Prints as JSON how long opening and syncing took, and opening without the CPU time in it.
"""

import json
import os
import sys
import tempfile
import time

how, folder, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
FILES, PIECES = 4, 8
piece = os.urandom(1 << 20)
flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if how == "truncate" else 0)


def open_checkpoint(path):
    return os.open(path, flags, 0o600)


opening_s = blocked_s = syncing_s = 0.0
with tempfile.TemporaryDirectory(dir=folder) as own:
    for turn in range(rounds):
        began, computed = time.monotonic(), time.thread_time()
        file = open_checkpoint(os.path.join(own, f"checkpoint{turn % FILES}"))
        took_s = time.monotonic() - began
        opening_s += took_s
        blocked_s += took_s - (time.thread_time() - computed)
        for _ in range(PIECES):
            os.write(file, piece)
        began = time.monotonic()
        os.fsync(file)
        syncing_s += time.monotonic() - began
        os.close(file)
    # Deleting them frees their blocks as well: not part of what is looked at.
    print(json.dumps({"pid": os.getpid(), "opening_s": opening_s, "blocked_s": blocked_s, "syncing_s": syncing_s}))
    sys.stdout.flush()
