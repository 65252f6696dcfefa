"""The noise wire on the Python package noiseprotocol, as a server or as a client, told by its command line what to do. Nothing here knows
falco-core; the handshake and the records are in noise_link.py.

    serve SECRET NAMED CONTEXT PERIOD MAX_RECORD MAX_IN_FLIGHT MAX_MESSAGE               prints its port, serves the first that connects
    call SECRET NAMED CONTEXT PERIOD MAX_RECORD MAX_IN_FLIGHT MAX_MESSAGE PORT STEP...   steps as told in client.rs of the tests

SECRET is the key, NAMED the one by which the key is named: another, where the peer lies. What the messages hold and how they are reported is what
bodies.rs says; what is said, in lines, is the same as of the peer on snow.
"""

import os
import socket
import struct
import sys
import threading
from collections import deque

from noise_link import HEAD, PATIENCE, TAG, Link, Refused

MESSAGE, BEGIN, PART, REFUSE, CANCEL, PING, PONG, CLOSE = range(1, 9)
LONGEST_PART = 12_000
TURN = 4
OWN_PING = b"stranger"


def body(size):
    return bytes((at * 167 + (at >> 8) * 13 + size) & 0xFF for at in range(size))


FLIPPED = bytes(byte ^ 0x5A for byte in range(256))


