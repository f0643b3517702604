"""Steps of threads that run already when the first step is seen, of one that is started later, and of a forked child: 20 of each."""
import os
import threading
import time


def train_step():
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass


def loop():
    for _ in range(20):
        train_step()


def main():
    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    threads.append(threading.Thread(target=loop))
    threads[-1].start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        loop()
        os._exit(0)
    os.waitpid(child, 0)


main()
