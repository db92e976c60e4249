import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tea.rewards import load_reward
from tea.rewards.sandbox import (
    PythonTests,
    SandboxLimits,
    SandboxUnavailableError,
    extract_code,
    find_isolation,
    run_python,
)

LIMITS = SandboxLimits(seconds=20, memory_mb=512, processes=12, files_mb=2, output_kb=16)
HASTY = SandboxLimits(seconds=2, memory_mb=512, processes=12, files_mb=2, output_kb=16)


def _works(kind):
    try:
        return bool(find_isolation(kind))
    except SandboxUnavailableError:
        return False


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")


@pytest.fixture(params=["bwrap", "unshare"])
def isolation(request):
    if not _works(request.param):
        pytest.skip(f"{request.param} does not work here")
    return request.param


def _processes_with(word):
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and int(directory.name) != os.getpid():
            try:
                command = (directory / "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in command:
                found.append(int(directory.name))
    return found


def test_programs_pass_or_fail_their_tests(isolation):
    program = "def add(a, b):\n    return a + b\n"
    assert run_python(program, ["assert add(1, 2) == 3", "assert add(0, 0) == 0"], isolation=isolation).passed
    wrong = run_python(program, ["assert add(1, 2) == 3", "assert add(1, 2) == 4"], isolation=isolation)
    assert (wrong.passed, wrong.status) == (False, "failed")
    assert "AssertionError" in wrong.output
    assert not run_python("def add(a, b:", [], isolation=isolation).passed
    # Ending early is not passing, whatever the exit code.
    for early in ("import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "print('ok')\nquit()"):
        assert not run_python(early, ["assert False"], isolation=isolation).passed
    assert run_python(
        "import math, json, re, collections, subprocess\nopen('a', 'w').write('b')", isolation=isolation
    ).passed


def test_the_machine_is_out_of_sight(isolation, tmp_path):
    secret = Path.home() / ".tea-sandbox-test"
    secret.write_text("secret")
    outer = set(os.environ) - {"PATH", "HOME", "LANG", "LC_CTYPE", "OMP_NUM_THREADS"}
    try:
        program = f"""
import os
for path in ({str(secret)!r}, {str(tmp_path)!r}, {str(Path.cwd() / "pyproject.toml")!r}, "/etc/passwd", "/proc/1"):
    assert not os.path.exists(path), path
assert os.listdir(".") == []
assert not set(os.environ) & {outer!r}
for directory in ("/", "/usr", "/usr/lib", "/dev", "/dev/shm"):
    try:
        open(directory + "/x", "w")
    except OSError:
        continue
    raise SystemExit("wrote into " + directory)
assert os.getuid() != 0 or {os.geteuid()} != 0
print("nothing seen")
"""
        result = run_python(program, limits=LIMITS, isolation=isolation)
        assert result.passed, result.output
    finally:
        secret.unlink()


def test_there_is_no_network(isolation):
    server = socket.create_server(("127.0.0.1", 0))
    program = f"""
import socket
for address in (("127.0.0.1", {server.getsockname()[1]}), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, timeout=2)
    except OSError:
        continue
    raise SystemExit("connected to %s:%d" % address)
"""
    assert run_python(program, limits=LIMITS, isolation=isolation).passed
    # The same program outside does get through: the test can fail.
    outside = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "connected to 127.0.0.1" in outside.stderr
    server.close()


def test_processes_are_counted_and_die_with_the_program(isolation):
    count = "import os, time\nn = 0\ntry:\n    while n < 200:\n        os.fork() or time.sleep(60)\n        n += 1\n"
    result = run_python(
        f"{count}except BlockingIOError:\n    pass\nprint(n)\nassert n < 12", limits=LIMITS, isolation=isolation
    )
    assert result.passed, result.output

    marker = f"sandbox-orphan-{os.getpid()}"
    sleep = f"[sys.executable, '-c', 'import time; time.sleep(600)', {marker!r}]"
    orphan = f"import subprocess, sys\nsubprocess.Popen({sleep}, start_new_session=True)"
    assert run_python(orphan, limits=LIMITS, isolation=isolation).passed
    deadline = time.monotonic() + 5
    while _processes_with(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _processes_with(marker)


def test_a_fork_bomb_is_bounded(isolation):
    # Only where the limit on processes holds (the test above): otherwise this would be let loose on the machine.
    probe = "import os, time\nfor _ in range(40):\n    if os.fork() == 0:\n        time.sleep(5); os._exit(0)\n"
    assert "BlockingIOError" in run_python(probe, limits=LIMITS, isolation=isolation).output
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    start = time.monotonic()
    result = run_python(bomb, limits=HASTY, isolation=isolation)
    assert not result.passed
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", "timeout"),
        (
            "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\nwhile True: pass",
            "timeout",
        ),
        ("while True: print('spam' * 1000)", "output"),
        ("x = bytearray(10**9)", "failed"),
        ("x = []\nwhile True: x.append(bytes(10**7))", "failed"),
        ("open('big', 'wb').write(bytes(10**7))", "failed"),
        ("for i in range(10**6): open(str(i), 'w').write('x')", "failed"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "failed"),
        ("import os\nos.setuid(0)\nassert os.geteuid() == 0\nos.chroot('/')", "failed"),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "failed"),
    ],
    ids=[
        "endless",
        "deaf",
        "output",
        "memory",
        "memory_slowly",
        "file",
        "files",
        "limits",
        "root",
        "stack",
    ],
)
def test_what_it_may_not_do(isolation, program, status):
    result = run_python(program, limits=HASTY, isolation=isolation)
    assert not result.passed
    if status != "failed":
        assert result.status == status
    assert len(result.output) <= (HASTY.output_kb << 10) + 64


