"""A batch pipeline that looks items up in a database: one statement for each item, slow without an index. Prints how long that took.

database.py sqlite PATH [--prepare [--index]] [--lookups N]
database.py postgres PORT [--prepare [--index]] [--lookups N] [--client psycopg2|psycopg]
--prepare: make the items, and nothing else.
database.py mysql PORT [--prepare [--index]] [--lookups N]
database.py locked PATH: a writer that waits while another connection holds the database.
"""

import argparse
import json
import os
import threading
import time

ROWS = 200_000
OWNERS = 20_000
STATEMENT = "SELECT id, name FROM items WHERE owner = {} AND name <> 'secret-of-bob'"


def rows():
    return [(number % OWNERS, f"name {number}") for number in range(ROWS)]


def prepare(run, run_many, index):
    run("DROP TABLE IF EXISTS items")
    run("DROP TABLE IF EXISTS results")
    run("CREATE TABLE items (id INTEGER PRIMARY KEY, owner INTEGER, name TEXT)")
    run("CREATE TABLE results (item INTEGER, value REAL)")
    run_many()
    if index:
        run("CREATE INDEX items_by_owner ON items (owner)")


def process(items):
    total = 0
    for number in range(20_000):
        total += number * len(items) % 7
    return total


def pipeline(fetch, store, lookups):
    """Each lookup is timed; what is made of the answer is not."""
    took = 0.0
    for number in range(lookups):
        began = time.perf_counter()
        items = look_up(fetch, number % OWNERS)
        took += time.perf_counter() - began
        store(number, process(items))
    return took


def look_up(fetch, owner):
    return fetch(owner)


def with_cursor(connection, cursor, lookups):
    """The pipeline with a client of a server, which takes values as %s."""

    def fetch(owner):
        cursor.execute(STATEMENT.format("%s"), (owner,))
        return cursor.fetchall()

    def store(item, value):
        cursor.execute("INSERT INTO results VALUES (%s, %s)", (item, value))

    took = pipeline(fetch, store, lookups)
    connection.commit()
    return took


def sqlite(arguments):
    import sqlite3

    database = sqlite3.connect(arguments.where)

    def run_many():
        with database:
            numbered = ((number, *row) for number, row in enumerate(rows()))
            database.executemany("INSERT INTO items (id, owner, name) VALUES (?, ?, ?)", numbered)

    if arguments.prepare:
        return prepare(database.execute, run_many, arguments.index)
    statement = STATEMENT.format("?")
    fetch = lambda owner: database.execute(statement, (owner,)).fetchall()
    store = lambda item, value: database.execute("INSERT INTO results VALUES (?, ?)", (item, value))
    return pipeline(fetch, store, arguments.lookups)


def postgres(arguments):
    module = __import__(arguments.client)
    connection = module.connect(host="127.0.0.1", port=int(arguments.where), user="postgres", dbname="postgres")
    cursor = connection.cursor()

    def run_many():
        cursor.execute(
            f"INSERT INTO items SELECT n, n % {OWNERS}, 'name ' || n FROM generate_series(0, {ROWS - 1}) AS n"
        )

    if arguments.prepare:
        prepare(cursor.execute, run_many, arguments.index)
        cursor.execute("ANALYZE items")
        return connection.commit()

    return with_cursor(connection, cursor, arguments.lookups)


def mysql(arguments):
    import MySQLdb

    connection = MySQLdb.connect(host="127.0.0.1", port=int(arguments.where), user="root")
    cursor = connection.cursor()
    cursor.execute("CREATE DATABASE IF NOT EXISTS shop")
    cursor.execute("USE shop")

    def run_many():
        cursor.execute(f"INSERT INTO items SELECT seq, seq % {OWNERS}, CONCAT('name ', seq) FROM seq_0_to_{ROWS - 1}")

    if arguments.prepare:
        prepare(cursor.execute, run_many, arguments.index)
        return connection.commit()

    return with_cursor(connection, cursor, arguments.lookups)


def locked(arguments):
    """Another connection holds the database for 1.2 s; this one writes meanwhile, and waits."""
    import sqlite3

    holder = sqlite3.connect(arguments.where, isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE results (item INTEGER, value REAL)")
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(1.2, lambda: holder.execute("COMMIT")).start()
    writer = sqlite3.connect(arguments.where, isolation_level=None, timeout=10)
    began = time.perf_counter()
    writer.execute("INSERT INTO results VALUES (1, 2)")
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["sqlite", "postgres", "mysql", "locked"])
    parser.add_argument("where")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--client", default="psycopg2")
    arguments = parser.parse_args()
    began = time.perf_counter()
    took = globals()[arguments.kind](arguments)
    truth = {"pid": os.getpid(), "lookups": arguments.lookups, "looked_up_s": took, "took_s": time.perf_counter() - began}
    print(json.dumps(truth))


main()
