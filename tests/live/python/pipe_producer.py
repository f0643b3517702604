"""A consumer that waits for a child process's items. `compute` or `sleep`: what the producer does for each; a last argument
`slow-consumer` turns it round: the producer is fast, and waits for room in the pipe."""
import json
import multiprocessing
import os
import sys
import time


def decode_sample(mode, seconds):
    if mode == "sleep":
        time.sleep(seconds)
        return
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def produce(pipe, mode, count, seconds):
    for _ in range(count):
        decode_sample(mode, seconds)
        pipe.send(b"x" * 30000)
    pipe.close()


def train_step(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def main():
    mode = sys.argv[1]
    slow_consumer = sys.argv[2:] == ["slow-consumer"]
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    count, item_s, step_s = (40, 0.0, 0.015) if slow_consumer else (40, 0.015, 0.001)
    child = multiprocessing.get_context("fork").Process(target=produce, args=(sender, mode, count, item_s))
    child.start()
    sender.close()
    waited = 0.0
    for _ in range(count):
        asked = time.monotonic()
        receiver.recv()
        waited += time.monotonic() - asked
        train_step(step_s)
    child.join()
    print(json.dumps({"pid": os.getpid(), "child": child.pid, "waited_s": waited}))


main()
