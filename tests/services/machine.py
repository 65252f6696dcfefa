"""A machine of its own whose first process is systemd: a container of systemd-nspawn, in the files
of this system. What is written there is gone at its end. Its network is its own 127.0.0.1."""

import contextlib
import os
import pathlib
import signal
import subprocess
import uuid

from common import FALCO, PATIENCE, ROOT, output_of, running, until

PROGRAMS = {"systemd-nspawn": "systemd-container", "nsenter": "util-linux", "runuser": "util-linux", "useradd": "passwd"}
# In a mount namespace, with the files of this system, without what is mounted in them. Control
# groups are those of version 2, on systems with both versions too, and the machine has its own.
BOOT = """
set -e
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo 0 >"/sys/fs/cgroup/$1/cgroup.procs"
mount --bind / "$2"
shift 2
exec systemd-nspawn "$@"
"""
# What the machine leaves behind.
CLEAN = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && find "/sys/fs/cgroup/$1" -depth -type d -delete'
# Where a login shell looks for programs.
STANDARD = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# No service of this system is started.
UNIT = "basic.target"


class Machine:
    def __init__(self, leader):
        self.leader = leader

    def command(self, *words):
        """A command that runs `words` in the machine, as root."""
        variables = ("env", "-i", f"PATH={STANDARD}", "HOME=/root", "TERM=dumb", "FALCO_DOCS=/docs")
        return ["nsenter", "--target", str(self.leader), "--all", "--", *variables, *map(str, words)]

    def run(self, *words, patience=PATIENCE):
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=patience)

    def output(self, *words):
        return output_of(*self.command(*words)).decode().strip()

    def shell(self, text):
        return self.output("bash", "-euo", "pipefail", "-c", text)


def first_process(nspawn):
    """The machine's first process, as it is numbered here, once it runs."""
    children = pathlib.Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
    for child in children:
        # The process that makes the container is also a child, and ends soon.
        with contextlib.suppress(OSError):
            if pathlib.Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
    return None


@contextlib.contextmanager
def machine(scratch, falco=FALCO):
    """A machine that has booted, with the tool in /usr/local/bin and the folder docs in /."""
    assert os.geteuid() == 0, "a container takes root"
    name, root, identity, log = scratch.name, scratch / "root", scratch / "machine-id", scratch / "boot.log"
    root.mkdir()
    identity.write_text(uuid.uuid4().hex + "\n")
    bound = {identity: "/etc/machine-id", falco: "/usr/local/bin/falco", ROOT / "docs": "/docs"}
    words = [
        "--quiet", "--register=no", "--keep-unit", f"--directory={root}", "--volatile=overlay", "--private-network",
        "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe",
        *(f"--bind-ro={source}:{target}" for source, target in bound.items()), "--boot", "--", f"--unit={UNIT}",
    ]
    in_namespace = lambda script, *more: ["unshare", "--mount", "sh", "-c", script, "sh", name, *more]
    booting = in_namespace(BOOT, root, *words)
    leader = None
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, in_namespace(CLEAN), timeout=PATIENCE)
        out = stack.enter_context(open(log, "w"))
        process = stack.enter_context(running(booting, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        try:
            until("systemd begins", lambda: process.poll() is not None or first_process(process.pid))
            assert process.poll() is None, f"there is no machine: {log.read_text()}"
            leader = first_process(process.pid)
            here = Machine(leader)
            booted = ("systemctl", "is-active", "--quiet", UNIT)
            until("the machine has booted", lambda: process.poll() is not None or here.run(*booted).returncode == 0)
            assert process.poll() is None, f"the machine has ended: {log.read_text()}"
            yield here
            process.terminate()
            assert process.wait(PATIENCE) == 0, "the machine is shut down in good order"
        finally:
            if process.poll() is None and leader:
                os.kill(leader, signal.SIGKILL)
