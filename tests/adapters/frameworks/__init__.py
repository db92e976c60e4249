"""The adapters on the real frameworks: installed without their engines, each in a process of its own.

``make test-adapters`` installs them under ``.cache/frameworks`` (this file says what), runs each ``check_*.py`` here on
its framework, and writes the table of ``docs/frameworks.md``. ``tests/adapters/test_frameworks.py`` runs those that
are installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache" / "frameworks"
HERE = Path(__file__).parent
# Small packages that importing the frameworks takes, and Ray; without dependencies, as all of these.
COMMON = CACHE / "common"


@dataclass(frozen=True)
class Framework:
    """A version of a framework and the file that checks the adapter on it.

    Attributes:
        name: Of the package index, or of the repository on GitHub.
        version: A version, or a commit.
        how: What of the framework's own runs in the check, for the table.
        check: ``check_<check>.py``.
        extra: A file of requirements beside ``common.txt``.
    """

    name: str
    version: str
    check: str
    how: str
    extra: str | None = None

    @property
    def from_github(self) -> bool:
        """Whether it is a repository rather than a package."""
        return "/" in self.name

    @property
    def directory(self) -> Path:
        """Where it is installed, whatever Python it says it needs."""
        return CACHE / f"{self.name.replace('/', '+')}-{self.version[:8]}"

    @property
    def absent(self) -> str | None:
        """Why it cannot be checked; None if it can."""
        needed = [self.directory, COMMON, *([CACHE / self.extra] if self.extra else [])]
        missing = [path.name for path in needed if not (path / ".complete").exists()]
        return f"{', '.join(missing)} not installed: make test-adapters" if missing else None

    def install(self) -> str | None:
        """Install what is missing; returns what went wrong, None if nothing did."""
        steps = [(COMMON, ["-r", str(HERE / "common.txt")])]
        if self.extra:
            steps.append((CACHE / self.extra, ["-r", str(HERE / f"{self.extra}.txt")]))
        if not self.from_github:
            steps.append((self.directory, ["--ignore-requires-python", f"{self.name}=={self.version}"]))
        for directory, what in steps:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(directory), *what]
            if error := _into(directory, [pip]):
                return error
        if self.from_github:
            git = ["git", "-C", str(self.directory)]
            url = f"https://github.com/{self.name}"
            return _into(
                self.directory,
                [
                    ["git", "init", "--quiet", str(self.directory)],
                    [*git, "fetch", "--quiet", "--depth", "1", url, self.version],
                    [*git, "checkout", "--quiet", "FETCH_HEAD"],
                ],
            )
        return None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its check in a process that sees the framework, its few dependencies and this repository."""
        path = [ROOT, _own_metadata(), self.directory, *([CACHE / self.extra] if self.extra else []), COMMON]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "RLINF_", "RAY_"))},
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "JAX_PLATFORMS": "cpu",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-n", "0"]
        command += [str(HERE / f"check_{self.check}.py"), *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _into(directory: Path, commands: list[list[str]]) -> str | None:
    if (directory / ".complete").exists():
        return None
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    for command in commands:
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if result.returncode != 0:
            return result.stderr.strip().splitlines()[-1] if result.stderr.strip() else f"{command[0]} failed"
    (directory / ".complete").touch()
    return None


def _own_metadata() -> Path:
    """Metadata of this checkout, so that its entry points are there whatever is installed."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index('[project.entry-points."verl.plugins"]')
    end = lines.index("", start)
    directory = CACHE / "own-metadata"
    info = directory / "tea_rl-0+checkout.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tea-rl\nVersion: 0+checkout\n")
    (info / "entry_points.txt").write_text("\n".join(["[verl.plugins]", *lines[start + 1 : end]]).replace('"', ""))
    return directory


FRAMEWORKS = (
    Framework(
        "verl",
        "0.9.1",
        "verl",
        "`compute_advantage_for_multi_trajectories` on a `DataProto` with padding rows, config from `ppo_trainer.yaml` "
        "and its command line; found through the entry point and through `runtime_env` by workers of a running Ray",
    ),
    Framework(
        "skyrl",
        "0.4.0",
        "skyrl",
        "`RayPPOTrainer.compute_advantages_and_returns`, also step-wise; registered in the driver and found by a Ray "
        "worker; `from_cli_overrides` and `make_config`",
    ),
    Framework(
        "skyrl",
        "0.3.0",
        "skyrl",
        "as above",
    ),
    Framework(
        "skyrl-train",
        "0.3.1",
        "skyrl",
        "as above, without the config's command line",
    ),
    Framework(
        "tinker-cookbook",
        "0.6.1",
        "tinker_cookbook",
        "`rl.train.prepare_minibatch` to the advantages in the datums",
    ),
    Framework(
        "trinity-rft",
        "0.6.0",
        "trinity",
        "the operator that `ExperiencePipeline` builds from the config's `advantage_fn`",
    ),
    Framework(
        "google-tunix",
        "0.1.7",
        "tunix",
        "`GRPOLearner._generate_and_compute_advantage` with a stand-in for generation",
        extra="jax",
    ),
    Framework(
        "rlinf",
        "0.3.0",
        "rlinf",
        "`load_user_extension_module`, `calculate_adv_and_returns` for embodied and reasoning tasks",
    ),
    Framework(
        "rllm-org/rllm",
        "9beb6e0f676a46d38858991fd79ac5f8e0b16d4c",
        "rllm",
        "`collect_reward_and_advantage_from_trajectory_groups`, the map pickled to another process",
    ),
    Framework(
        "NVIDIA-NeMo/RL",
        "7ea279abfbeb698b092856d0dab61e7cf39bc909",
        "nemo_rl",
        "`_create_advantage_estimator` and its `compute_advantage`",
    ),
    Framework(
        "THUDM/slime",
        "624b824a898ab0ec1fcb4d373004c7f3852bf515",
        "slime",
        "`RolloutManager._convert_samples_to_train_data`, `get_grpo_returns`",
    ),
    Framework(
        "radixark/miles",
        "31f1ca961a94cb860cec3b2dea34ec332bfa8f76",
        "miles",
        "`convert_samples_to_train_data`, `compute_advantages`",
    ),
    Framework(
        "hiyouga/EasyR1",
        "b44b311b669bf1fd1aa2fc36f2251482ba33cb16",
        "easyr1",
        "`compute_advantage` on a `DataProto`; registered in a Ray worker by its setup hook",
    ),
)
