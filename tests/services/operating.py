"""The programs that operate a service: HAProxy, Prometheus's promtool, systemd's tools, shells and
man."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request

from common import FALCO, PATIENCE, ROOT, falco, free_port, listens, make_key, running, served, until

PROGRAMS = {
    "haproxy": "haproxy",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "man": "man-db",
    "zsh": "zsh",
    "fish": "fish",
}


def check_promtool(scratch):
    """promtool accepts the metrics, and finds nothing to improve."""
    key, metrics = make_key(scratch), free_port()
    with served(key, "--metrics", f"127.0.0.1:{metrics}") as (port, _):
        assert falco("bench", f"127.0.0.1:{port}", "-n", 100, "--key-file", key).returncode == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=PATIENCE) as answer:
            text = answer.read()
    assert b"falco_server_requests_total 100" in text, text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=PATIENCE)
    told = (checked.stdout + checked.stderr).decode()
    assert checked.returncode == 0 and not told, told


def check_systemd(scratch):
    """The sample units are valid; readiness, reloads, the watchdog and the end are reported."""
    units = scratch / "units"
    units.mkdir()
    for unit in (ROOT / "docs/systemd").iterdir():
        text = unit.read_text().replace("/usr/local/bin/falco", str(FALCO))
        (units / unit.name).write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(units.iterdir()))],
        capture_output=True, text=True, timeout=PATIENCE,
    )
    assert verified.returncode == 0, verified.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(units / "falco.service")]
    rated = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert rated.returncode == 0, rated.stdout + rated.stderr

    key, path = make_key(scratch), scratch / "notify"
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    supervisor.bind(str(path))
    supervisor.settimeout(PATIENCE)
    told = []

    def wait_for(state):
        while state not in told:
            told.extend(supervisor.recv(4096).decode().splitlines())

    environment = {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
    environment.pop("WATCHDOG_PID", None)
    with served(key, env=environment) as (_, process):
        wait_for("READY=1")
        for _ in range(3):
            wait_for("WATCHDOG=1")
            told.remove("WATCHDOG=1")
        told.clear()
        process.send_signal(signal.SIGHUP)
        wait_for("RELOADING=1")
        wait_for("READY=1")
        process.send_signal(signal.SIGTERM)
        wait_for("STOPPING=1")
        assert process.wait(PATIENCE) == 0
    supervisor.close()


def check_socket_activation(scratch):
    """A server takes the TCP or Unix socket that systemd passes."""
    key, port, path = make_key(scratch), free_port(), scratch / "socket"
    for address, listen in ((f"127.0.0.1:{port}", f"127.0.0.1:{port}"), (f"unix:{path}", str(path))):
        activate = ["systemd-socket-activate", "-l", listen, FALCO, "serve", "--key-file", key, "--socket-activation"]
        with running(activate, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            until("the socket is bound", lambda: listens(port) if ":" in listen else path.exists())
            sent = falco("send", address, "hello", "--key-file", key)
            assert sent.stdout == "hello", sent.stderr
    without = falco("serve", "--key-file", key, "--socket-activation")
    assert without.returncode == 4 and "no socket was passed" in without.stderr, without.stderr


def check_documents(scratch):
    """Shells accept the completions, and man shows the pages."""
    for shell in ("bash", "zsh", "fish"):
        script = scratch / f"falco.{shell}"
        script.write_text(falco("completions", shell).stdout)
        assert "socket-activation" in script.read_text()
        subprocess.run([shell, "-n", str(script)], check=True, timeout=PATIENCE)
    assert falco("man", scratch / "man1").returncode == 0
    for page, word in (("falco.1", "keygen"), ("falco-serve.1", "drain-timeout")):
        shown = subprocess.run(
            ["man", "--warnings", "-l", str(scratch / "man1" / page)],
            capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        )
        assert shown.returncode == 0 and re.search(word, shown.stdout), shown.stderr


def check_probes(scratch):
    """`falco ping` is a probe: it fails while a server drains, and where there is none."""
    key = make_key(scratch)
    with served(key, "--exec", "sleep", "3", stderr=subprocess.DEVNULL) as (port, process):
        ping = ("ping", f"127.0.0.1:{port}", "-c", 1, "--key-file", key)
        assert falco(*ping).returncode == 0
        with running([FALCO, "send", f"127.0.0.1:{port}", "x", "--key-file", key], stdout=subprocess.DEVNULL) as slow:
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            until("a server that drains is not ready", lambda: falco(*ping).returncode == 4)
            assert slow.wait(PATIENCE) == 0, "what had begun is answered"
        assert process.wait(PATIENCE) == 0
    assert falco(*ping).returncode == 4


HAPROXY = """
global
    maxconn 1000
    stats socket {admin} level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 300s
    timeout server 300s
    retries 3
    option redispatch
frontend clients
    bind 127.0.0.1:{port}
    default_backend falco
backend falco
    balance leastconn
{servers}
"""


@contextlib.contextmanager
def haproxy(scratch, servers, header):
    port, admin, file = free_port(), scratch / "admin", scratch / "haproxy.cfg"
    lines = "\n".join(f"    server s{at} 127.0.0.1:{to} check inter 200ms fall 1 rise 1 {header}"
                      for at, to in enumerate(servers))
    file.write_text(HAPROXY.format(port=port, admin=admin, servers=lines))
    subprocess.run(["haproxy", "-c", "-q", "-f", str(file)], check=True, timeout=PATIENCE)
    with running(["haproxy", "-q", "-f", file]):
        until("HAProxy listens", lambda: listens(port))
        yield port


def check_haproxy_header(scratch):
    """Behind HAProxy, a server learns the address of the client, by both versions of the header."""
    key, log = make_key(scratch), scratch / "log"
    for header in ("send-proxy", "send-proxy-v2"):
        with open(log, "w") as err, served(key, "--trust-proxy", "127.0.0.1", "-v", stderr=err) as (server, _):
            with haproxy(scratch, [server], header) as port:
                sent = falco("send", f"127.0.0.1:{port}", "hello", "--key-file", key)
                assert sent.stdout == "hello", sent.stderr
                with socket.create_connection(("127.0.0.1", port), PATIENCE) as stranger:
                    stranger.sendall(b"N\x01" + bytes(200))
                    client = stranger.getsockname()[1]
                    assert stranger.recv(1) == b""
        refused = [line for line in log.read_text().splitlines() if "refused a handshake" in line]
        assert any(f"peer=127.0.0.1:{client}" in line for line in refused), log.read_text()


def check_haproxy_restarts(scratch):
    """Two replicas behind HAProxy are restarted in turn under load, and no request fails."""
    key = make_key(scratch)
    ports = [free_port(), free_port()]
    words = ("--trust-proxy", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        serve = lambda port: stack.enter_context(served(key, *words, port=port, stderr=subprocess.DEVNULL))[1]
        replicas = [serve(port) for port in ports]
        port = stack.enter_context(haproxy(scratch, ports, "send-proxy-v2"))
        bench = [FALCO, "bench", f"127.0.0.1:{port}", "-d", "6s", "-c", "8", "-p", "8", "--json", "--key-file", key]
        with running(bench, stdout=subprocess.PIPE, text=True) as load:
            for at, port in enumerate(ports):
                time.sleep(1.5)
                replicas[at].send_signal(signal.SIGTERM)
                assert replicas[at].wait(PATIENCE) == 0
                replicas[at] = serve(port)
            out, _ = load.communicate(timeout=PATIENCE)
    told = json.loads(out)
    assert told["answered"] > 10_000 and told["errors"] == {}, told
    print(f"  {told['answered']} requests, none failed")
