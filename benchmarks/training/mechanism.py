"""The mechanism check: does an estimator's gradient point where best-of-N grows?

    python -m benchmarks.training.mechanism   # every task, two seeds; 10 minutes on one core, base models aside
    python -m benchmarks.training.mechanism --tasks venture --seeds 1 --output venture.json

The policy is a task's base model, frozen. The reference is its empirical best-of-128 gradient over all of its
parameters: 65,536 rollouts, 1,024 for each of 64 prompts, weighted by the unbiased advantages of max@128. Against it
stand the gradients of the estimators as they are in training: the expected one from groups of m, which shows the bias,
and that of single batches of 256 rollouts, m per prompt, which is what an update sees.

All gradients are noisy, the reference too, and noise shortens a cosine. Where it does not belong it is taken out: the
rollouts come in two independent halves, an estimator's gradient from one is compared with the reference from the
other, and divided by what noise leaves of it, as the cosine of the same gradient from both halves tells.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import normalize
from tqdm import tqdm

from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.training.loop import Advantages
from benchmarks.training.methods import METHODS
from benchmarks.training.policy import base_policy, sample, token_log_probs
from benchmarks.training.run import applicable
from benchmarks.training.task import tasks
from tea import max_at_k_advantages
from tea.bestofn import best_of_n_curve

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mechanism.json"
README = HERE / "README.md"
COMMAND = "python -m benchmarks.training.mechanism"
N = 128
SIZES = (4, 8, 16, 32, 64)
BATCH = 256  # rollouts, as in the training runs
ROUND = max(SIZES)  # rollouts of every prompt that all m share out among batches
CHUNK = 512  # rollouts that are differentiated at once
TASKS = ("blend", "countdown", "passcode", "survey", "venture")
SEEDS = (12, 13)  # blind ones
NAMES = (
    "grpo",
    "max_at_4",
    "max_at_m",
    "bon_max_second",
    "cat_bon",
    "tail_rl",
    "tea_published",
    "tea_projected",
    "ladder",
    "pass_at_n",
    "eb_bon",
    "max_at_n/2_memory",
    "ladder_memory",
)
QUANTITIES = {"direction": "expected gradient", "batch": "one batch"}
REFERENCE = "max_at_m"  # what the table of differences compares with
REFERENCES = {
    "plain": "the gradient of the sum over prompts of best-of-128",
    "scaled": "the same with every prompt's reward divided by its standard deviation, as the estimators do by group",
}


@dataclass(frozen=True)
class Budget:
    """How many rollouts to spend.

    Attributes:
        prompts: P, a power of two from 4 on.
        rollouts: Per prompt, for the reference and the expected gradients; in two halves.
        shuffles: So often the rollouts of a half are grouped anew, which averages over who else is in a group.
        rounds: So many times 64 rollouts per prompt for single batches.
    """

    prompts: int = 64
    rollouts: int = 1024
    shuffles: int = 2
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.prompts < 4 or self.prompts & (self.prompts - 1):
            raise ValueError(f"prompts must be a power of two >= 4, got {self.prompts}")
        if self.rollouts % (2 * ROUND) or self.rollouts < 4 * N:
            raise ValueError(f"rollouts must be a multiple of {2 * ROUND} from {4 * N} on, got {self.rollouts}")
        if self.shuffles < 1 or self.rounds < 1:
            raise ValueError(f"shuffles and rounds must be at least 1, got {self.shuffles} and {self.rounds}")


# --- Gradients of sums over rollouts, all parameters flattened into one vector. ---


def distinct(sequences: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Every sequence once, (B, L) to (U, L), with the sum of its weights, (K, B) to (K, U)."""
    unique, inverse = torch.unique(sequences, dim=0, return_inverse=True)
    return unique, weights.new_zeros(len(weights), len(unique)).index_add_(1, inverse, weights)


