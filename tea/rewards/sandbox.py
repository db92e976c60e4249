"""Running Python that a language model wrote: limits, no network, an empty directory, and nothing left behind.

A program runs in new Linux namespaces: it sees a read-only Python and system libraries, an empty writable directory of
bounded size, no network, no process but its own, and no other file of the machine. Processor time, memory,
processes, open files and output are bounded; whatever it started dies with it. Namespaces come from bubblewrap
(``bwrap``) if it is installed, else from ``unshare`` of util-linux; where the kernel allows neither, running is
refused.

This keeps a program away from the machine. It does not keep it from cheating: a program that defines objects equal to
everything passes tests that compare with ``==``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tea.rewards import _jail
from tea.rewards.base import Text, completion_texts

# For programs run as root: users that nobody is (systemd hands them out to transient services), one for each program,
# since the limit on processes counts a user's.
_UIDS = range(61184, 65520)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


class SandboxUnavailableError(OSError):
    """The kernel offers no isolation to this process."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one program may use.

    Attributes:
        seconds: wall-clock and processor time.
        memory_mb: address space of each of its processes, MiB.
        processes: processes and threads at a time.
        files_mb: what it may write into its directory, MiB.
        output_kb: what it may print, KiB.
    """

    seconds: float = 10.0
    memory_mb: int = 1024
    processes: int = 16
    files_mb: int = 16
    output_kb: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended.

    Attributes:
        passed: it ended, and all tests after it did.
        status: "passed", "failed", "timeout" or "output" (it printed more than it may).
        output: what it printed, standard output and error together.
    """

    passed: bool
    status: str
    output: str


def run_python(
    program: str,
    tests: Sequence[str] = (),
    *,
    limits: SandboxLimits | None = None,
    isolation: str = "auto",
) -> SandboxResult:
    """Run `program` and then each of `tests` in its scope, isolated.

    Args:
        program: Python source.
        tests: Python sources, in order; one that raises fails.
        limits: what it may use.
        isolation: "bwrap", "unshare", "auto" for the first of them that works here, or "none" for limits alone:
            then the program can read your files and use the network.

    Raises:
        SandboxUnavailableError: that isolation does not work here.
        ValueError: an unknown isolation.
    """
    limits = limits or SandboxLimits()
    word = secrets.token_hex(16)
    message = f"{json.dumps(program)}\n{json.dumps([list(tests), word])}\n".encode()
    with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:
        os.chmod(directory, 0o755)
        command = _command(find_isolation(isolation), directory, limits)
        status, raw = _run(command, message, limits, directory)
    output = raw.decode(errors="replace")
    passed = status == "ended" and output.endswith(word)
    return SandboxResult(passed, "passed" if passed else status.replace("ended", "failed"), output.removesuffix(word))


@lru_cache
def find_isolation(isolation: str = "auto") -> str:
    """The isolation that works here: `isolation` itself, or for "auto" the first of "bwrap" and "unshare" that does.

    Raises:
        SandboxUnavailableError: none does (with the reasons).
        ValueError: an unknown isolation.
    """
    if isolation not in ("auto", "bwrap", "unshare", "none"):
        raise ValueError(f"isolation must be 'auto', 'bwrap', 'unshare' or 'none', got {isolation!r}")
    if isolation == "none":
        return isolation
    reasons = []
    for kind in ("bwrap", "unshare") if isolation == "auto" else (isolation,):
        if not sys.platform.startswith("linux"):
            reasons.append("it needs Linux")
        elif shutil.which(kind) is None:
            reasons.append(f"{kind} is not installed")
        else:
            with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:
                os.chmod(directory, 0o755)
                limits = SandboxLimits(seconds=30)
                status, output = _run(_command(kind, directory, limits), b'"print(1)"\n[[], "ok"]\n', limits, directory)
            if output == b"1\nok":
                return kind
            reasons.append(f"{kind}: {output.decode(errors='replace').strip()[-300:] or status}")
    raise SandboxUnavailableError(
        f"programs cannot be isolated here ({'; '.join(reasons)}). Install bubblewrap (apt install bubblewrap), allow "
        "unprivileged user namespaces, or, in a container or machine that may be lost, say isolation='none'"
    )


