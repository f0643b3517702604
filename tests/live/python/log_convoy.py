"""Four threads log into a pipe whose reader is slow; with `fast` it is not. Prints its own truth."""
import json
import logging
import os
import sys
import threading
import time


def drain(fd, pause_s):
    while os.read(fd, 4096):
        if pause_s:
            time.sleep(pause_s)


def work(log, count, waited):
    for number in range(count):
        end = time.thread_time() + 0.001
        while time.thread_time() < end:
            pass
        asked = time.monotonic()
        log.info("step %d %s", number, "x" * 2000)
        waited[0] += time.monotonic() - asked


def main():
    fast = "fast" in sys.argv
    receive, send = os.pipe()
    reader = os.fork()
    if reader == 0:
        os.close(send)
        drain(receive, 0 if fast else 0.01)
        os._exit(0)
    os.close(receive)
    log = logging.getLogger("ranks")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(os.fdopen(send, "w", buffering=1)))
    waited = [[0.0] for _ in range(4)]
    threads = [
        threading.Thread(target=work, args=(log, 120, waited[rank]), name=f"rank{rank}") for rank in range(4)
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.monotonic() - started
    truth = {"pid": os.getpid(), "reader": reader, "waited_s": [each[0] for each in waited], "wall_s": wall}
    print(json.dumps(truth), flush=True)
    os.kill(reader, 9)
    os._exit(0)


main()
