"""A file system of one file, and of small ones with any number in their names, served by this process through /dev/fuse: each read takes as long as asked, as from a far store, or each close, as by clients that send
what was written at the end.

fuse_server.py FOLDER MIB DELAY_MS [PROGRAM]: mounts it on FOLDER, says that it is ready, and serves FOLDER/data.bin and
FOLDER/sample-N until it is unmounted. With DELAY_MS as close:MS closing takes that long, and nothing else. With PROGRAM, data.bin is a
copy of that file and can be executed. What is written is accepted and forgotten. Root only.
"""

import ctypes
import errno
import json
import os
import stat
import struct
import sys
import time

FOLDER = sys.argv[1]
CLOSES, DELAY_S = sys.argv[3].startswith("close:"), float(sys.argv[3].removeprefix("close:")) / 1e3
PROGRAM = open(sys.argv[4], "rb").read() if len(sys.argv) > 4 else None
SIZE = len(PROGRAM) if PROGRAM else int(sys.argv[2]) << 20
ROOT, FILE, SAMPLES = 1, 2, 1_000
SAMPLE_BYTES = 16 << 10
# linux/fuse.h
LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, BATCH_FORGET = (
    1, 2, 3, 14, 15, 16, 17, 18, 25, 26, 27, 28, 29, 42,
)
HEADER = struct.Struct("<IIQQIIII")


def size_of(node):
    return SIZE if node == FILE else SAMPLE_BYTES


def node_of(name):
    if name == b"data.bin":
        return FILE
    return SAMPLES + int(name[7:]) if name.startswith(b"sample-") and name[7:].isdigit() else None


def attributes(node):
    mode, size = (stat.S_IFDIR | 0o755, 4096) if node == ROOT else (stat.S_IFREG | 0o555, size_of(node))
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node, body):
    if opcode == INIT:
        major, minor, readahead, _ = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, readahead, 0, 12, 9, 1 << 20, 1, 256, 0, 0)
    if opcode == LOOKUP:
        found = node_of(body.rstrip(b"\0"))
        if found is None:
            return errno.ENOENT
        return struct.pack("<QQQQII", found, 0, 3600, 3600, 0, 0) + attributes(found)
    if opcode == GETATTR:
        return struct.pack("<QII", 3600, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        # What the page cache has of it is kept.
        return struct.pack("<QII", 1, 2, 0)
    if opcode == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        time.sleep(0 if CLOSES else DELAY_S)
        if PROGRAM and node == FILE:
            return PROGRAM[offset:offset + size]
        return b"x" * max(0, min(size, size_of(node) - offset))
    if opcode == WRITE:
        return struct.pack("<II", struct.unpack_from("<QQI", body)[2], 0)
    if opcode == FLUSH:
        time.sleep(DELAY_S if CLOSES else 0)
    if opcode in (RELEASE, FLUSH, RELEASEDIR, READDIR):
        return b""
    return errno.ENOSYS


def main():
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"far-store", FOLDER.encode(), b"fuse.farstore", 6, options) != 0:
        sys.exit(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    while True:
        try:
            request = os.read(fuse, 1 << 21)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET):
            continue
        reply = answer(opcode, node, request[HEADER.size:])
        error, payload = (-reply, b"") if isinstance(reply, int) else (0, reply)
        os.write(fuse, struct.pack("<IiQ", 16 + len(payload), error, unique) + payload)


main()
