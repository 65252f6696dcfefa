"""Programs that do not use FalcoTCP, through `falco forward` and `falco serve --forward`: Redis,
PostgreSQL, an HTTP server with curl, and netcat."""

import contextlib
import hashlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

from common import FALCO, PATIENCE, free_port, listens, make_key, output_of, running, served, until

PROGRAMS = {
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "redis-benchmark": "redis-tools",
    "pg_ctlcluster": "postgresql",
    "psql": "postgresql-client",
    "pgbench": "postgresql",
    "curl": "curl",
    "nc": "netcat-openbsd",
}
QUIET = {"stderr": subprocess.DEVNULL}


@contextlib.contextmanager
def forwarded(key, server, *words, listen=None, **more):
    """`falco forward`, when it listens."""
    port = free_port()
    listen = listen or f"127.0.0.1:{port}"
    command = [FALCO, "forward", "--listen", listen, server, "--key-file", key, *words]
    with running(command, stdout=subprocess.PIPE, text=True, **more) as process:
        told = process.stdout.readline()
        assert told.startswith("listening on "), f"falco forward says {told!r}"
        yield port, process


@contextlib.contextmanager
def tunnel(scratch, *targets, words=()):
    """A tunnel to the targets, as the port of its client's end."""
    key = scratch / "falco.key"
    if not key.exists():
        make_key(scratch)
    forwards = [word for target in targets for word in ("--forward", target)]
    with served(key, *forwards, **QUIET) as (server, _), \
            forwarded(key, f"127.0.0.1:{server}", *words, **QUIET) as (port, _):
        yield port


def check_redis(scratch):
    """redis-cli and redis-benchmark, a value of 8 MB, a message to a subscriber, a call that blocks."""
    target = free_port()
    redis = ["redis-server", "--port", target, "--bind", "127.0.0.1", "--save", "", "--dir", scratch]
    with running(redis, stdout=subprocess.DEVNULL), tunnel(scratch, f"127.0.0.1:{target}") as port:
        until("Redis listens", lambda: listens(target))
        client = ("redis-cli", "-p", port)
        assert output_of(*client, "ping") == b"PONG\n"
        value = os.urandom(4_000_000).hex().encode()
        assert output_of(*client, "-x", "set", "large", input=value) == b"OK\n"
        assert output_of(*client, "get", "large").rstrip() == value

        with running([*client, "subscribe", "news"], stdout=subprocess.PIPE) as subscriber:
            until("it has subscribed", lambda: output_of(*client, "publish", "news", "hello") == b"1\n")
            lines = [subscriber.stdout.readline() for _ in range(6)]
            assert lines[-1] == b"hello\n", lines
        with running([*client, "blpop", "queue", "0"], stdout=subprocess.PIPE) as blocked:
            time.sleep(0.2)
            assert blocked.poll() is None
            assert output_of(*client, "rpush", "queue", "job") == b"1\n"
            assert blocked.communicate(timeout=PATIENCE)[0] == b"queue\njob\n"

        bench = ("redis-benchmark", "-p", port, "-q", "-n")
        output_of(*bench, 1_000, "-c", 1, "-t", "set,get")
        output_of(*bench, 5_000, "-c", 50, "-t", "set,get,lrange_300")
        told = output_of(*bench, 50_000, "-t", "set,get", "-c", 50, "-P", 32, "-r", 1000, "-d", 500).decode()
        assert "rror" not in told, told
        assert output_of(*client, "info", "clients").splitlines()[1] == b"connected_clients:1"


