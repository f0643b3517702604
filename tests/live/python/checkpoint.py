# A model's state saved in shards between steps of computing: each shard is packed, written and synced, and each part is timed. FOLDER SHARDS [unsynced]
import json
import os
import pickle
import sys
import time

folder, shards = sys.argv[1], int(sys.argv[2])
synced = sys.argv[3:] != ["unsynced"]
now = time.monotonic
took = {"packing_s": 0.0, "writing_s": 0.0, "syncing_s": 0.0, "training_s": 0.0}
state = [float(number) for number in range(3_500_000)]
paths = []


def durable(file):
    start = now()
    os.fsync(file.fileno())
    took["syncing_s"] += now() - start


def save_checkpoint(number):
    path = os.path.join(folder, f"tracer-checkpoint-{os.getpid()}-{number}.pt")
    paths.append(path)
    start = now()
    packed = pickle.dumps(state)
    packed_at = now()
    with open(path, "wb", buffering=0) as file:
        file.write(packed)
        took["packing_s"] += packed_at - start
        took["writing_s"] += now() - packed_at
        if synced:
            durable(file)
    return len(packed)


def train():
    start = now()
    while now() < start + 0.1:
        sum(range(1000))
    took["training_s"] += now() - start


written = 0
try:
    for number in range(shards):
        train()
        written += save_checkpoint(number)
finally:
    for path in paths:
        os.unlink(path)
print(json.dumps({"pid": os.getpid(), "written": written, **took}))
