"""One contract for every estimator of the index. A new entry is covered without a change here.

What an entry may declare that the others do not have is in the tables below, and each exception is tested to be one.
"""

import copy
import math
from dataclasses import dataclass, field

import pytest
import torch

import tea
from tea.estimators import EstimatorSpec
from tea.estimators.families import FAMILIES
from tests.reference import estimators as reference

F64 = torch.float64

# Values for options without a default. A new required option needs a line here.
REQUIRED = {"target_n": 64, "k": 2, "rank_weights": (0.5, 0.3, 0.2)}
# Needs 0/1 rewards.
BINARY = {"pass_at_n", "passk_binary"}
# Needs rewards that are not negative.
NONNEGATIVE = {"max_rl"}
# Depends on the size of the rewards: multiplying them does not multiply the advantages.
NONLINEAR = {"rs_grpo", "max_rl"}
# Keeps TRL's rounding error of the mean in a constant group, bit for bit.
ROUNDED_MEAN = {"grpo"}
# Depends on the order in which the rollouts were sampled.
ORDERED = {"prefix_tea"}
# Learns from all prompts of the batch, whatever its options.
POOLED = {"eb_bon"}
# Smallest group.
MINIMUM = {"prefix_tea": 4, "order_stat": 4, "max_po": 3}
# Nondecreasing in the reward by the formula.
MONOTONE = {spec.name for spec in tea.list_estimators()} - {"tea", "prefix_tea", "ladder", "cat_bon"}


@dataclass(frozen=True)
class Case:
    """An entry of the index, with options other than the defaults."""

    entry: EstimatorSpec
    options: dict = field(default_factory=dict)

    @property
    def name(self):
        return self.entry.name

    @property
    def parameters(self):
        return self.entry.parameters

    @property
    def pooled(self):
        """Whether it learns something from all prompts of the batch together."""
        return (
            self.name in POOLED
            or self.options.get("prior") == "fit"
            or self.options.get("tail") in ("gpd", "auto")
            or self.options.get("tail_fraction") == "auto"
        )

    def __str__(self):
        return "-".join([self.name, *map(str, self.options.values())])


SPECS = [Case(entry) for entry in tea.list_estimators()]
for entry in tea.list_estimators():
    if "tail" in entry.parameters:
        SPECS += [Case(entry, {"tail": tail}) for tail in FAMILIES if tail != entry.parameters["tail"].default]
    if "auto" in str(getattr(entry.parameters.get("tail_fraction"), "annotation", "")):
        SPECS.append(Case(entry, {"tail_fraction": "auto"}))
    if "prior" in entry.parameters:
        SPECS.append(Case(entry, {"prior": "fit"}))
    if "size" in entry.parameters:
        SPECS += [Case(entry, {"rank_weights": name, "size": 3}) for name in ("median", "quantile:0.8", "cvar:0.5")]
    if "standardize" in entry.parameters:
        SPECS.append(Case(entry, {"standardize": False}))
every_estimator = pytest.mark.parametrize("spec", SPECS, ids=str)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def call(spec: Case, rewards, mask=None, **options):
    required = {
        name: REQUIRED[name] for name, parameter in spec.parameters.items() if parameter.default is parameter.empty
    }
    return tea.get_estimator(spec.name, **(required | spec.options | options))(rewards, mask=mask)


def unscaled(spec: Case, rewards, mask=None, **options):
    return call(spec, rewards, mask, **({"scale": "none"} | options))


def magnitude(spec, rewards, mask=None):
    """Size of a group's advantages before the projection, which may leave nothing of them; (P, 1)."""
    return unscaled(spec, rewards.double(), mask, monotone=False).abs().amax(1, keepdim=True)


def draw(spec, shape, seed=0, dtype=F64):
    """Rewards that the estimator takes: normal, their absolute values, or 0/1."""
    if spec.name in BINARY:
        return torch.randint(0, 2, shape, generator=gen(seed)).to(dtype)
    normal = torch.randn(shape, generator=gen(seed), dtype=F64)
    return (normal.abs() if spec.name in NONNEGATIVE else normal).to(dtype)


def size(spec, m):
    return max(m, MINIMUM.get(spec.name, 2))


