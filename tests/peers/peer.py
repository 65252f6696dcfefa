"""The published Python package, as a server or as a client, told by its command line what to do.

    serve HOST:PORT KEY TIMEOUT     TIMEOUT: seconds after which its server gives up a read, and says so to an idle client
    call HOST:PORT KEY STEP...      a number: a message of that size; ping; wait=N: N milliseconds of nothing

What the messages hold and how they are reported is what bodies.rs says. A body that starts with b"raise" makes the handler fail.
"""

import os
import sys
import threading
import time

from falcotcp_py import AuthenticationError, Client, Server

REFUSED = 3


def body(size):
    return bytes((at * 167 + (at >> 8) * 13 + size) & 0xFF for at in range(size))


def transform(data):
    return bytes(byte ^ 0x5A for byte in reversed(data)) + (b"!" if data else b"")


def say(line):
    # One write, on a line of its own: the server prints from other threads, the text and its end in
    # two writes.
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()


def report(word, data):
    checksum = 0xCBF29CE484222325
    for byte in data:
        checksum = ((checksum ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    say(f"{word} {len(data)} {checksum:016x}")


def handle(data):
    report("handled", data)
    if data.startswith(b"raise"):
        raise ValueError("asked to fail")
    return transform(data)


def call(host, port, key, steps):
    client = Client()
    try:
        client.connect(host, port, key)
    except AuthenticationError as error:
        say(f"refused {type(error).__name__}")
        return REFUSED
    for step in steps:
        if step == "ping":
            client.ping()
            say("pinged")
        elif step.startswith("wait="):
            time.sleep(int(step.removeprefix("wait=")) / 1000)
        else:
            report("answer", client.message(body(int(step))))
    return 0


def end_with_the_test():
    sys.stdin.buffer.read()
    os._exit(4)


def main():
    verb, address, key, *rest = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    threading.Thread(target=end_with_the_test, daemon=True).start()
    if verb == "call":
        return call(host, int(port), bytes.fromhex(key), rest)
    # Two workers are one that accepts and one that serves.
    Server(host, int(port), bytes.fromhex(key), handle, workers=2, timeout=float(rest[0]), interval=0.005)
    return 1


if __name__ == "__main__":
    # Not sys.exit: the daemon thread that waits on standard input holds its lock, and an orderly
    # end would trip over it.
    code = main()
    sys.stdout.flush()
    os._exit(code)
