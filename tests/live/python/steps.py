"""A loop of `train_step`. `slow`: each tenth step sleeps in `save_checkpoint`; `even`: all are alike. A second argument says how many."""
import json
import os
import sys
import time


def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def save_checkpoint(seconds):
    time.sleep(seconds)


class Trainer:
    def __init__(self, mode):
        self.mode = mode
        self.done = 0

    def train_step(self, seconds):
        self.done += 1
        compute(seconds)
        if self.mode == "slow" and self.done % 10 == 0:
            save_checkpoint(0.05)


def main():
    trainer = Trainer(sys.argv[1])
    began = time.monotonic()
    for _ in range(int(sys.argv[2])):
        trainer.train_step(0.015)
    print(json.dumps({"pid": os.getpid(), "steps": trainer.done, "loop_s": time.monotonic() - began}))


main()