@pytest.mark.parametrize("target", ["0", "os.getppid()", "-1", "-os.getpgid(0)"])
def test_killing_reaches_only_itself(isolation, target):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run_python(f"import os\nos.kill({target}, 9)\nos._exit(0)", limits=LIMITS, isolation=isolation)  # and we are here
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_mounts_cannot_be_undone(isolation):
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10000000 | 0x20000)  # a user and a mount namespace of its own
assert libc.mount(None, b"/usr", None, 32 | 4096, None) != 0  # read-write again
assert libc.umount2(b"/usr", 2) != 0
try:
    os.listdir("/old/etc")
except OSError:
    pass
else:
    raise SystemExit("the old root is still there")
"""
    result = run_python(program, limits=LIMITS, isolation=isolation)
    assert result.passed, result.output


def test_nothing_is_left_behind(isolation):
    before = set(Path("/tmp").iterdir())
    run_python("open('left', 'w').write('behind')\nopen('/tmp/left', 'w')", limits=LIMITS, isolation=isolation)
    assert not [path for path in set(Path("/tmp").iterdir()) - before if path.name.startswith(("left", "sandbox-"))]
    assert not run_python("assert __import__('os').path.exists('left')", limits=LIMITS, isolation=isolation).passed


def test_it_refuses_where_there_is_no_isolation(monkeypatch):
    monkeypatch.setattr("tea.rewards.sandbox.shutil.which", lambda name: None)
    find_isolation.cache_clear()
    try:
        with pytest.raises(
            SandboxUnavailableError, match=r"bwrap is not installed.*Install bubblewrap.*isolation='none'"
        ):
            PythonTests()
        assert PythonTests(isolation="none")(["?"], ["x = 1"], tests=["assert x == 1"]) == [1.0]
    finally:
        find_isolation.cache_clear()
    with pytest.raises(ValueError, match="isolation must be"):
        find_isolation("docker")
    with pytest.raises(ValueError, match="seconds must be positive"):
        SandboxLimits(seconds=0)


def test_limits_hold_without_isolation():
    assert run_python("while True: pass", limits=SandboxLimits(seconds=2), isolation="none").status == "timeout"
    assert run_python("x = bytearray(10**9)", limits=LIMITS, isolation="none").status == "failed"


def test_the_reward():
    if not (_works("bwrap") or _works("unshare")):
        pytest.skip("no isolation here")
    reward = load_reward("python_tests")
    completions = [
        "Sure:\n```python\ndef f(x):\n    return 2 * x\n```\nIt doubles.",
        "def f(x):\n    return x",
        "```\ndef f(x): return 0\n```\nor rather\n```py\ndef f(x): return x + x\n```",
        "anything",
    ]
    tests = ["assert f(2) == 4\nassert f(3) == 6", ["assert f(2) == 4"], ["assert f(2) == 4", "assert f(0) == 0"], None]
    assert reward(prompts=["?"] * 4, completions=completions, tests=tests) == [1.0, 0.0, 1.0, None]
    with pytest.raises(ValueError, match="needs a column 'tests'"):
        reward(prompts=["?"], completions=["x"])
    assert load_reward("python_tests:unit").column == "unit"
    assert extract_code("x = 1") == "x = 1"


def test_many_at_once():
    if not (_works("bwrap") or _works("unshare")):
        pytest.skip("no isolation here")
    threads_before = threading.active_count()
    reward = PythonTests(workers=4, limits=LIMITS)
    scores = reward(["?"] * 8, [f"x = {i}" for i in range(8)], tests=["assert x % 2 == 0"] * 8)
    assert scores == [1.0, 0.0] * 4
    assert threading.active_count() == threads_before
    # Each has its own count of processes, however many run beside it.
    forks = "import os, time\nfor _ in range(8):\n    os.fork() or (time.sleep(1), os._exit(0))\n"
    assert reward(["?"] * 4, [forks] * 4, tests=["assert True"] * 4) == [1.0] * 4
