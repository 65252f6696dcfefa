"""The noise wire's handshake, records and rekey on the Python package noiseprotocol, over a socket. What frames mean is in peer_noise.py."""

import hmac
import queue
import socket
import struct
import threading
from collections import deque

from noise.connection import NoiseConnection

HEAD, TAG = 7, 16
PATIENCE = 30


class Refused(Exception):
    pass


class Pipe:
    """A socket of which a thread reads all that comes, so that a side which writes never waits for one that waits for it."""

    def __init__(self, stream):
        self.stream = stream
        self.unread = b""
        self.incoming = queue.Queue()
        threading.Thread(target=self.pump, daemon=True).start()

    def pump(self):
        try:
            while data := self.stream.recv(1 << 16):
                self.incoming.put(data)
        except OSError:
            pass
        self.incoming.put(b"")

    def send(self, data):
        try:
            self.stream.sendall(data)
        except OSError:
            pass  # A peer that is gone is noticed by reading.

    def more(self, patience):
        """Waits for bytes: True, or False at the end of the stream, or None when the time is over."""
        try:
            data = self.incoming.get(timeout=patience) if patience else self.incoming.get_nowait()
        except queue.Empty:
            return None
        self.unread += data
        return bool(data)

    def exactly(self, count):
        while len(self.unread) < count:
            if not self.more(PATIENCE):
                count = len(self.unread)
        data, self.unread = self.unread[:count], self.unread[count:]
        return data


class Link:
    """An established connection."""

    def __init__(self, stream, initiator, secret, named, context, period, *accepts):
        self.pipe = Pipe(stream)
        self.period = int(period)
        self.our_max, in_flight, message = map(int, accepts)
        self.sent = self.received = 0
        self.opened = deque()
        secret, named = bytes.fromhex(secret), bytes.fromhex(named)
        clear = b"\x4e\x01" + hmac.digest(named, b"FalcoTCP-noise/1 key id", "sha256")[:8]
        settings = struct.pack(">HHIIxxxx", self.our_max, in_flight, message, 60_000)
        self.noise = NoiseConnection.from_name(b"Noise_NNpsk0_25519_AESGCM_SHA256")
        self.noise.set_psks(hmac.digest(secret, b"FalcoTCP-noise/1 psk", "sha256"))
        context = context.encode()
        self.noise.set_prologue(b"FalcoTCP-noise/1" + clear + struct.pack(">H", len(context)) + context)
        if initiator:
            self.noise.set_as_initiator()
            self.noise.start_handshake()
            self.pipe.send(clear + self.noise.write_message(settings))
            theirs = self.read(self.pipe.exactly(64), 64)
        else:
            self.noise.set_as_responder()
            self.noise.start_handshake()
            hello = self.pipe.exactly(74)
            if hello[:10] != clear:
                raise Refused("another wire, version or key id")
            theirs = self.read(hello[10:], 64)
            self.pipe.send(self.noise.write_message(settings))
        self.their_max = struct.unpack_from(">H", theirs)[0]

    def read(self, message, length):
        if not message:
            raise Refused("in silence")
        if len(message) != length:
            raise Refused(f"{len(message)} bytes")
        try:
            return self.noise.read_message(message)
        except Exception as error:
            raise Refused(type(error).__name__) from error

    def send(self, *frames):
        record = b""
        for kind, number, data in frames:
            frame = struct.pack(">BIH", kind, number, len(data)) + data
            if len(record) + len(frame) + TAG > self.their_max:
                self.send_record(record)
                record = b""
            record += frame
        self.send_record(record)

    def send_record(self, frames):
        sealed = self.noise.encrypt(frames)
        assert len(sealed) <= self.their_max
        self.pipe.send(struct.pack(">H", len(sealed)) + sealed)
        self.sent += 1
        if self.sent % self.period == 0:
            self.noise.rekey_outbound_cipher()

    def next(self, patience):
        """The next frame; False at the end of the stream, None when the time is over."""
        while not self.opened:
            if len(self.pipe.unread) >= 2:
                length = struct.unpack_from(">H", self.pipe.unread)[0]
                assert 23 <= length <= self.our_max, f"a record of {length} bytes"
                if len(self.pipe.unread) >= 2 + length:
                    self.open(self.pipe.exactly(2 + length)[2:])
                    continue
            more = self.pipe.more(patience)
            if not more:
                assert more is None or not self.pipe.unread, "the stream ends within a record"
                return more
        return self.opened.popleft()

    def open(self, record):
        text = bytes(self.noise.decrypt(record))
        self.received += 1
        if self.received % self.period == 0:
            self.noise.rekey_inbound_cipher()
        assert text, "a record holds a frame"
        while text:
            kind, number, length = struct.unpack_from(">BIH", text)
            data, text = text[HEAD : HEAD + length], text[HEAD + length :]
            assert len(data) == length, "each frame is whole within its record"
            self.opened.append((kind, number, data))

    def finish(self):
        self.pipe.stream.shutdown(socket.SHUT_WR)
        last = self.next(PATIENCE)
        assert last is False, f"after the last word came {last}"
