# Clients and servers on this host. One line of JSON at the end says what they measured of themselves.
#   poll       a client with a timeout, which polls its socket before it reads, and a slow server
#   epoll      a client of two slow servers at a time, one event loop that waits in epoll, and an open connection without a word
#   looped     this process is the server, in an event loop: it waits in epoll for clients that each ask once, and for one that stays
#   served     this process is the server: it waits for a client to connect, and then for what it asks
#   ended      the server answers once and ends; the client goes on
#   abstract   a client of a unix socket with a name in the abstract namespace that is a forged line of /proc/net/unix
import asyncio
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


async def ask_in_turn(addresses, count):
    """Asks one server after the other, and none while another one makes its answer: what is waited for is known."""
    streams = [await asyncio.open_connection(*address) for address in addresses]
    waited = [0.0] * len(addresses)
    for number in range(count):
        # Three questions to the first for two to the second.
        which = 0 if number % 5 < 3 else 1
        reader, writer = streams[which]
        writer.write(b"question")
        start = time.monotonic()
        await reader.readexactly(600)
        waited[which] += time.monotonic() - start
    for _, writer in streams:
        writer.close()
    return waited


def epoll():
    listeners = [listening(socket.AF_INET, ("127.0.0.1", 0)) for _ in range(3)]
    addresses = [listener.getsockname() for listener in listeners]
    serve = lambda listener: lambda: answer_slowly(listener.accept()[0], 100, 0.03)
    children = [in_child(serve(listener)) for listener in listeners]
    idle = socket.create_connection(addresses[2])
    waited = asyncio.run(ask_in_turn(addresses[:2], 60))
    idle.close()
    return {
        "children": children[:2],
        "addresses": ["%s:%d" % address for address in addresses[:2]],
        "waited_s": waited,
    }


def looped():
    listener = listening(socket.AF_INET, ("127.0.0.1", 0))
    address = listener.getsockname()

    def clients():
        stays = socket.create_connection(address)
        for _ in range(12):
            time.sleep(0.12)
            with socket.create_connection(address) as asks:
                ask(asks, [0.0])
            time.sleep(0.05)
            ask(stays, [0.0])

    child = in_child(clients)

    async def answer(reader, writer):
        while await reader.read(4096):
            writer.write(b"answer" * 100)
        writer.close()

    async def serve():
        server = await asyncio.start_server(answer, sock=listener)
        # Without timers, which would end waits that are then for nobody.
        await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
        server.close()

    asyncio.run(serve())
    return {"child": child, "address": "%s:%d" % address}


def main():
    inet = lambda: listening(socket.AF_INET, ("127.0.0.1", 0))
    if mode == "poll":
        truth = client_of(inet(), 24, 0.05, 5.0, 0)
    elif mode == "ended":
        truth = client_of(inet(), 1, 1.1, None, 0.3)
    elif mode == "served":
        truth = served()
    elif mode == "epoll":
        truth = epoll()
    elif mode == "looped":
        truth = looped()
    else:
        truth = abstract()
    print(json.dumps({"pid": os.getpid(), **truth}))


main()