def transform(data):
    return data[::-1].translate(FLIPPED) + (b"!" if data else b"")


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def report(word, data):
    checksum = 0xCBF29CE484222325
    for byte in data:
        checksum = ((checksum ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    say(f"{word} {len(data)} {checksum:016x}")


class Side:
    """Messages out and in: large ones are cut into parts and take turns with all others."""

    def __init__(self, link):
        self.link = link
        self.outbox = deque()
        self.halves = {}
        self.between = self.begun = 0
        self.closed = False

    def turn(self):
        frames = []
        longest = self.link.their_max - TAG - HEAD
        for _ in range(min(TURN, len(self.outbox))):
            number, data, sent = self.outbox.popleft()
            if sent:
                part = data[sent : sent + min(longest, LONGEST_PART)]
                frames.append((PART, number, part))
            elif len(data) <= longest:
                part = data
                frames.append((MESSAGE, number, part))
            else:
                part = data[: min(longest - 4, LONGEST_PART)]
                frames.append((BEGIN, number, struct.pack(">I", len(data)) + part))
            if sent + len(part) < len(data):
                self.outbox.append((number, data, sent + len(part)))
        self.link.send(*frames)

    def take(self, kind, number, data, skip):
        """Takes a MESSAGE, BEGIN or PART, and gives the message back where it is whole."""
        if kind == MESSAGE:
            self.between += bool(self.halves)
            return data
        if kind == BEGIN:
            assert number not in self.halves, "begun twice"
            self.halves[number] = (struct.unpack_from(">I", data)[0], [data[4:]])
        elif number in self.halves:
            assert data, "an empty part"
            self.halves[number][1].append(data)
        else:
            assert skip, f"a part of nothing: {number}"
            return None
        total, parts = self.halves[number]
        length = sum(map(len, parts))
        assert length <= total, "more than its total"
        if length < total:
            return None
        del self.halves[number]
        return b"".join(parts)

    def last_lines(self):
        say(f"between {self.between}")
        say(f"records {self.link.sent} {self.link.received}")


class Server(Side):
    def __init__(self, link):
        super().__init__(link)
        self.held = set()

    def run(self):
        kind, number, data = self.link.next(PATIENCE)
        assert (kind, number, len(data)) == (PING, 0, 8)
        assert not self.link.opened, "the PING is alone in its record"
        # A frame of an unknown kind is to be skipped.
        self.link.send((PONG, 0, data), (200, 7, b"later"), (PING, 0, OWN_PING))
        say("established")
        while not self.closed or self.outbox or self.held:
            frame = self.link.next(0 if self.outbox else PATIENCE)
            if frame:
                self.frame(*frame)
            elif frame is None and self.outbox:
                self.turn()
            else:
                say("without a close")
                return
        self.link.send((CLOSE, self.begun, b"\0"))
        self.link.finish()
        say("end")

    def frame(self, kind, number, data):
        if kind == PING:
            self.link.send((PONG, 0, data))
        elif kind == PONG:
            assert data == OWN_PING
            say("ponged")
        elif kind in (MESSAGE, BEGIN, PART):
            if kind != PART:
                assert number > self.begun and not self.closed, f"request {number} after {self.begun}"
                self.begun = number
            whole = self.take(kind, number, data, number <= self.begun)
            if whole is not None:
                self.handle(number, whole)
        elif kind == CANCEL:
            if number in self.held or number in self.halves:
                self.held.discard(number)
                self.halves.pop(number, None)
                say("cancelled")
                self.link.send((REFUSE, number, b"\4"))
        else:
            assert (kind, number, len(data)) == (CLOSE, self.begun, 1), (kind, number, data)
            say(f"closing {data[0]}")
            self.closed = True

    def handle(self, number, data):
        report("handled", data)
        if data == b"hold":
            self.held.add(number)
        elif data.startswith(b"refuse "):
            self.link.send((REFUSE, number, bytes([int(data.removeprefix(b"refuse "))])))
        else:
            self.outbox.appendleft((number, transform(data), 0))


class Client(Side):
    def __init__(self, link):
        super().__init__(link)
        self.waiting = set()
        self.ping = OWN_PING
        link.send((PING, 0, OWN_PING))
        say("established")

    def number(self):
        self.begun += 1
        self.waiting.add(self.begun)
        return self.begun

    def step(self, step):
        if step == "ping":
            self.ping = b"are you?"
            self.link.send((PING, 0, self.ping))
        elif step == "cancel":
            number = self.number()
            self.link.send((MESSAGE, number, b"hold"))
            self.link.send((CANCEL, number, b""))
        elif step == "cut":
            number = self.number()
            first = (BEGIN, number, struct.pack(">I", 100_000) + b"no more")
            # The last part crosses the server's refusal, and is to be passed over.
            self.link.send(first, (CANCEL, number, b""), (PART, number, b"than that"))
        elif step == "close":
            self.link.send((CLOSE, self.begun, b"\0"))
            while not self.closed:
                self.receive(PATIENCE)
            self.link.finish()
            return
        elif step.startswith("ask="):
            self.outbox.append((self.number(), step.removeprefix("ask=").encode(), 0))
        else:
            self.outbox.extend((self.number(), body(int(size)), 0) for size in step.split(","))
        while self.outbox:
            self.turn()
            while self.receive(0):
                pass
        while self.waiting or self.ping:
            assert self.receive(PATIENCE), f"nothing more comes; waiting for {self.waiting}"

    def receive(self, patience):
        frame = self.link.next(patience)
        assert frame is not False, "the stream ends without a close"
        if frame is None:
            return False
        kind, number, data = frame
        if kind == PING:
            self.link.send((PONG, 0, data))
        elif kind == PONG:
            assert data == self.ping
            self.ping = None
            say("ponged")
        elif kind in (MESSAGE, BEGIN, PART):
            assert number in self.waiting, f"an answer to {number}"
            whole = self.take(kind, number, data, False)
            if whole is not None:
                self.waiting.remove(number)
                report(f"answer {number}", whole)
        elif kind == REFUSE:
            self.waiting.remove(number)
            say(f"refused {data[0]}")
        else:
            assert (kind, number, len(data)) == (CLOSE, self.begun, 1), (kind, number, data)
            say(f"closing {data[0]}")
            self.closed = True
        return True


def end_with_the_test():
    sys.stdin.buffer.read()
    os._exit(4)


def main():
    verb, *words = sys.argv[1:]
    options, rest = words[:7], words[7:]
    threading.Thread(target=end_with_the_test, daemon=True).start()
    if verb == "serve":
        listener = socket.create_server(("127.0.0.1", 0))
        say(f"port {listener.getsockname()[1]}")
        stream, _ = listener.accept()
    else:
        stream = socket.create_connection(("127.0.0.1", int(rest[0])), timeout=PATIENCE)
        stream.settimeout(None)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        link = Link(stream, verb == "call", *options)
    except Refused as refused:
        say(f"refused {refused}")
        return
    if verb == "serve":
        side = Server(link)
        side.run()
    else:
        side = Client(link)
        for step in rest[1:]:
            side.step(step)
    side.last_lines()


if __name__ == "__main__":
    main()
    say("done")
    # Not sys.exit: the daemon thread that waits on standard input holds its lock, and an orderly
    # end would trip over it.
    os._exit(0)
