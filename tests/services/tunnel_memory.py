"""What the ends of a tunnel take of memory, in bounds that docs/tunnel.md names: while one connection
carries many bytes, and with many connections that are idle."""

import contextlib
import os
import pathlib
import resource
import socket
import subprocess
import sys
import threading

from common import PATIENCE, make_key, running, served
from tunnel_programs import QUIET, forwarded

MIB = 1 << 20
# What an end may have taken at most while it carries one connection, and by how much that may grow
# after the first bytes.
PEAK = 24 * MIB
GROWTH = 4 * MIB
# What an idle connection may take of either end.
IDLE = 6 << 10

# Sends back what it receives, on any number of connections. Each gets one byte first.
ECHO = '''
import selectors, socket, sys
listener, ready = socket.create_server(("127.0.0.1", 0), backlog=1000), selectors.DefaultSelector()
ready.register(listener, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
buffer = memoryview(bytearray(1 << 20))
while True:
    for key, _ in ready.select():
        if key.fileobj is listener:
            connection = listener.accept()[0]
            connection.sendall(b"x")
            ready.register(connection, selectors.EVENT_READ)
        elif count := key.fileobj.recv_into(buffer):
            key.fileobj.sendall(buffer[:count])
        else:
            ready.unregister(key.fileobj)
            key.fileobj.close()
'''


def memory(process, field):
    """Bytes: VmRSS is what it has of the system now, VmHWM the most that it has had."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) << 10


def few_descriptors():
    """The limit that most shells have, of which a process may raise the soft one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))


def allow_descriptors(count):
    """Lets this process and those that it starts have so many. Beyond the hard limit that takes root."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, count)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:
        raise AssertionError(f"{count} descriptors are needed, the hard limit is {hard}: {error}") from None


@contextlib.contextmanager
def ends(scratch, *words):
    """Both ends of a tunnel to a target that sends back what it receives, and the client's port."""
    more = {**QUIET, "preexec_fn": few_descriptors}
    key = make_key(scratch)
    with running([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True) as target:
        address = f"127.0.0.1:{int(target.stdout.readline())}"
        with served(key, "--forward", address, *words, **more) as (server, far), \
                forwarded(key, f"127.0.0.1:{server}", "--connections", 1, *words, **more) as (port, near):
            yield port, {"serve": far, "forward": near}


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert client.recv(1) == b"x"
    return client


def check_bulk(scratch, size="1G"):
    """SIZE bytes each way at the same time through one connection: they are the bytes that were
    sent, and the memory of both ends does not grow."""
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    size = int(size[:-1]) * factors[size[-1]] if size[-1] in factors else int(size)
    # No length that something in between could use, so that bytes in a wrong place are noticed.
    block = os.urandom(1_000_003)
    block += block
    half = len(block) // 2

    def send(client):
        sent = 0
        while sent < size:
            at = sent % half
            sent += client.send(memoryview(block)[at:at + min(half, size - sent)])
        client.shutdown(socket.SHUT_WR)

    with ends(scratch) as (port, processes), connect(port) as client:
        sending = threading.Thread(target=send, args=(client,))
        sending.start()
        buffer, received, early = memoryview(bytearray(half)), 0, None
        while count := client.recv_into(buffer):
            at = received % half
            assert buffer[:count] == memoryview(block)[at:at + count], f"another byte after {received}"
            received += count
            if early is None and received >= 64 * MIB:
                early = {name: memory(process, "VmHWM") for name, process in processes.items()}
        sending.join(PATIENCE)
        assert received == size, f"{received} bytes of {size}"
        for name, process in processes.items():
            peak = memory(process, "VmHWM")
            print(f"  {name}: peak {peak / MIB:.1f} MiB for {size} bytes each way")
            assert peak < PEAK, f"over {PEAK} bytes"
            if early:
                grown = peak - early[name]
                assert grown < GROWTH, f"{name} has grown by {grown} bytes after the first 64 MiB"


def check_idle(scratch, count="10000"):
    """Idle connections over one encrypted connection cost little memory at either end, and each still
    works. The soft limit of descriptors is 1024 where the ends begin."""
    count = int(count)
    allow_descriptors(count + 200)
    with ends(scratch, "--max-tunnels", count + 1) as (port, processes), contextlib.ExitStack() as stack:
        stack.enter_context(connect(port))
        before = {name: memory(process, "VmRSS") for name, process in processes.items()}
        clients = [stack.enter_context(connect(port)) for _ in range(count)]
        for name, process in processes.items():
            each = (memory(process, "VmRSS") - before[name]) // count
            print(f"  {name}: {each} bytes for each of {count} idle connections")
            assert each < IDLE, f"over {IDLE} bytes"
        for at, client in enumerate(clients):
            client.sendall(b"%d" % at)
        for at, client in enumerate(clients):
            assert client.recv(100) == b"%d" % at