@every_estimator
def test_the_tables_name_only_what_exists(spec):
    names = {s.name for s in SPECS}
    assert BINARY | NONNEGATIVE | NONLINEAR | ROUNDED_MEAN | ORDERED | POOLED | set(MINIMUM) | MONOTONE <= names
    for name, parameter in spec.parameters.items():
        assert parameter.default is not parameter.empty or name in REQUIRED


# --- Shape and dtype ---


@every_estimator
@pytest.mark.parametrize("shape", [(1, 4), (3, 5), (7, 16), (2, 33)])
def test_shape(spec, shape):
    rewards = draw(spec, shape)
    before = rewards.clone()
    advantages = call(spec, rewards)
    assert advantages.shape == shape
    assert torch.isfinite(advantages).all()
    assert torch.equal(rewards, before), "the input is left alone"


@every_estimator
def test_no_prompts(spec):
    assert call(spec, torch.zeros(0, 8)).shape == (0, 8)


@every_estimator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64, torch.int64])
def test_dtype(spec, dtype):
    rewards = draw(spec, (6, 8), dtype=F64)
    rewards = (rewards * 4).round().to(dtype) if spec.name not in BINARY else rewards.to(dtype)
    advantages = call(spec, rewards)
    assert advantages.dtype == (F64 if dtype == F64 else torch.float32)
    torch.testing.assert_close(advantages.double(), call(spec, rewards.double()), rtol=2e-4, atol=2e-4)


@every_estimator
def test_float32_is_float64_up_to_rounding(spec):
    rewards = draw(spec, (200, 16), seed=3).float()
    single, double = unscaled(spec, rewards).double(), unscaled(spec, rewards.double())
    error = (single - double).abs() / magnitude(spec, rewards).clamp(min=1e-6)
    error = error.amax(1)
    assert error.quantile(0.9) < 1e-5
    assert error.max() < 1e-2


@every_estimator
def test_no_gradient_flows(spec):
    rewards = draw(spec, (4, 8)).requires_grad_()
    assert not call(spec, rewards).requires_grad


@every_estimator
def test_non_contiguous_rewards(spec):
    rewards = draw(spec, (8, 6))
    assert torch.equal(call(spec, rewards.t()), call(spec, rewards.t().contiguous()))


@every_estimator
def test_deterministic(spec):
    rewards = draw(spec, (32, 16))
    assert torch.equal(call(spec, rewards), call(spec, rewards))


# --- Symmetries ---


@every_estimator
def test_permutation_equivariance(spec):
    rewards = draw(spec, (50, 8), seed=1)
    permutation = torch.randperm(8, generator=gen(2))
    moved = call(spec, rewards[:, permutation])
    expected = call(spec, rewards)[:, permutation]
    if spec.name in ORDERED:
        assert not torch.allclose(moved, expected, rtol=1e-3)
        assert "Not equivariant under permutations" in spec.entry.function.__doc__
    else:
        torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-10)


@every_estimator
def test_prompts_do_not_see_each_other(spec):
    rewards = draw(spec, (12, 8), seed=4)
    together = unscaled(spec, rewards)
    apart = torch.cat([unscaled(spec, row[None]) for row in rewards])
    if not spec.pooled:
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    order = torch.randperm(12, generator=gen(5))
    torch.testing.assert_close(call(spec, rewards[order]), call(spec, rewards)[order], rtol=1e-12, atol=1e-12)


@every_estimator
@pytest.mark.parametrize("shift", [-3.0, 0.37, 1e3])
def test_shift_invariance(spec, shift):
    if spec.name in BINARY:
        with pytest.raises(ValueError, match="must be 0 or 1"):
            call(spec, draw(spec, (4, 8)) + shift)
        return
    if spec.name in NONNEGATIVE:
        rewards = draw(spec, (4, 8))
        assert not torch.allclose(call(spec, rewards + abs(shift)), call(spec, rewards))
        with pytest.raises(ValueError, match="must not be negative"):
            call(spec, draw(spec, (4, 8)) - 3.0)
        return
    rewards = draw(spec, (20, 8), seed=6)
    torch.testing.assert_close(call(spec, rewards + shift), call(spec, rewards), rtol=1e-7, atol=1e-8)


