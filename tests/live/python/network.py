# Clients and servers on this host. One line of JSON at the end says what they measured of themselves.
#   poll       a client with a timeout, which polls its socket before it reads, and a slow server
#   served     this process is the server: it waits for a client to connect, and then for what it asks
#   ended      the server answers once and ends; the client goes on
#   abstract   a client of a unix socket with a name in the abstract namespace that is a forged line of /proc/net/unix
import json
import os
import socket
import sys
import time

mode = sys.argv[1]


def ask(connection, waited):
    connection.sendall(b"question")
    start = time.monotonic()
    connection.recv(4096)
    waited[0] += time.monotonic() - start


def answer_slowly(connection, count, pause):
    for _ in range(count):
        if not connection.recv(4096):
            return
        time.sleep(pause)
        connection.sendall(b"answer" * 100)


def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def client_of(listener, count, pause, timeout, linger):
    child = in_child(lambda: answer_slowly(listener.accept()[0], count, pause))
    connection = socket.socket(listener.family, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    connection.connect(listener.getsockname())
    waited = [0.0]
    for _ in range(count):
        ask(connection, waited)
    if linger:
        os.waitpid(child, 0)
        time.sleep(linger)
    return {"child": child, "waited_s": waited[0]}


def listening(family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(8)
    return listener


def served():
    listener = listening(socket.AF_INET, ("127.0.0.1", 0))

    def client():
        time.sleep(1.2)
        connection = socket.create_connection(listener.getsockname())
        for _ in range(2):
            ask(connection, [0.0])
            time.sleep(0.6)

    child = in_child(client)
    connection, _ = listener.accept()
    answer_slowly(connection, 3, 0.0)
    os.waitpid(child, 0)
    return {"child": child, "address": "%s:%d" % listener.getsockname()}


def abstract():
    forged = b"\x1b[31mevil\n0000000000000000: 00000002 00000000 00010000 0001 01"
    near, far = socket.socketpair()
    name = b"\0" + forged + b" %d /tmp/forged" % os.fstat(near.fileno()).st_ino
    truth = client_of(listening(socket.AF_UNIX, name), 20, 0.03, None, 0)
    # The pair's waits must not get the forged name.
    child = in_child(lambda: answer_slowly(far, 20, 0.03))
    waited = [0.0]
    for _ in range(20):
        ask(near, waited)
    truth["inode"] = os.fstat(near.fileno()).st_ino
    return truth


def main():
    inet = lambda: listening(socket.AF_INET, ("127.0.0.1", 0))
    if mode == "poll":
        truth = client_of(inet(), 24, 0.05, 5.0, 0)
    elif mode == "ended":
        truth = client_of(inet(), 1, 1.1, None, 0.3)
    elif mode == "served":
        truth = served()
    else:
        truth = abstract()
    print(json.dumps({"pid": os.getpid(), **truth}))


main()
