"""Page faults of each kind, in known numbers, with calls between them that bring pages in or take them away. Prints how many of which kind
this process and its child had.
"""

import ctypes
import json
import mmap
import os
import resource

PAGES, ROUNDS = 16384, 3
PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
libc = ctypes.CDLL(None, use_errno=True)


def mapping(pages, flags=PRIVATE):
    memory = mmap.mmap(-1, pages * PAGE, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def write(memory, value):
    for at in range(0, len(memory), PAGE):
        memory[at] = value


def read(memory):
    return sum(memory[at] for at in range(0, len(memory), PAGE))


def main():
    for _ in range(ROUNDS):
        # What a call brings in is no page fault; what others take away neither.
        brought_in = mmap.mmap(-1, PAGES * PAGE, flags=PRIVATE | 0x8000)
        memory = mapping(PAGES)
        write(memory, 1)
        brought_in.close()
        memory.close()
    # The page of zeroes, then a page of its own.
    memory = mapping(PAGES)
    read(memory)
    write(memory, 1)
    shared = mapping(PAGES, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    write(shared, 1)
    child = os.fork()
    if child == 0:
        write(memory, 2)
        os._exit(0)
    os.waitpid(child, 0)
    own = {"anonymous": (ROUNDS + 1) * PAGES, "shared": PAGES, "other": PAGES}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    faults = usage.ru_minflt + usage.ru_majflt - ROUNDS * PAGES
    print(json.dumps({"pid": os.getpid(), "child": child, "own": own, "copied": PAGES, "faults": faults}), flush=True)
    # What the interpreter has at its end is not in that number.
    os._exit(0)


main()