@every_estimator
@pytest.mark.parametrize("factor", [0.01, 3.0, 1e4])
def test_scale_equivariance(spec, factor):
    if spec.name in BINARY:
        return  # refused: the shift test
    rewards = draw(spec, (20, 8), seed=7)
    scaled, plain = unscaled(spec, rewards * factor), unscaled(spec, rewards)
    homogeneous = torch.allclose(scaled, plain * factor, rtol=1e-8, atol=1e-10 * factor)
    assert homogeneous == (spec.name not in NONLINEAR)


@every_estimator
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_scale_divides_by_the_reward_standard_deviation(spec, scale):
    rewards = draw(spec, (20, 16), seed=8)
    std = rewards.std(dim=1, keepdim=True) if scale == "group" else rewards.std()
    expected = unscaled(spec, rewards) / (std + 1e-4)
    torch.testing.assert_close(call(spec, rewards, scale=scale), expected, rtol=1e-10, atol=1e-12)


@every_estimator
def test_center_sums_to_zero_and_only_shifts(spec):
    rewards = draw(spec, (50, 12), seed=9)
    mask = torch.rand(50, 12, generator=gen(10)) < 0.8
    centred = unscaled(spec, rewards, mask)
    raw = unscaled(spec, rewards, mask, center=False)
    size = magnitude(spec, rewards, mask).clamp(min=1e-9)
    assert (centred.sum(1, keepdim=True).abs() / size < 1e-12).all()
    count = mask.sum(1, keepdim=True)
    mean = raw.sum(1, keepdim=True) / count
    expected = torch.where(mask & (count > 1), raw - mean, 0.0)
    torch.testing.assert_close(centred, expected, rtol=1e-9, atol=1e-9)


# --- The monotone option ---


@every_estimator
def test_monotone_option_is_the_projection(spec):
    rewards = draw(spec, (30, 16), seed=11)
    raw = unscaled(spec, rewards, center=False, monotone=False)
    projected = unscaled(spec, rewards, center=False, monotone=True)
    for p in range(30):
        expected = reference.isotonic(raw[p].tolist(), rewards[p].tolist())
        torch.testing.assert_close(projected[p], torch.tensor(expected, dtype=F64), rtol=1e-10, atol=1e-10)


@every_estimator
def test_monotone_option_orders_advantages_by_reward(spec):
    rewards = draw(spec, (200, 16), seed=12, dtype=torch.float32)
    mask = torch.rand(200, 16, generator=gen(13)) < 0.8
    advantages = call(spec, rewards, mask, monotone=True)
    pair_order = rewards.unsqueeze(2) > rewards.unsqueeze(1)
    both = mask.unsqueeze(2) & mask.unsqueeze(1)
    difference = advantages.unsqueeze(2) - advantages.unsqueeze(1)
    assert (difference[pair_order & both] >= 0).all()
    equal = (rewards.unsqueeze(2) == rewards.unsqueeze(1)) & both
    assert (difference[equal] == 0).all()


@every_estimator
def test_monotone_by_formula_or_not(spec):
    """Whether the formula itself is monotone, so that the documentation can say so."""
    rewards = draw(spec, (500, 16), seed=14)
    advantages = unscaled(spec, rewards, monotone=False)
    sorted_rewards, order = rewards.sort(dim=1)
    steps = advantages.gather(1, order).diff(dim=1)
    decreasing = ((steps < -1e-9) & (sorted_rewards.diff(dim=1) > 0)).any()
    assert bool(decreasing) == (spec.name not in MONOTONE)


# --- Degenerate groups, missing rewards ---


@every_estimator
@pytest.mark.parametrize("value", [0.0, 1.0, -7.3, 1e-30, 1e30])
@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_constant_group_gives_zeros(spec, value, monotone, dtype):
    if (spec.name in BINARY and value not in (0.0, 1.0)) or (spec.name in NONNEGATIVE and value < 0.0):
        return
    rewards = draw(spec, (3, 16), dtype=dtype)
    rewards[1] = value
    advantages = call(spec, rewards, monotone=monotone)
    assert (advantages[0] != 0).any()
    if spec.name in ROUNDED_MEAN:
        rounding = unscaled(spec, rewards, monotone=monotone)[1].abs().max()
        assert rounding <= 4 * torch.finfo(dtype).eps * abs(value)
    else:
        assert (advantages[1] == 0).all()


