# A folder of small files, as one of pictures by class: `make FOLDER FILES` writes it and the same bytes in one file; `read FOLDER ROUNDS HOW`
# reads all of it in a random order, so often. HOW: `cold` (from the disk each time), `warm`, `packed` (the one file, in order, from the disk),
# `loader` (as `cold`, by another process, which hands batches over). Reading says in one line of JSON how many files and bytes, and how long it took.
import itertools
import json
import os
import random
import sys
import time

CLASSES, BYTES = 40, 20_000
what, folder = sys.argv[1:3]
packed = os.path.join(folder, "packed.bin")


def path_of(number):
    return os.path.join(folder, f"class-{number % CLASSES:03}", f"picture-{number}.jpg")


def forget(path):
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def load(number):
    with open(path_of(number), "rb") as file:
        return len(file.read())


def stream():
    done = 0
    with open(packed, "rb") as file:
        while piece := file.read(1 << 20):
            done += len(piece)
    return done


def cold(rounds, numbers):
    """All numbers in another order each time, when none of them is in memory."""
    for _ in range(rounds):
        for number in numbers:
            forget(path_of(number))
        random.shuffle(numbers)
        yield from numbers


def loaded_elsewhere(numbers):
    """What a process of its own has loaded, as a data loader's worker does: sums of batches."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        while batch := list(itertools.islice(numbers, 64)):
            os.write(theirs, sum(map(load, batch)).to_bytes(8, "little"))
        os._exit(0)
    os.close(theirs)
    told["loader_pid"] = child
    while batch := os.read(ours, 8):
        yield int.from_bytes(batch, "little")
    os.waitpid(child, 0)


if what == "make":
    count = int(sys.argv[3])
    for number in range(min(count, CLASSES)):
        os.makedirs(os.path.dirname(path_of(number)))
    with open(packed, "wb") as shard:
        for number in range(count):
            data = os.urandom(BYTES)
            shard.write(data)
            with open(path_of(number), "wb") as file:
                file.write(data)
    os.sync()
else:
    rounds, how = int(sys.argv[3]), sys.argv[4]
    count = os.path.getsize(packed) // BYTES
    numbers = list(range(count))
    random.seed(7)
    told = {"pid": os.getpid(), "files": count, "rounds": rounds}
    if how == "warm":
        sum(map(load, numbers))
    start = time.monotonic()
    if how == "packed":
        done = 0
        for _ in range(rounds):
            forget(packed)
            done += stream()
    elif how == "warm":
        done = sum(map(load, numbers * rounds))
    else:
        numbers = cold(rounds, numbers)
        done = sum(loaded_elsewhere(numbers) if how == "loader" else map(load, numbers))
    print(json.dumps({**told, "bytes": done, "reading_s": time.monotonic() - start}))