def _command(kind: str, directory: str, limits: SandboxLimits) -> list[str]:
    """The command that starts the jail; `directory` is empty and its own."""
    as_root = os.geteuid() == 0
    prefixes = dict.fromkeys([sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])])
    outside = [prefix for prefix in prefixes if not prefix.startswith("/usr/") and prefix != "/usr"]
    paths = [path for path in (*_SYSTEM, *outside, *_DEVICES) if os.path.lexists(path)]
    config: dict[str, Any] = {
        "root": directory if kind == "unshare" else None,
        "paths": paths,
        "box_bytes": limits.files_mb << 20,
        "uid": _UIDS[secrets.randbelow(len(_UIDS))] if as_root and kind != "none" else None,
        "python": sys.executable,
        "harness": _jail.HARNESS,
        "limits": {
            "RLIMIT_CPU": int(limits.seconds) + 1,
            "RLIMIT_AS": limits.memory_mb << 20,
            "RLIMIT_FSIZE": limits.files_mb << 20,
            "RLIMIT_NOFILE": 128,
            "RLIMIT_CORE": 0,
            # Without namespaces the limit would count all processes of the user.
            **({} if kind == "none" else {"RLIMIT_NPROC": limits.processes}),
        },
    }
    jail = [sys.executable, "-I", "-c", Path(_jail.__file__).read_text(encoding="utf-8"), json.dumps(config)]
    if kind == "none":
        return jail
    if kind == "unshare":
        user = [] if as_root else ["--user", "--map-root-user"]
        return [
            "unshare",
            *user,
            *("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL"),
            "--",
            *jail,
        ]
    binds: list[str] = []
    for parent in sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"}):
        if not any(parent == path or parent.startswith(f"{path}/") for path in paths):
            binds += ["--perms", "0755", "--dir", parent]
    for path in paths:
        if os.path.islink(path):
            binds += ["--symlink", os.readlink(path), path]
        else:
            binds += ["--dev-bind" if path in _DEVICES else "--ro-bind", path, path]
    capabilities = [f"--cap-add=CAP_{name}" for name in ("SETUID", "SETGID", "SETPCAP")] if as_root else []
    return [
        "bwrap",
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--die-with-parent", "--new-session", "--clearenv"),
        *([] if as_root else ["--unshare-user"]),
        *(part for capability in capabilities for part in capability.split("=")),
        *binds,
        *["--perms", "0777", "--size", str(limits.files_mb << 20), "--tmpfs", "/box", "--remount-ro", "/"],
        *["--chdir", "/box", "--", *jail],
    ]


def _run(command: list[str], message: bytes, limits: SandboxLimits, directory: str) -> tuple[str, bytes]:
    """Run until it ends, takes too long or prints too much; ("ended", "timeout" or "output") and what it printed."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        start_new_session=True,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = bytearray()
    room = limits.output_kb << 10
    deadline = time.monotonic() + limits.seconds
    to_send = memoryview(message)
    status = "ended"
    pipes = selectors.DefaultSelector()
    os.set_blocking(process.stdin.fileno(), False)
    try:
        pipes.register(process.stdout, selectors.EVENT_READ)
        pipes.register(process.stdin, selectors.EVENT_WRITE)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                status = "timeout"
                break
            ready = {key.fileobj for key, _ in pipes.select(min(left, 1.0))}
            if process.stdin in ready:
                try:
                    to_send = to_send[os.write(process.stdin.fileno(), to_send[:65536]) :]
                except BrokenPipeError:
                    to_send = memoryview(b"")
                if not to_send:
                    pipes.unregister(process.stdin)
            if process.stdout in ready:
                chunk = os.read(process.stdout.fileno(), 65536)
                output += chunk
                if len(output) > room:
                    status = "output"
                    break
                if not chunk:
                    break
            elif process.poll() is not None:
                break  # it has ended, and something that it left behind holds the pipe
    finally:
        pipes.close()
        _kill(process)
    return status, bytes(output[: room + 64])


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def extract_code(text: str) -> str:
    """The last fenced block of Python in `text`, or all of it where there is none."""
    blocks = _FENCE.findall(text)
    return str(blocks[-1]) if blocks else text


class PythonTests:
    """1.0 where the completion's program passes the row's unit tests in a sandbox, else 0.0.

    The program is the completion's last fenced block of Python (all of the completion where there is none). The tests
    are the row's, from a column: Python source, or a list of sources such as ``["assert f(1) == 2", ...]``, run after
    the program in its scope; all must pass. None where the row has no tests.

    Args:
        column: the column with the tests.
        limits: what a program may use.
        isolation: see :func:`run_python`.
        workers: programs at a time; default: the number of processors.

    Raises:
        SandboxUnavailableError: programs cannot be isolated here and `isolation` is not "none".
    """

    def __init__(
        self,
        column: str = "tests",
        *,
        limits: SandboxLimits | None = None,
        isolation: str = "auto",
        workers: int | None = None,
    ) -> None:
        self.column = column
        self.limits = limits or SandboxLimits()
        self.isolation = find_isolation(isolation)
        self.workers = workers or os.cpu_count() or 1
        self.source = f"python_tests:{column}"
        self.fingerprint = f"{column} {self.limits}"
        self.__name__ = "python_tests"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            ValueError: there is no column with tests.
        """
        if self.column not in kwargs:
            raise ValueError(
                f"reward 'python_tests' needs a column {self.column!r} with the tests; there are: {sorted(kwargs)}"
            )
        jobs = list(zip(completion_texts(completions), kwargs[self.column], strict=True))
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda job: self._score(*job), jobs))

    def _score(self, text: str, tests: str | Sequence[str] | None) -> float | None:
        if not tests:
            return None
        sources = [tests] if isinstance(tests, str) else list(tests)
        return float(run_python(extract_code(text), sources, limits=self.limits, isolation=self.isolation).passed)