def weighted_gradients(policy: Any, sequences: Tensor, length: int, weights: Tensor) -> Tensor:
    """(K, D) gradients of ``sum_b weights_kb log pi(last length tokens of b | those before)``.

    Every rollout is differentiated by itself, once for all K, and the weights multiply the matrix of these gradients.

    Args:
        policy: As for :func:`benchmarks.training.policy.token_log_probs`.
        sequences: (B, L + T) tokens.
        length: T.
        weights: (K, B).
    """
    parameters = {name: parameter.detach() for name, parameter in policy.named_parameters()}

    def log_prob(parameters: dict[str, Tensor], sequence: Tensor) -> Tensor:
        def model(**inputs: Any) -> Any:
            return functional_call(policy, parameters, (), inputs)

        return token_log_probs(model, sequence[None, :-length], sequence[None, -length:])[0].sum()

    gradient_of_each = vmap(grad(log_prob), in_dims=(None, 0))
    total = torch.zeros(len(weights), sum(parameter.numel() for parameter in parameters.values()))
    for rows, row_weights in zip(sequences.split(CHUNK), weights.split(CHUNK, dim=1), strict=True):
        # Of many batches, most have no rollout in a chunk.
        concerned = row_weights.any(1).nonzero()[:, 0]
        unique, summed = distinct(rows, row_weights[concerned])
        start = 0
        for gradients in gradient_of_each(parameters, unique).values():
            part = total[:, start : start + gradients[0].numel()]
            if len(concerned) == len(total):
                part.addmm_(summed, gradients.flatten(1))
            else:
                part.index_add_(0, concerned, summed @ gradients.flatten(1))
            start += gradients[0].numel()
    return total


# --- Rollouts and their weights. ---


@dataclass(frozen=True)
class Rollouts:
    """R rollouts of each of P prompts: sequences (P, R, L + T) and rewards (P, R)."""

    sequences: Tensor
    rewards: Tensor


