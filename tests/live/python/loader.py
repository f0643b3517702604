"""A main loop that takes items from a queue which others fill: `KIND WORK [healthy] [count N]`.

KIND: `pipe` (a process, a pipe), `mpqueue` (a process, multiprocessing.Queue), `threads` (two threads, queue.Queue), `workers` (two
processes, each with a pipe of its own, asked in turn as PyTorch's DataLoader does), `unix` (a process, a unix socket).
WORK: what the producer does for an item: `sleep`, `compute`, `read` (its file is dropped from the page cache), or `none`.
`healthy`: the producer is fast and the main loop slow, so the queue is full. Prints its own truth."""
import json
import multiprocessing
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time

fork = multiprocessing.get_context("fork")


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def decode_sample(work, seconds, path):
    if work == "sleep":
        time.sleep(seconds)
    elif work == "compute":
        burn(seconds)
    elif work == "read":
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        size = os.fstat(fd).st_size
        for offset in range(0, size, 1 << 18):
            os.pread(fd, 4096, offset)
        os.close(fd)
    return b"x" * 30000


def train_step(seconds):
    burn(seconds)


class Loader:
    def __init__(self, kind, work, item_s, path):
        self.kind, self.pids = kind, []
        made = lambda: decode_sample(work, item_s, path)

        def serve(requests, results):
            while requests.recv() is not None:
                results.send(made())

        def fill(put, count):
            for _ in range(count):
                put(made())

        self.serve, self.fill = serve, fill

    def start(self, count):
        start = {"pipe": self.start_pipe, "mpqueue": self.start_mpqueue, "threads": self.start_threads,
                 "workers": self.start_workers, "unix": self.start_unix}
        start[self.kind](count)

    def child(self, target, *arguments):
        process = fork.Process(target=target, args=arguments)
        process.start()
        self.pids.append(process.pid)

    def start_pipe(self, count):
        receiver, sender = fork.Pipe(duplex=False)
        self.child(self.fill, sender.send, count)
        sender.close()
        self.take = receiver.recv

    def start_mpqueue(self, count):
        items = fork.Queue(4)
        self.child(self.fill, items.put, count)
        self.take = items.get

    def start_threads(self, count):
        items = queue.Queue(4)
        for _ in range(2):
            threading.Thread(target=self.fill, args=(items.put, count // 2), name="loader", daemon=True).start()
        self.pids.append(os.getpid())
        self.take = items.get

    def start_workers(self, count):
        workers = []
        for _ in range(2):
            near, far = fork.Pipe()
            self.child(self.serve, far, far)
            workers.append(near)
        asked = [0]

        def ask():
            if asked[0] < count:
                workers[asked[0] % 2].send(asked[0])
                asked[0] += 1

        for _ in range(4):
            ask()
        taken = [0]

        def take():
            item = workers[taken[0] % 2].recv()
            taken[0] += 1
            ask()
            return item

        self.take = take

    def start_unix(self, count):
        near, far = socket.socketpair()

        def fill():
            self.fill(far.sendall, count)
            far.close()

        self.child(fill)
        far.close()

        def take():
            left = 30000
            while left:
                left -= len(near.recv(left))

        self.take = take


def main():
    kind, work = sys.argv[1], sys.argv[2]
    healthy = "healthy" in sys.argv
    count = 120
    item_s, step_s = (0.001, 0.012) if healthy else (0.012, 0.001)
    if kind in ("workers", "threads") and not healthy:
        item_s *= 2
    path = None
    if work == "read":
        with tempfile.NamedTemporaryFile(dir=os.environ.get("LOADER_DIR", "."), delete=False) as file:
            file.write(os.urandom(1 << 24))
            file.flush()
            os.fsync(file.fileno())
            path = file.name
    loader = Loader(kind, work if not healthy else "compute", item_s, path)
    started = time.monotonic()
    loader.start(count)
    waited, longest = 0.0, 0.0
    for _ in range(count):
        asked = time.monotonic()
        loader.take()
        waited += time.monotonic() - asked
        train_step(step_s)
    wall = time.monotonic() - started
    if path:
        os.unlink(path)
    print(json.dumps({"pid": os.getpid(), "producers": loader.pids, "waited_s": waited, "wall_s": wall, "path": path}), flush=True)
    for pid in loader.pids:
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


main()
