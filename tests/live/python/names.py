# Files whose names are hard to know: FOLDER HOW. `reuse`: checkpoints are written, synced and deleted one after the other, and get the same inode.
# `bind`: small files of a directory that is mounted elsewhere, in a mount namespace of the process's own. One line of JSON says what was done.
import ctypes
import json
import os
import sys

folder, how = sys.argv[1:3]
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 0x4000, 1 << 18
told = {"pid": os.getpid()}


def save_checkpoint(path):
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(300_000))
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_ino


def mounted_elsewhere(source, target):
    os.makedirs(source)
    os.makedirs(target)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace")
    if libc.mount(source.encode(), target.encode(), None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), "a bind mount")


def load(path):
    with open(path, "rb") as file:
        return len(file.read())


if how == "reuse":
    inodes = set()
    for number in range(300):
        path = os.path.join(folder, f"checkpoint-{number}.pt")
        inodes.add(save_checkpoint(path))
        os.unlink(path)
    told["inodes"] = sorted(inodes)
else:
    target = os.path.join(folder, "seen")
    mounted_elsewhere(os.path.join(folder, "kept", "data"), target)
    paths = [os.path.join(target, f"sample-{number}.bin") for number in range(1_000)]
    for path in paths:
        with open(path, "wb") as file:
            file.write(os.urandom(5_000))
    os.sync()
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    told["bytes"] = sum(map(load, paths))
print(json.dumps(told))
