"""What runs inside the sandbox before the program: mounts, limits, and the reading of program and tests.

Standard library only; :mod:`tea.rewards.sandbox` hands this file's source to ``python -I -c``, since the package itself
is not visible from within.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from typing import Any

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _DETACH = 1, 2, 4, 32, 4096, 2
_KEEP = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # statvfs flags to mount flags, locked in a namespace
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NO_NEW_PRIVILEGES, _DROP_CAPABILITY = 38, 24


def main(config: dict[str, Any]) -> None:
    """Set up what `config` says, then become a fresh interpreter that runs what comes on standard input."""
    libc = ctypes.CDLL(None, use_errno=True)
    if config["root"] is not None:
        _build_root(libc, config["root"], config["paths"], config["box_bytes"])
    limits = config["limits"]
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    for capability in range(64):
        libc.prctl(_DROP_CAPABILITY, capability, 0, 0, 0)
    if config["uid"] is not None:
        os.setgroups([])
        os.setresgid(config["uid"], config["uid"], config["uid"])
        os.setresuid(config["uid"], config["uid"], config["uid"])
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.getcwd(), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    os.execve(config["python"], [config["python"], "-I", "-c", config["harness"]], environment)


def _build_root(libc: Any, root: str, paths: list[str], box_bytes: int) -> None:
    """A file system with `paths`, read-only, and an empty writable directory /box; then move into it."""

    def call(what: str, result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        encoded = [text.encode() for text in (source, target, kind)]
        call(f"mount {source} on {target}", libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()))

    mount("sandbox", root, "tmpfs", _NOSUID, "size=1m,mode=755")
    for path in paths:
        inside = root + path
        os.makedirs(os.path.dirname(inside), mode=0o755, exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
            continue
        if os.path.isdir(path):
            os.makedirs(inside, mode=0o755, exist_ok=True)
        else:
            with open(inside, "w"):
                pass
        mount(path, inside, "", _BIND)
        if os.path.isdir(path):
            have = os.statvfs(inside).f_flag
            keep = sum(flag for bit, flag in _KEEP.items() if have & bit)
            mount("", inside, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV | keep)
    for name in ("box", "old"):
        os.mkdir(f"{root}/{name}")
    mount("box", f"{root}/box", "tmpfs", _NOSUID | _NODEV, f"size={box_bytes},nr_inodes=1024,mode=777")
    mount("", root, "", _REMOUNT | _BIND | _RDONLY | _NOSUID)
    os.chdir(root)
    call("pivot_root", libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"old"))
    call("umount", libc.umount2(b"/old", _DETACH))
    os.chdir("/box")


HARNESS = """
import json, os, sys
channel = os.fdopen(os.dup(0), "rb")
null = os.open("/dev/null", os.O_RDONLY)
os.dup2(null, 0)
sys.argv = ["main.py"]
scope = {"__name__": "__main__", "__builtins__": __builtins__}
exec(compile(json.loads(channel.readline()), "main.py", "exec"), scope)
# Only now: a program that ends by itself has never seen what a passed test writes.
tests, word = json.loads(channel.readline())
for number, test in enumerate(tests):
    exec(compile(test, f"test_{number}.py", "exec"), scope)
sys.stdout.flush()
os.write(1, word.encode())
os._exit(0)
"""

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
