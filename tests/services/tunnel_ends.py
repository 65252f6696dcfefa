"""What each side of a tunnel learns if a process is killed in the middle of a transfer: the tunnel's
ends, the target, the client."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

from common import PATIENCE, free_port, listens, make_key, running, served, until
from tunnel_programs import QUIET, forwarded

PROGRAMS = {"ss": "iproute2"}

# Connects to a port or a Unix socket, or listens there and takes one connection after the other.
# Sends, receives, or does both, without end, and says how each connection has ended: `end` is an
# orderly end.
PUMP = '''
import os, select, socket, sys, threading
role, at, does = sys.argv[1:]
family, address = socket.AF_INET, ("127.0.0.1", int(at)) if at.isdecimal() else None
if address is None:
    family, address = socket.AF_UNIX, at.removeprefix("unix:")
def say(word):
    os.write(1, f"{word}\\n".encode())
def pump(connection):
    data, sends, count = bytes(65536), "send" in does, 0
    connection.setblocking(False)
    try:
        # Whichever call comes first after a reset fails, and no other.
        while True:
            readable, writable, _ = select.select([connection], [connection] * sends, [])
            if readable:
                piece = connection.recv(65536)
                if not piece:
                    break
                if count == 0:
                    say("flows")
                count += len(piece)
            if writable:
                try:
                    connection.send(data)
                except BlockingIOError:
                    pass
        say("end")
    except OSError as error:
        say("reset" if isinstance(error, (ConnectionResetError, BrokenPipeError)) else repr(error))
    connection.close()
end = socket.socket(family)
if role == "connect":
    end.connect(address)
    pump(end)
else:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind(address)
    end.listen(100)
    while True:
        threading.Thread(target=pump, args=(end.accept()[0],), daemon=True).start()
'''


def pump(role, at, does):
    command = [sys.executable, "-c", PUMP, role, at, does]
    return running(command, stdout=subprocess.PIPE, text=True)


def lines(process, count):
    """The next lines that it prints, without the first one of each connection."""
    told = []
    while len(told) < count:
        line = process.stdout.readline().strip()
        assert line, "it has ended"
        if line != "flows":
            told.append(line)
    return told


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


CONNECTIONS = 10


def killed(scratch, victim, client_does, target_does, unix=False):
    """Kills one of four in the middle of transfers; what the client's side and the target's side
    have learned, unless they are the victim. Whoever remains has as many descriptors as before. With
    `unix`, both sides are on Unix sockets."""
    key = make_key(scratch, f"{victim}-{client_does}.key")
    server_port, front, back = free_port(), free_port(), free_port()
    forwarding, near = f"127.0.0.1:{back}", {}
    if unix:
        front, forwarding = (f"unix:{scratch}/{name}-{victim}-{len(client_does)}" for name in ("front", "back"))
        back, near = forwarding, {"listen": front}
    with contextlib.ExitStack() as stack:
        started = lambda context: stack.enter_context(context)
        target = started(pump("listen", back, target_does))
        until("the target listens", lambda: is_listening(back))
        assert lines(target, 1) == ["end"]
        serve = lambda: started(served(key, "--forward", forwarding, port=server_port, **QUIET))[1]

        def forward():
            port, process = started(forwarded(key, f"127.0.0.1:{server_port}", **near, **QUIET))
            return front if unix else port, process

        server = serve()
        front, local = forward()
        ends = {"forward": local, "serve": server}
        at_start = {name: unix_sockets(process) for name, process in ends.items()}
        # The descriptors are counted when the connections to the server are there.
        with contextlib.ExitStack() as first:
            for _ in range(CONNECTIONS):
                flows(first.enter_context(pump("connect", front, client_does)), target, client_does)
        lines(target, CONNECTIONS)
        until("the tunnel is idle", lambda: all(
            unix_sockets(process) <= at_start[name] and (unix or idle(process, front if name == "forward" else back))
            for name, process in ends.items()))
        before = {name: descriptors(process) for name, process in ends.items()}

        clients = [started(pump("connect", front, client_does)) for _ in range(CONNECTIONS)]
        for client in clients:
            flows(client, target, client_does)
        assert all(descriptors(process) >= before[name] + CONNECTIONS for name, process in ends.items())
        victims = {**{name: [process] for name, process in ends.items()}, "target": [target], "client": clients}[victim]
        receives = {"target": "receive" in target_does, "client": "receive" in client_does}.get(victim)
        kill(victims, CONNECTIONS if receives and not unix else 0)
        told = {}
        if victim != "client":
            told["client"] = {line for client in clients for line in lines(client, 1)}
        if victim != "target":
            told["target"] = set(lines(target, CONNECTIONS))
        for name, process in ends.items():
            if name != victim:
                # Without the server, also the connections to it are gone.
                until(f"descriptors of {name} return", lambda: descriptors(process) <= before[name])
        if victim == "serve":
            server.wait(PATIENCE)
            serve()
        if victim == "forward":
            local.wait(PATIENCE)
        if victim != "target":
            # The tunnel goes on, with a new end if need be.
            front = front if victim != "forward" else forward()[0]
            flows(started(pump("connect", front, client_does)), target, client_does)
    return told


def is_listening(at):
    if isinstance(at, int):
        return listens(at)
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(at.removeprefix("unix:")) == 0


def unix_sockets(process):
    """How many connected Unix sockets the process has. The runtime has some of its own."""
    found = subprocess.run(["ss", "-Hxp", "state", "established"], capture_output=True, text=True, timeout=PATIENCE)
    return found.stdout.count(f"pid={process.pid},")


def unread(processes):
    """How many established connections of the processes have bytes that no one has read."""
    found = subprocess.run(["ss", "-Htnp", "state", "established"], capture_output=True, text=True, timeout=PATIENCE)
    owners = [f"pid={process.pid}," for process in processes]
    rows = [row for row in found.stdout.splitlines() if any(owner in row for owner in owners)]
    return sum(int(row.split()[0]) > 0 for row in rows)


def kill(processes, connections):
    """Kills processes when so many of their connections have unread bytes: the system then resets
    these connections. Those without unread bytes get an orderly end."""
    if connections:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        until("bytes are unread", lambda: unread(processes) >= connections)
    for process in processes:
        process.send_signal(signal.SIGKILL)


def killed_without_tunnel(victim, client_does, target_does):
    """What the other side learns over plain TCP if the target or the clients are killed."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(pump("listen", port, target_does))
        until("the target listens", lambda: listens(port))
        assert lines(target, 1) == ["end"]
        clients = [stack.enter_context(pump("connect", port, client_does)) for _ in range(CONNECTIONS)]
        for client in clients:
            flows(client, target, client_does)
        does, victims = (target_does, [target]) if victim == "target" else (client_does, clients)
        kill(victims, CONNECTIONS if "receive" in does else 0)
        if victim == "target":
            return {line for client in clients for line in lines(client, 1)}
        return set(lines(target, CONNECTIONS))


