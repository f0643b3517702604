"""Reads and writes files by calls of known number and size: two files in turns, one by a child process as well, and small ones that have the
same descriptor one after the other. Argument: FOLDER.

Prints as JSON, by process and path, what it did: reads, bytes read, writes, bytes written.
"""

import json
import os
import sys
import tempfile
import threading

done = {}


def count(path, column, moved):
    row = done.setdefault(f"{os.getpid()} {path}", [0, 0, 0, 0])
    row[column] += 1
    row[column + 1] += moved


def write(path, file, piece):
    count(path, 2, os.write(file, piece))


def read(path, file, size, offset):
    count(path, 0, len(os.pread(file, size, offset)))


with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    first, second = os.path.join(folder, "first"), os.path.join(folder, "second")
    files = {path: os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in (first, second)}
    for turn in range(1_000):
        write(first, files[first], b"x" * 700)
        write(second, files[second], b"x" * (turn % 100))
    # Neither is a pipe's call one of a file, nor one that fails.
    ours, theirs = os.pipe()
    for turn in range(500):
        read(first, files[first], 4096, turn * 500)
        os.write(theirs, b"x")
        os.read(ours, 1)
        read(second, files[second], 10, turn)
    # Behind its end there is nothing.
    read(first, files[first], 4096, 10_000_000)
    try:
        os.pread(theirs, 1, 0)
    except OSError:
        pass
    for number in range(8):
        path = os.path.join(folder, f"small-{number}")
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        for _ in range(number + 1):
            write(path, file, b"y" * 50_000)
        os.close(file)

    def in_a_thread():
        for turn in range(300):
            read(second, files[second], 100, 0)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    child = os.fork()
    if child == 0:
        done.clear()
        for turn in range(200):
            read(first, files[first], 1_000, 0)
        os.write(theirs, json.dumps(done).encode())
        os._exit(0)
    of_child = json.loads(os.read(ours, 1 << 16))
    os.waitpid(child, 0)
print(json.dumps({"pid": os.getpid(), "calls": {**done, **of_child}}))