@torch.no_grad()
def draw(task: Any, policy: Any, prompts: int, count: int, generator: torch.Generator) -> Rollouts:
    """``count`` rollouts of each of the first prompts of the task."""
    sequences = []
    for index in torch.arange(prompts).split(max(1, 4096 // count)):
        completions = sample(policy, task.tokens[index], count, task.completion_length, generator)
        sequences.append(torch.cat((task.tokens[index].repeat_interleave(count, dim=0), completions), dim=1))
    together = torch.cat(sequences)
    rows = torch.arange(prompts).repeat_interleave(count)
    rewards = task.reward(rows, together[:, -task.completion_length :]).float()
    return Rollouts(together.view(prompts, count, -1), rewards.view(prompts, count))


def batches_of(prompts: int, m: int, count: int = ROUND) -> Tensor:
    """(batches, groups, m) positions in flattened rollouts (P, count): each of them once, groups of one prompt each.

    A batch takes as many prompts as it has groups if there are so many, else all of them several times.
    """
    taken = min(prompts, BATCH // m)
    each = BATCH // taken
    positions = torch.arange(prompts * count).view(prompts // taken, taken, count // each, each)
    return positions.transpose(1, 2).reshape(-1, BATCH // m, m)


def batch_weights(advantages_of: Advantages, rewards: Tensor, m: int) -> Tensor:
    """(batches, P * 64) weight of every rollout of a round (P, 64) in the gradient of each batch of 256."""
    positions = batches_of(len(rewards), m)
    weights = torch.zeros(len(positions), rewards.numel())
    for row, batch in zip(weights, positions, strict=True):
        row[batch] = advantages_of(rewards.view(-1)[batch], batch[:, 0] // ROUND) / BATCH
    return weights


def past(name: str, m: int) -> int:
    """How many rewards of a prompt fill the method's memory, all of one visit; 0 without a memory."""
    size = METHODS[name].memory(m, N)
    return max(size, N) if size else 0  # max@N wants N of them, that they are forgotten again does not matter


def expected_weights(name: str, m: int, rewards: Tensor, orders: Sequence[Tensor]) -> Tensor:
    """(P, R) weight of every rollout in the expected gradient of groups of m, cut from it in each of these orders.

    In batches of 256 as in training, since some learn from the batch; not divided by the scale of the run, which
    would add its own bias to that of the estimator.
    """
    prompts, count = rewards.shape
    group = torch.arange(prompts * count // m)
    history = past(name, m)
    if m + history > count:
        raise ValueError(f"{name} needs {m + history} rollouts in each half, there are {count}")
    total = torch.zeros_like(rewards)
    for order in orders:
        shuffled = rewards.gather(1, order)
        advantages_of = replace(METHODS[name], normalize=False).advantages(m, N)
        if history:
            # Of every group, the rollouts that come after it, from the beginning again at the end.
            after = torch.cat((shuffled, shuffled[:, : m + history]), dim=1)[:, m:].unfold(1, history, m)
            advantages_of(after[:, : count // m].reshape(-1, history), group)
        advantages = torch.empty(rewards.numel())
        for batch in batches_of(prompts, m, count):
            advantages[batch] = advantages_of(shuffled.view(-1)[batch], batch[:, 0] // m)
        total.scatter_add_(1, order, advantages.view_as(rewards))
    return total / (len(orders) * rewards.numel())


# --- One task and seed. ---


def reference_weights(rewards: Tensor) -> Tensor:
    """(2, P, R) weights of every rollout in :data:`REFERENCES`."""
    plain = max_at_k_advantages(rewards, N) / rewards.numel()
    # A prompt whose rollouts all score the same has no gradient, whatever it is divided by.
    return torch.stack((plain, plain / rewards.std(1, keepdim=True).clamp_min(1e-6)))


def ceiling(halves: Tensor) -> float:
    """Cosine of a half of (2, D) with its expectation, from that of the halves; NaN where they do not agree at all."""
    agreement = torch.cosine_similarity(*halves.double(), dim=0).item()
    return agreement**0.5 if agreement > 0 else math.nan


def direction(halves: Tensor, reference: Tensor) -> float:
    """Cosine of the expectations of gradients (2, D) and (2, D) that share the rollouts of each half.

    Noise shortens the cosine of one's half with the other's other half by both ceilings.
    """
    crossed = torch.cosine_similarity(halves.double(), reference.double().flip(0), dim=1).mean().item()
    return crossed / (ceiling(halves) * ceiling(reference))


def check(task: Any, policy: Any, names: Sequence[str], budget: Budget, seed: int) -> dict[str, Any]:
    """Cosines of every method and m with the reference.

    Returns:
        ``best_of``, ``reward_std``: Of the policy. ``reference``: for each of :data:`REFERENCES` ``split_half``, the
        cosine of its halves, and ``ceiling``, the cosine of a half with its expectation that this implies.
        ``cosines``: method, m, then for each of :data:`REFERENCES` ``direction``, that of the expectations, ``half``,
        that of a half with the other half of the reference as measured, and ``batch``, that of single batches with
        the expected reference, with its standard deviation ``batch_std``.
    """
    policy.eval()
    length = task.completion_length
    generator = torch.Generator().manual_seed(seed + 10_000)
    methods = [(name, m) for name in names for m in SIZES]
    rollouts = draw(task, policy, budget.prompts, budget.rollouts, generator)
    both = []
    for sequences, rewards in zip(rollouts.sequences.chunk(2, dim=1), rollouts.rewards.chunk(2, dim=1), strict=True):
        orders = [torch.rand(rewards.shape, generator=generator).argsort(1) for _ in range(budget.shuffles)]
        weights = [expected_weights(name, m, rewards, orders) for name, m in methods]
        weights += reference_weights(rewards)
        both.append(weighted_gradients(policy, sequences.flatten(0, 1), length, torch.stack(weights).flatten(1)))
    halves = torch.stack(both)  # (2, K + 2, D)
    reference = dict(zip(REFERENCES, halves[:, -len(REFERENCES) :].unbind(1), strict=True))
    # What a cosine with the expected reference is measured by.
    unit = torch.stack([normalize(reference[kind], dim=1).mean(0) / ceiling(reference[kind]) for kind in REFERENCES])

    single: list[list[Tensor]] = [[] for _ in methods]  # per method (batches, 2)
    most = max(past(name, m) for name, m in methods)
    history = draw(task, policy, budget.prompts, most, generator).rewards if most else torch.empty(0)
    bound = [METHODS[name].advantages(m, N) for name, m in methods]
    for advantages_of, (name, m) in zip(bound, methods, strict=True):
        if past(name, m):
            advantages_of(history[:, : past(name, m)], torch.arange(budget.prompts))
    for _ in range(budget.rounds):
        rollouts_of_round = draw(task, policy, budget.prompts, ROUND, generator)
        weights = [batch_weights(of, rollouts_of_round.rewards, m) for of, (_, m) in zip(bound, methods, strict=True)]
        found = weighted_gradients(policy, rollouts_of_round.sequences.flatten(0, 1), length, torch.cat(weights))
        for i, gradients in enumerate(found.split([len(weight) for weight in weights])):
            # A batch without a gradient points nowhere: its cosine is 0.
            single[i].append(normalize(gradients, dim=1, eps=1e-30) @ unit.T)

    cosines: dict[str, Any] = {name: {} for name in names}
    for i, (name, m) in enumerate(methods):
        batches = torch.cat(single[i])
        cosines[name][str(m)] = {
            kind: {
                "direction": direction(halves[:, i], reference[kind]),
                "half": torch.cosine_similarity(halves[:, i], reference[kind].flip(0), dim=1).mean().item(),
                "batch": batches[:, column].mean().item(),
                "batch_std": batches[:, column].std(correction=min(1, len(batches) - 1)).item(),
            }
            for column, kind in enumerate(REFERENCES)
        }
    curve = best_of_n_curve(rollouts.rewards.double().numpy(), [1, N]).values
    return {
        "best_of": dict(zip(("1", str(N)), curve.tolist(), strict=True)),
        "reward_std": rollouts.rewards.std(1).mean().item(),
        "reference": {
            kind: {
                "split_half": torch.cosine_similarity(*gradients, dim=0).item(),
                "ceiling": ceiling(gradients),
            }
            for kind, gradients in reference.items()
        },
        "cosines": cosines,
    }


def run_one(name: str, seed: int, names: Sequence[str], budget: Budget) -> dict[str, Any]:
    """:func:`check` of a task's base model."""
    task, policy = base_policy(tasks()[name], seed)
    if task.num_train < budget.prompts:
        raise ValueError(f"{name} has {task.num_train} prompts to train on, fewer than {budget.prompts}")
    # vmap has no rule for the fused attention and would loop over the rollouts.
    policy.set_attn_implementation("eager")
    start = time.perf_counter()
    found = check(task, policy, [method for method in names if applicable(method, name)], budget, seed)
    return {"task": name, "seed": seed, **found, "seconds": time.perf_counter() - start}


def without_nan(value: Any) -> Any:
    """NaN to None, which JSON can hold."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


# --- Tables. ---


def interval(values: list[float]) -> str:
    """Mean ± half of the 95 % interval of Student's t."""
    if len(values) < 2:
        return f"{np.mean(values):.2f}" if values else "–"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.2f} ± {half:.2f}"


def cells(rows: list[dict[str, Any]], name: str, quantity: str, kind: str) -> Iterator[list[float]]:
    """Per m, the values of the rows; those of methods and seeds without one are left out."""
    for m in SIZES:
        values = (row["cosines"].get(name, {}).get(str(m), {}).get(kind, {}).get(quantity) for row in rows)
        yield [value for value in values if value is not None]


def gains(rows: list[dict[str, Any]], name: str, quantity: str, kind: str) -> list[str]:
    """Per m, the difference from :data:`REFERENCE` in the same rollouts, over tasks and seeds."""
    result = []
    for m in SIZES:
        differences = []
        for row in rows:
            mine, other = (row["cosines"].get(which, {}).get(str(m)) for which in (name, REFERENCE))
            if mine is not None and other is not None and None not in (mine[kind][quantity], other[kind][quantity]):
                differences.append(mine[kind][quantity] - other[kind][quantity])
        result.append(interval(differences))
    return result


def report(result: dict[str, Any], kind: str = "plain") -> str:
    """The section of the README."""
    rows, budget = result["rows"], Budget(**result["budget"])
    names = [name for name in METHODS if any(name in row["cosines"] for row in rows)]
    header = [f"m = {m}" for m in SIZES]
    seeds = len({row["seed"] for row in rows})
    text = [
        f"`{COMMAND}`: cosine with the empirical best-of-{N} gradient of the frozen base model (all its parameters; "
        f"{budget.prompts * budget.rollouts:,} rollouts, {budget.prompts} prompts), of the expected gradient of each "
        f"estimator, which shows its bias, and of one batch of {BATCH} rollouts, m per prompt, which shows bias and "
        f"spread. Advantages as in training; a memory holds {N} - m rewards of the same policy, none of them stale. ± "
        f"is half of the 95 % interval over {seeds} seeds, each with tables, base model and rollouts of its own. The "
        "noise of the reference is taken out of both, that of the estimator out of its expectation: 1 is the "
        "ceiling, and values beyond it are noise. `bon_max_second` and `max_at_m` are the same estimator (A/A check)."
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        known = [name for name in names if any(name in row["cosines"] for row in mine)]
        agreement = interval([row["reference"][kind]["split_half"] for row in mine])
        text.append(f"**{task}** ({tasks()[task].reward_kind}; cosine of the two halves of the reference: {agreement})")
        for quantity, label in QUANTITIES.items():
            body = [[name, *map(interval, cells(mine, name, quantity, kind))] for name in known]
            text.append(table([label, *header], body))
    if len(rows) > 1:
        text.append(
            f"Difference from `{REFERENCE}` in the same rollouts, mean over tasks and seeds ± half of the 95 % "
            "interval over these:"
        )
        for quantity, label in QUANTITIES.items():
            body = [[name, *gains(rows, name, quantity, kind)] for name in names if name != REFERENCE]
            text.append(table([label, *header], body))
    text.append(describe(result["environment"]))
    return "\n\n".join(text)


def publish(path: Path, text: str) -> bool:
    """Put the text into the README's section, which is appended where it is missing; False without a README."""
    if not path.is_file():
        return False
    content = path.read_text(encoding="utf-8")
    if "<!-- mechanism -->" not in content:
        addition = "\n## Where the gradients point\n\n<!-- mechanism -->\n<!-- /mechanism -->\n"
        path.write_text(content.rstrip("\n") + "\n" + addition, encoding="utf-8")
    replace_section(path, "mechanism", text)
    return True


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=sorted(tasks()), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(NAMES))
    for name, value in asdict(Budget()).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"see Budget; default {value}")
    parser.add_argument("--output", type=Path, help="the JSON file; the README is written without it only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(**{name: getattr(arguments, name) for name in asdict(Budget())})
    found = environment()
    rows = []
    pairs = [(task, seed) for task in arguments.tasks for seed in arguments.seeds]
    for task, seed in tqdm(pairs, desc="mechanism"):
        rows.append(without_nan(run_one(task, seed, arguments.methods, budget)))
    result = {
        "command": COMMAND,
        "environment": found,
        "budget": asdict(budget),
        "n": N,
        "batch": BATCH,
        "references": REFERENCES,
        "rows": rows,
    }
    path = arguments.output or RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    text = report(result)
    print(text)
    if arguments.output is None and not publish(README, text):
        print(f"\n{README.name} is not there: nothing written but {path.name}")


if __name__ == "__main__":
    main()
