import os
import threading
import time


def leaf(number):
    total = 0
    for i in range(number):
        total += i * i % 7
    return total


def by_key(box):
    return box.prop  # -> Outer.Inner.prop


def by_pairs(boxes):
    return sorted(boxes)  # -> Outer.Inner.__lt__


def generate(count):
    for i in range(count):
        leaf(i)  # -> leaf
        yield i


def consume(count):
    total = 0
    for value in generate(count):  # -> generate
        total += value
    return total + sum(generate(count))  # -> generate


def recurse(levels, then):
    if levels > 0:
        return recurse(levels - 1, then)  # -> recurse
    return then()  # -> sleeping hidden.<locals>.inner


def hidden(boxes):
    def inner():
        by_pairs(boxes)  # -> by_pairs
        return sorted(boxes, key=by_key)  # -> by_key

    return inner


def work(levels):
    boxes = [None, None, None]
    for i in range(3):
        boxes[i] = Outer.Inner(i * 5 % 3)  # -> Outer.Inner.__init__
    recurse(levels, hidden(boxes))  # -> hidden recurse
    boxes[0].method(levels)  # -> Outer.Inner.method
    Outer.Inner.make(levels)  # -> Outer.Inner.make
    return consume(levels)  # -> consume


def sleeping():
    os.write(1, f"main {threading.get_ident()}\n".encode())
    time.sleep(
        3600
    )


class Outer:
    class Inner:
        def __init__(self, value):
            self.value = value
            leaf(value)  # -> leaf

        @property
        def prop(self):
            return leaf(self.value)  # -> leaf

        @classmethod
        def make(cls, value):
            return cls(value)  # -> Outer.Inner.__init__

        def __lt__(self, other):
            return leaf(self.value) < leaf(other.value)  # -> leaf

        def method(self, levels):
            return max(leaf(levels), self.prop)  # -> leaf Outer.Inner.prop

        def sleep(self, levels):
            return recurse(levels, sleeping)  # -> recurse