@every_estimator
def test_nan_rewards_count_as_masked(spec):
    rewards = draw(spec, (40, 12), seed=15)
    mask = torch.rand(40, 12, generator=gen(16)) < 0.7
    missing = torch.where(mask, rewards, math.nan)
    by_mask, by_nan = call(spec, rewards, mask), call(spec, missing)
    assert torch.equal(by_mask, by_nan)
    assert torch.equal(call(spec, missing, mask), by_nan)
    assert (by_nan[~mask] == 0).all()


@every_estimator
def test_garbage_behind_the_mask_changes_nothing(spec):
    rewards = draw(spec, (20, 12), seed=17)
    mask = torch.rand(20, 12, generator=gen(18)) < 0.7
    for garbage in (math.inf, -math.inf, 1e300, math.nan):
        dirty = torch.where(mask, rewards, garbage)
        assert torch.equal(call(spec, dirty, mask), call(spec, rewards, mask))


@every_estimator
@pytest.mark.parametrize("monotone", [False, True])
def test_masked_group_is_the_group_of_its_valid_rollouts(spec, monotone):
    """Unequal group sizes: each as if it were alone, at its own size."""
    if spec.pooled:
        pytest.skip("no group is alone: the tail is learnt from the whole batch")
    rewards = draw(spec, (60, 16), seed=19)
    mask = torch.rand(60, 16, generator=gen(20)) < torch.linspace(0.3, 1.0, 60)[:, None]
    together = unscaled(spec, rewards, mask, monotone=monotone)
    sizes = set()
    for p in range(60):
        group = rewards[p][mask[p]][None]
        count = group.shape[1]
        sizes.add(count)
        if count < 2:
            assert (together[p] == 0).all()
        elif count >= MINIMUM.get(spec.name, 2):
            alone = unscaled(spec, group, monotone=monotone)
            torch.testing.assert_close(together[p][mask[p]], alone[0], rtol=1e-9, atol=1e-9)
        else:
            assert torch.isfinite(together[p]).all()
    assert len(sizes) > 6


@every_estimator
def test_empty_and_singleton_groups_give_zeros(spec):
    rewards = draw(spec, (4, 8))
    rewards[0] = math.nan
    rewards[1, 1:] = math.nan
    for scale in ("none", "group", "batch"):
        for monotone in (False, True):
            advantages = call(spec, rewards, scale=scale, monotone=monotone)
            assert (advantages[:2] == 0).all()
            assert torch.isfinite(advantages).all()
            assert (advantages[2:] != 0).any()


@every_estimator
def test_smallest_group(spec):
    smallest = MINIMUM.get(spec.name, 2)
    options = {"k": 1} if "k" in spec.parameters else {}
    advantages = call(spec, draw(spec, (50, smallest), seed=21), **options)
    assert torch.isfinite(advantages).all()
    assert (advantages != 0).any()
    if smallest > 2:
        with pytest.raises(
            ValueError, match=rf"{smallest - 1} generations per prompt|generations per prompt \({smallest - 1}\)"
        ):
            call(spec, draw(spec, (4, smallest - 1)))
    with pytest.raises(ValueError, match=r"at least 2 generations per prompt|rank_weights must be fewer"):
        call(spec, torch.zeros(4, 1), **options)


@every_estimator
def test_ties_share_one_advantage(spec):
    if spec.name in ORDERED:
        pytest.skip("its advantages depend on the sampling order: only the projection shares them")
    rewards = torch.randint(0, 2 if spec.name in BINARY else 4, (100, 12), generator=gen(22)).to(F64)
    advantages = call(spec, rewards)
    equal = rewards.unsqueeze(2) == rewards.unsqueeze(1)
    difference = (advantages.unsqueeze(2) - advantages.unsqueeze(1)).abs()
    assert difference[equal].max() <= 1e-12 * advantages.abs().max()


# --- Extreme values ---


@every_estimator
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e15, 1e30])
@pytest.mark.parametrize("monotone", [False, True])
def test_extreme_scales_in_float32(spec, size, monotone):
    if spec.name in BINARY:
        return
    rewards = draw(spec, (50, 16), seed=23)
    advantages = unscaled(spec, (rewards * size).float(), monotone=monotone)
    assert torch.isfinite(advantages).all()
    expected = unscaled(spec, (rewards * size).float().double(), monotone=monotone)
    relative = ((advantages.double() - expected).abs() / magnitude(spec, (rewards * size).float())).amax(1)
    assert relative.quantile(0.9) < 1e-4
    for scale in ("group", "batch"):
        assert torch.isfinite(call(spec, (rewards * size).float(), scale=scale, monotone=monotone)).all()


