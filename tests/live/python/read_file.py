"""Reads a file from its beginning to its end in pieces, some times over, and computes a little with each. Prints how long reading took.

read_file.py PATH PIECE_BYTES PASSES: with {} in the path, another file in each pass.
"""

import json
import os
import sys
import time


def read_piece(file, size):
    return file.read(size)


def main():
    path, size, passes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    reading_s, pieces, total = 0.0, 0, 0
    for number in range(passes):
        began = time.perf_counter()
        with open(path.format(number), "rb", buffering=0) as file:
            reading_s += time.perf_counter() - began
            while True:
                began = time.perf_counter()
                piece = read_piece(file, size)
                reading_s += time.perf_counter() - began
                if not piece:
                    break
                pieces += 1
                total += sum(piece[::64])
    print(json.dumps({"pid": os.getpid(), "reading_s": reading_s, "pieces": pieces, "total": total}))


main()
