"""Runs a program for each item, or all items in one process: one argument says which, another one how many items.

Prints as JSON how many processes were started.
"""

import json
import subprocess
import sys


def preprocess(item):
    return subprocess.run(["/bin/true", str(item)], check=True).returncode


def preprocess_all(items):
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        for item in range(items):
            child.stdin.write(b"x" * 64)
            child.stdin.flush()
            child.stdout.read(64)
        child.stdin.close()


how, items = sys.argv[1], int(sys.argv[2])
if how == "each":
    for item in range(items):
        preprocess(item)
else:
    preprocess_all(items)
print(json.dumps({"started": items if how == "each" else 1}))
