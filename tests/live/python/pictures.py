# A folder of small files, as one of pictures by class: `make FOLDER FILES` writes it and the same bytes in one file; `read FOLDER ROUNDS HOW`
# reads all of it in a random order, so often. HOW: `cold` (from the disk each time), `warm`, `packed` (the one file, in order, from the disk).
# Reading says in one line of JSON how many files and bytes, and how long it took.
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
    if how == "warm":
        for number in numbers:
            load(number)
    done = 0
    took = 0.0
    for _ in range(rounds):
        if how == "cold":
            for number in numbers:
                forget(path_of(number))
        elif how == "packed":
            forget(packed)
        random.shuffle(numbers)
        start = time.monotonic()
        done += stream() if how == "packed" else sum(load(number) for number in numbers)
        took += time.monotonic() - start
    print(json.dumps({"pid": os.getpid(), "files": count, "bytes": done, "rounds": rounds, "reading_s": took}))
