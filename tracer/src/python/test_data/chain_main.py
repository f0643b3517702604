# The frames of this program are known: a line that calls says whom, after "# ->". chain_lib.py is the other file.
import os
import threading
import time

import chain_lib


def tell(name):
    os.write(1, f"{name} {threading.get_ident()}\n".encode())


def running():
    tell("running")  # -> tell
    while True:
        chain_lib.work(5)  # -> work


def dozing():
    tell("dozing")  # -> tell
    while True:
        chain_lib.work(3)  # -> work
        time.sleep(0.0005)


def deep(levels):
    if levels:
        return deep(levels - 1)  # -> deep
    tell("deep")  # -> tell
    time.sleep(3600)


def start(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()


def main():
    start(running)  # -> start
    start(dozing)  # -> start
    start(deep, 300)  # -> start
    box = chain_lib.Outer.Inner(20)  # -> Outer.Inner.__init__
    box.sleep(20)  # -> Outer.Inner.sleep


main()  # -> main
