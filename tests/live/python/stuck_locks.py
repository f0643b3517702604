"""Two threads take two locks in opposite order and hang. Prints its truth as JSON once they do."""

import json
import os
import threading
import time

A, B = threading.Lock(), threading.Lock()
BOTH = threading.Barrier(2)


def wants_the_other(mine, other):
    with mine:
        BOTH.wait()
        with other:
            pass


def wait_for_both(threads):
    for thread in threads:
        thread.join()


THREADS = [
    threading.Thread(target=wants_the_other, args=locks, daemon=True)
    for locks in ((A, B), (B, A))
]
for thread in THREADS:
    thread.start()
time.sleep(0.3)
print(
    json.dumps({"pid": os.getpid(), "tids": [t.native_id for t in THREADS]}),
    flush=True,
)
wait_for_both(THREADS)