@contextlib.contextmanager
def postgres(scratch):
    """A cluster of its own, as a user who is not root; its port."""
    programs = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    home, port = scratch / "postgres", free_port()
    home.mkdir()
    user = {}
    if os.geteuid() == 0:
        scratch.chmod(0o755)
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        os.chown(home, *[int(output_of("id", kind, "postgres")) for kind in ("-u", "-g")])
    data = home / "data"
    initdb = (programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8")
    output_of(*initdb, cwd=home, **user)
    settings = (f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off")
    command = [programs / "postgres", "-D", data, *[word for setting in settings for word in ("-c", setting)]]
    with running(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user):
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", port]
        until("PostgreSQL is ready", lambda: subprocess.run([str(word) for word in ready]).returncode == 0)
        yield port, home


def check_postgres(scratch):
    """psql and pgbench: COPY in and out, LISTEN and NOTIFY, a query that is cancelled, a connection
    that the server drops."""
    with postgres(scratch) as (target, home), tunnel(scratch, f"127.0.0.1:{target}", f"socket=unix:{home}/.s.PGSQL.{target}",
                                                  words=("--to", "socket")) as port:
        os.environ["PGCONNECT_TIMEOUT"] = str(PATIENCE)
        # It looks for no files in the home directory.
        client = ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", port, "-U", "postgres")
        query = lambda text, **more: output_of(*client, "-c", text, **more)
        assert query("select 6 * 7") == b"42\n"

        query("create table lines (number int, text text)")
        rows = b"".join(b"%d\t%s\n" % (at, hashlib.sha256(b"%d" % at).hexdigest().encode() * 2) for at in range(60_000))
        query("copy lines from stdin", input=rows)
        assert query("copy (select * from lines order by number) to stdout") == rows

        listening = running([*client, "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with listening as listener:
            listener.stdin.write(b"listen news;\nselect 'listens';\n")
            listener.stdin.flush()
            assert listener.stdout.readline() == b"listens\n"
            query("notify news, 'hello'")
            # psql looks for notifications after each statement.
            listener.stdin.write(b"select pg_sleep(0.1);\n")
            listener.stdin.close()
            assert b'"hello" received' in listener.stdout.read()

        slow = [*client, "-c", "select pg_sleep(600)"]
        running_now = "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%'"
        with running(slow, stderr=subprocess.PIPE) as cancelled:
            until("the query runs", lambda: query(running_now) == b"1\n")
            # psql sends the cancellation over a connection of its own.
            cancelled.send_signal(2)
            assert b"canceling statement due to user request" in cancelled.communicate(timeout=PATIENCE)[1]
        until("the query has ended", lambda: query(running_now) == b"0\n")
        with running(slow, stderr=subprocess.PIPE) as dropped:
            until("the query runs", lambda: query(running_now) == b"1\n")
            query("select pg_terminate_backend(pid) from pg_stat_activity where query like 'select pg_sleep(600)%'")
            assert b"terminating connection" in dropped.communicate(timeout=PATIENCE)[1]
        with running(slow, stderr=subprocess.DEVNULL) as killed:
            until("the query runs", lambda: query(running_now) == b"1\n")
            killed.kill()
            # PostgreSQL looks at the socket of a client only when it has something to send.
            query("select pg_cancel_backend(pid) from pg_stat_activity where query like 'select pg_sleep(600)%'")
            until("the backend has ended", lambda: query(running_now) == b"0\n")

        bench = ("pgbench", "-h", "127.0.0.1", "-p", port, "-U", "postgres")
        output_of(*bench, "-i", "-q", "postgres")
        told = output_of(*bench, "-c", 8, "-T", 3, "postgres").decode()
        assert "number of failed transactions: 0 " in told, told
        # With a connection for each transaction.
        told = output_of(*bench, "-c", 4, "-T", 2, "-C", "-S", "postgres").decode()
        assert "number of failed transactions: 0 " in told, told
        assert query("select count(*) from pg_stat_activity where backend_type = 'client backend'") == b"1\n"


HTTP = '''
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def body(self):
        if self.headers["transfer-encoding"] != "chunked":
            return self.rfile.read(int(self.headers["content-length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
    def do_PUT(self):
        body = self.body()
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 7777):
                piece = body[at:at + 7777]
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
            self.wfile.write(b"0\\r\\n\\r\\n")
        elif self.path == "/close":
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    do_GET = do_PUT
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.serve_forever()
'''


def check_http(scratch):
    """curl: uploads and downloads by length, in chunks, and until the end of the connection;
    requests that share a connection; a server that waits before it takes the body."""
    target, sent = free_port(), scratch / "sent"
    sent.write_bytes(os.urandom(10_000_000))
    with running([sys.executable, "-c", HTTP, target]), tunnel(scratch, f"127.0.0.1:{target}") as port:
        until("the HTTP server listens", lambda: listens(target))
        url = f"http://127.0.0.1:{port}"
        curl = ("curl", "-sS", "--fail", "-m", PATIENCE)
        for path in ("length", "chunked", "close"):
            for more in ((), ("-H", "transfer-encoding: chunked"), ("-H", "expect: 100-continue")):
                got = output_of(*curl, "-T", sent, *more, f"{url}/{path}")
                assert got == sent.read_bytes(), (path, more, len(got))
        told = output_of(*curl, *(["-o", "/dev/null", "-w", "%{num_connects} ", f"{url}/length"] * 3), f"{url}/length")
        assert told == b"1 0 0 0 ", told
        # A limit that interrupts the download.
        cut = subprocess.run(["curl", "-sS", "-m", "1", "--limit-rate", "1M", "-T", str(sent), f"{url}/length"], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, timeout=PATIENCE)
        assert cut.returncode == 28, cut


def check_netcat(scratch):
    """Netcat ends what it sends first, and receives everything of the other side. As a client it
    does so by itself; a netcat that listens ends as soon as its client has."""
    early, late = os.urandom(1_000_000), os.urandom(3_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with tunnel(scratch, "127.0.0.1:%d" % listener.getsockname()[1]) as port:
            with running(["nc", "-N", "127.0.0.1", port], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
                with listener.accept()[0] as server:
                    ends_first(client.stdin, early)
                    assert everything(server) == early
                    assert client.poll() is None
                    server.sendall(late)
                assert client.stdout.read() == late
                assert client.wait(PATIENCE) == 0

    target = free_port()
    with tunnel(scratch, f"127.0.0.1:{target}") as port:
        listen = ["nc", "-N", "-l", "127.0.0.1", target]
        with running(listen, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            until("netcat listens", lambda: bound(target))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                ends_first(server.stdin, early)
                assert everything(client) == early
                assert server.poll() is None
                sending = threading.Thread(target=lambda: (client.sendall(late), client.shutdown(socket.SHUT_WR)))
                sending.start()
                assert server.stdout.read() == late
                sending.join(PATIENCE)
            assert server.wait(PATIENCE) == 0


def ends_first(pipe, content):
    threading.Thread(target=lambda: (pipe.write(content), pipe.close())).start()


def everything(source):
    source.settimeout(PATIENCE)
    return b"".join(iter(lambda: source.recv(1 << 16), b""))


def bound(port):
    """Whether something listens, without a connection, which netcat would take for its only one."""
    line = f"0100007F:{port:04X} 00000000:0000 0A"
    return line in pathlib.Path("/proc/net/tcp").read_text()


def check_bytes(scratch):
    """50 MB each way at once are the bytes that were sent, over TCP and Unix sockets at either end."""
    sent = os.urandom(1 << 20) * 50
    key, path = make_key(scratch), scratch / "target"
    for listen, target in (("tcp", "tcp"), ("unix", "unix")):
        with socket.socket(socket.AF_INET if target == "tcp" else socket.AF_UNIX) as listener:
            listener.bind(("127.0.0.1", 0) if target == "tcp" else str(path))
            listener.listen()
            address = f"127.0.0.1:{listener.getsockname()[1]}" if target == "tcp" else f"unix:{path}"
            front = None if listen == "tcp" else f"unix:{scratch}/front"
            falco_socket = f"unix:{scratch}/falco"
            with served(key, "--forward", address, listen=falco_socket, **QUIET), \
                    forwarded(key, falco_socket, listen=front, **QUIET) as (port, _):
                client = socket.socket(socket.AF_UNIX if front else socket.AF_INET)
                client.connect(f"{scratch}/front" if front else ("127.0.0.1", port))
                server, _ = listener.accept()
                received = exchange(client, server, sent)
            assert received == [hashlib.sha256(sent).digest()] * 2
        assert not (scratch / "front").exists(), "the socket's file is removed"


def exchange(client, server, sent):
    """Sends the bytes both ways at once; what both have received, as hashes."""
    hashes = {}

    def send(to):
        to.sendall(sent)
        to.shutdown(socket.SHUT_WR)

    def receive(source):
        received = hashlib.sha256()
        while piece := source.recv(1 << 16):
            received.update(piece)
        hashes[source] = received.digest()

    with client, server:
        sides = [(send, client), (send, server), (receive, client), (receive, server)]
        threads = [threading.Thread(target=do, args=(side,)) for do, side in sides]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return [hashes.get(client), hashes.get(server)]


def check_refused(scratch):
    """A client whose target refuses, or is unknown, sees a reset, and both ends say why."""
    key, nobody = make_key(scratch), free_port()
    served_log, forward_log = scratch / "served", scratch / "forwarded"
    reasons = (((), ("there is no such target",) * 2), (("--to", "db"), ("cannot connect to the target", "connection refused")))
    for words, (at_server, at_client) in reasons:
        with open(served_log, "w") as one, open(forward_log, "w") as other:
            with served(key, "--forward", f"db=127.0.0.1:{nobody}", stderr=one) as (server, _), \
                    forwarded(key, f"127.0.0.1:{server}", *words, stderr=other) as (port, _):
                for _ in range(3):
                    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                        assert is_reset(client), "the connection ended in good order"
        assert served_log.read_text().count(at_server) == 3, served_log.read_text()
        told = forward_log.read_text()
        assert told.count(at_client) == 3, told
        assert str(nobody) not in told, "the client learns the address"


def is_reset(client):
    try:
        client.settimeout(PATIENCE)
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False
