"""Main makes requests to a child process that answers after 1 ms each; meanwhile somebody else computes.

First argument, who: `thread` (of this process), `subprocess`, `nobody`; `holding`: a thread that sleeps in native code without giving the
interpreter lock up; `poller`: a thread computes, but main only looks every 50 ms whether it is done;
`alone`: main computes, and another thread sleeps for all that time. Second argument: how many
requests. Prints one line of JSON.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time

ANSWER_S = 0.001


def serve(questions, answers):
    while os.read(questions, 1):
        time.sleep(ANSWER_S)
        os.write(answers, b"a")
    os._exit(0)


def preprocess(state):
    state["tid"] = threading.get_native_id()
    while not state["stop"]:
        sum(range(2000))


def flush_under_lock(state):
    state["tid"] = threading.get_native_id()
    library = ctypes.PyDLL(None)
    while not state["stop"]:
        library.usleep(20000)


def request(questions, answers):
    began = time.monotonic()
    os.write(questions, b"q")
    os.read(answers, 1)
    return time.monotonic() - began


def compute_alone(seconds):
    sleeper = threading.Thread(target=time.sleep, args=(seconds,))
    sleeper.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(2000))
    sleeper.join()


def main():
    who, count = sys.argv[1], int(sys.argv[2])
    in_child, to_child = os.pipe()
    from_child, out_child = os.pipe()
    server = os.fork()
    if server == 0:
        os.close(to_child)
        serve(in_child, out_child)
    os.close(in_child)
    os.close(out_child)
    state = {"stop": False}
    thread = child = None
    if who in ("thread", "holding", "poller"):
        work = flush_under_lock if who == "holding" else preprocess
        thread = threading.Thread(target=work, args=(state,))
        thread.start()
    if who == "subprocess":
        child = subprocess.Popen([sys.executable, "-c", "while True: sum(range(2000))"])
    latencies = [0.0]
    if who == "alone":
        compute_alone(count * ANSWER_S)
    elif who == "poller":
        end = time.monotonic() + count * ANSWER_S
        while time.monotonic() < end:
            time.sleep(0.05)
    else:
        latencies = [request(to_child, from_child) for _ in range(count)]
    state["stop"] = True
    if thread:
        thread.join()
    if child:
        child.kill()
        child.wait()
    os.close(to_child)
    os.waitpid(server, 0)
    truth = {"role": "gil-requests", "pid": os.getpid(), "tid": threading.get_native_id(), "holder": state.get("tid")}
    truth["server"] = server
    truth["requests_s"] = sum(latencies)
    truth["beyond_answer_s"] = sum(max(0.0, latency - ANSWER_S) for latency in latencies)
    print(json.dumps(truth), flush=True)


main()
