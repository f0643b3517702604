# Saves many small files, each once, and has each synced: FOLDER FILES. One line of JSON says how long syncing took.
import json
import os
import sys
import time

folder, files = sys.argv[1], int(sys.argv[2])
data = bytes(1 << 20)
took = 0.0
paths = []


def save_shard(number):
    global took
    path = os.path.join(folder, f"tracer-shard-{os.getpid()}-{number}.bin")
    paths.append(path)
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        start = time.monotonic()
        os.fsync(file.fileno())
        took += time.monotonic() - start


try:
    for number in range(files):
        save_shard(number)
finally:
    for path in paths:
        os.unlink(path)
print(json.dumps({"pid": os.getpid(), "syncing_s": took}))