def flows(client, target, client_does):
    """Waits until bytes of one connection arrive."""
    receives = target if client_does == "send" else client
    assert receives.stdout.readline() == "flows\n"


def idle(process, port):
    """Whether the process has no connection of its own to or from this port."""
    found = subprocess.run(["ss", "-Htnp", "state", "established", f"( sport = :{port} or dport = :{port} )"],
                           capture_output=True, text=True, timeout=PATIENCE)
    return f"pid={process.pid}," not in found.stdout


def check_killed(scratch):
    """If an end of the tunnel is killed, the client and the target see a reset, never an orderly end.
    If one of those is killed, the other sees what it would see without a tunnel."""
    for client_does, target_does in (("send receive", "send receive"), ("send", "receive"), ("receive", "send")):
        for victim in ("forward", "serve", "target", "client"):
            told = killed(scratch, victim, client_does, target_does)
            # The system ends a connection of a killed process with a FIN if the process has read
            # everything. The ends of the tunnel have set the linger time to prevent that.
            expected = {"reset"}
            if victim in ("target", "client"):
                expected = killed_without_tunnel(victim, client_does, target_does)
                receives = "receive" in (target_does if victim == "target" else client_does)
                assert expected == {"reset" if receives else "end"}, (victim, client_does, expected)
            for side, ends in told.items():
                assert ends == expected, (victim, client_does, side, ends)


def check_killed_unix(scratch):
    """As check_killed, with the client and the target on Unix sockets. These have no reset. Each side
    learns that its connection has ended: who only receives sees an end, and who sends may see an
    error, if bytes of it were not read."""
    for client_does, target_does in (("send receive", "send receive"), ("send", "receive"), ("receive", "send")):
        for victim in ("forward", "serve", "target", "client"):
            told = killed(scratch, victim, client_does, target_does, unix=True)
            for side, ends in told.items():
                does = client_does if side == "client" else target_does
                possible = {"end", "reset"} if "send" in does else {"end"}
                assert ends and ends <= possible, (victim, client_does, side, ends)