def adversarial(num_prompts, m, generator):
    """Matrices made to break things: ties, outliers, huge offsets, tiny gaps, mixed signs, missing rewards."""
    kinds = torch.randint(0, 8, (num_prompts, 1), generator=generator)
    normal = torch.randn(num_prompts, m, generator=generator, dtype=F64)
    exponent = torch.randint(-30, 31, (num_prompts, 1), generator=generator).to(F64)
    uniform = torch.rand(num_prompts, m, generator=generator, dtype=F64)
    candidates = (
        normal * 10**exponent,
        normal.round(),  # ties
        (uniform < 0.1).to(F64) * 10 ** exponent.clamp(max=20),  # one or two outliers
        1e6 + normal,  # far from zero
        1.0 + normal * 1e-7,  # gaps of the size of rounding
        torch.sign(normal) * 10 ** (60 * uniform - 30),  # all magnitudes at once
        torch.where(uniform < 0.9, 3.25, normal),  # nearly constant
        (normal > 0).to(F64),
    )
    rewards = torch.stack(candidates).gather(0, kinds.expand(num_prompts, m)[None])[0]
    missing = torch.rand(num_prompts, m, generator=generator) < torch.rand(num_prompts, 1, generator=generator) ** 3
    return torch.where(missing, math.nan, rewards)


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ten_thousand_adversarial_groups(spec, dtype):
    generator = gen(24)
    for m, num_prompts in ((4, 2000), (7, 3000), (16, 4000), (33, 1000)):
        rewards = adversarial(num_prompts, m, generator).to(dtype)
        if spec.name in BINARY:
            rewards = torch.where(rewards.isnan(), math.nan, (rewards > 0).to(dtype))
        if spec.name in NONNEGATIVE:
            rewards = rewards.abs()
        # One batch standard deviation over rewards of 1e30 and 1e-30 is no use to anybody, but it is a number.
        for options in ({}, {"monotone": True}, {"scale": "group"}, {"scale": "batch"}, {"center": False}):
            advantages = call(spec, rewards, **options)
            assert torch.isfinite(advantages).all(), (m, options)
            assert (advantages[rewards.isnan()] == 0).all()


# --- Compiling, devices, pickling ---


@every_estimator
def test_infinite_rewards_come_out_as_nan_where_looking_would_stall(spec, monkeypatch):
    """As on an accelerator: nobody looks, and an infinity must not pass for a number."""
    import tea.estimators.baselines
    import tea.estimators.binary
    import tea.estimators.empirical_bayes
    import tea.estimators.group

    rewards = draw(spec, (3, 8), seed=27)
    expected = unscaled(spec, rewards)
    rewards[1, 2] = math.inf
    with pytest.raises(ValueError, match=r"must be finite|0 or 1"):
        call(spec, rewards)
    modules = ("group", "binary", "baselines", "empirical_bayes")
    for module in (getattr(tea.estimators, name) for name in modules):
        monkeypatch.setattr(module, "values_are_readable", lambda tensor: False)
    advantages = unscaled(spec, rewards)
    assert advantages[1].isnan().all()
    if not spec.pooled:
        torch.testing.assert_close(advantages[[0, 2]], expected[[0, 2]])


@every_estimator
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_cpu_without_a_sync(spec):
    rewards = draw(spec, (64, 16), seed=28)
    mask = torch.rand(64, 16, generator=gen(29)) < 0.8
    expected = call(spec, rewards, mask)
    rewards, mask = rewards.cuda(), mask.cuda()
    call(spec, rewards, mask)  # uploads the constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        advantages = call(spec, rewards, mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(advantages.cpu(), expected, rtol=1e-9, atol=1e-9)


@every_estimator
def test_bound_estimator_can_be_copied(spec):
    required = {n: REQUIRED[n] for n, p in spec.parameters.items() if p.default is p.empty}
    estimator = copy.deepcopy(tea.get_estimator(spec.name, **(required | spec.options)))
    rewards = draw(spec, (3, 8))
    assert torch.equal(estimator(rewards), call(spec, rewards))
