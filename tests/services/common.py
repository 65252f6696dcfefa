"""What the checks of services share: processes, ports, and the tool `falco`."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# With `--release`, the tool is optimized.
PROFILE = "release" if "--release" in sys.argv else "debug"
FALCO = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / PROFILE / "falco"
# Servers are in directories that a user may not search.
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
# No program takes as long as this.
PATIENCE = 30


def is_there(name):
    """Whether a program, or a library, is installed."""
    library = name.endswith(".so") and any(pathlib.Path("/usr/lib").glob(f"*/{name}"))
    return library or shutil.which(name, path=PATH)


def install(programs):
    """Installs the Debian packages of programs and libraries that are missing, as root."""
    # Services of the packages must not start.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    if not policy.exists():
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    missing = sorted({package for program, package in programs.items() if not is_there(program)})
    if missing:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.02)


def listens(port, host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port)) == 0


def fetch(address):
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def running(command, **more):
    """A process, which is ended at the end."""
    process = subprocess.Popen([str(word) for word in command], **more)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def falco(*words, **more):
    return subprocess.run([str(FALCO), *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, **more)


def output_of(*words, **more):
    """The standard output of a program, which succeeds."""
    ended = subprocess.run([str(word) for word in words], capture_output=True, timeout=PATIENCE, **more)
    assert ended.returncode == 0, (words, ended.returncode, ended.stderr[-2000:], ended.stdout[-2000:])
    return ended.stdout


@contextlib.contextmanager
def served(key, *words, port=None, host="127.0.0.1", listen=None, **more):
    """A server on a port or at another address, when it listens."""
    port = port or free_port()
    tcp = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    command = [FALCO, "serve", "--listen", listen or tcp, "--key-file", key, *words]
    with running(command, stdout=subprocess.DEVNULL, **more) as process:
        if listen:
            until("falco listens", pathlib.Path(listen.removeprefix("unix:")).exists)
        until("falco listens", lambda: listen or listens(port, host) or process.poll() is not None)
        assert process.poll() is None, f"falco has ended with {process.returncode}"
        yield port, process


HAPROXY = """
global
    maxconn 1000
    stats socket {admin} level admin
{globals}
defaults
    mode tcp
    timeout connect 1s
    timeout client 300s
    timeout server 300s
    timeout check 2s
    retries 3
    option redispatch
frontend clients
    bind 127.0.0.1:{port}
    default_backend falco
backend falco
    balance leastconn
{check}
{servers}
"""


@contextlib.contextmanager
def haproxy(scratch, servers, words, ping=None):
    """The port of HAProxy before servers at these ports or addresses, with these words for each. It
    checks that they accept connections, or with a program `ping` that this succeeds."""
    port, admin, file = free_port(), scratch / "admin", scratch / "haproxy.cfg"
    check, globals = "", ""
    if ping:
        globals = "    external-check\n    insecure-fork-wanted"
        check = f"    option external-check\n    external-check command {ping}"
    address = lambda to: to if isinstance(to, str) else f"127.0.0.1:{to}"
    lines = "\n".join(f"    server s{at} {address(to)} check inter 200ms fall 1 rise 1 {words}"
                      for at, to in enumerate(servers))
    file.write_text(HAPROXY.format(port=port, admin=admin, servers=lines, check=check, globals=globals))
    subprocess.run(["haproxy", "-c", "-q", "-f", str(file)], check=True, timeout=PATIENCE, env={"PATH": PATH})
    with running(["haproxy", "-q", "-f", file], env={"PATH": PATH}):
        until("HAProxy listens", lambda: listens(port))
        yield port


def in_use(scratch):
    """How many servers HAProxy uses now."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(PATIENCE)
        admin.connect(str(scratch / "admin"))
        admin.sendall(b"show stat\n")
        table = b"".join(iter(lambda: admin.recv(1 << 16), b"")).decode()
    return sum(row.startswith("falco,s") and row.split(",")[17] == "UP" for row in table.splitlines())


def make_key(scratch, name="falco.key"):
    key = scratch / name
    made = falco("keygen", "--out", key)
    assert made.returncode == 0, made.stderr
    return key


def main(programs, checks):
    """Runs the checks that are named on the command line, or all. A word behind a name that begins
    with a digit is passed to this check."""
    names = [word for word in sys.argv[1:] if word != "--release"]
    if names == ["install"]:
        return install(programs)
    checks = {name.removeprefix("check_"): check for name, check in checks.items() if name.startswith("check_")}
    missing = [program for program in programs if not is_there(program)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}: '{sys.argv[0]} install' installs them")
    profile = ["--release"] if PROFILE == "release" else []
    build = ["cargo", "build", "--quiet", *profile, "-p", "falco-tokio", "--features", "cli"]
    subprocess.run(build, check=True, cwd=ROOT)
    runs = []
    for word in names or checks:
        if word[0].isdigit() and runs:
            runs[-1].append(word)
        else:
            runs.append([word])
    for name, *words in runs:
        begun = time.monotonic()
        # A Unix socket's path is short.
        with tempfile.TemporaryDirectory(prefix="falco-") as scratch:
            os.chmod(scratch, 0o755)
            checks[name](pathlib.Path(scratch), *words)
        print(f"{name}: good, {time.monotonic() - begun:.1f} s", flush=True)
