"""Two processes and data between them: `KIND [count N] [mib N] [step-ms N]`.

KIND: `pipe` (multiprocessing.Pipe, each message pickled), `bytes` (the same without pickling), `unix` (a pair of unix sockets, sendall and
recv_into), `shared` (shared memory, a number through the pipe for each message: the healthy twin), `slow-small` (the producer sleeps 12 ms
and sends 200 bytes), `slow-large` (the producer computes 60 ms and sends 1 MiB). Prints its own truth."""
import json
import multiprocessing
import os
import socket
import sys
import time
from multiprocessing import shared_memory

fork = multiprocessing.get_context("fork")


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def produce_item(kind):
    if kind == "slow-small":
        time.sleep(0.012)
        return b"x" * 200
    burn(0.06)
    return bytes(1 << 20)


def fill(kind, end, count, size, name):
    if kind == "shared":
        memory = shared_memory.SharedMemory(name)
        for number in range(count):
            memory.buf[number] = number & 255
            end.send(number)
        memory.close()
        return
    batch = bytearray(size)
    for _ in range(count):
        if kind == "pipe":
            end.send(batch)
        elif kind == "bytes":
            end.send_bytes(batch)
        elif kind == "unix":
            end.sendall(batch)
        else:
            end.send_bytes(produce_item(kind))


def take_unix(end, batch):
    view, done = memoryview(batch), 0
    while done < len(batch):
        done += end.recv_into(view[done:])


def train_step(seconds):
    burn(seconds)


def option(name, default):
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def main():
    kind = sys.argv[1]
    count = int(option("count", {"slow-small": 100, "slow-large": 30, "unix": 80}.get(kind, 20)))
    size, step_s = int(option("mib", 64) * (1 << 20)), option("step-ms", 2) / 1000
    near, far = socket.socketpair() if kind == "unix" else fork.Pipe(duplex=False)
    memory = shared_memory.SharedMemory(create=True, size=size) if kind == "shared" else None
    child = fork.Process(target=fill, args=(kind, far, count, size, memory and memory.name))
    started = time.monotonic()
    child.start()
    far.close()
    batch = bytearray(size if kind == "unix" else 0)
    taken_s = 0.0
    for _ in range(count):
        asked = time.monotonic()
        if kind == "unix":
            take_unix(near, batch)
        elif kind in ("pipe", "shared"):
            near.recv()
        else:
            near.recv_bytes()
        taken_s += time.monotonic() - asked
        train_step(step_s)
    wall_s = time.monotonic() - started
    child.join()
    if memory:
        memory.close()
        memory.unlink()
    print(json.dumps({"pid": os.getpid(), "child": child.pid, "taken_s": taken_s, "wall_s": wall_s, "bytes": count * size}))


main()
