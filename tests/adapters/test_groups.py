import numpy as np
import pytest
import torch

from tea.adapters.groups import any_in_group, group_layout

SIZES = [5, 2, 9, 3, 9, 4]


def loop_layout(ids):
    """{id: positions in the order given}."""
    members = {}
    for i, key in enumerate(ids):
        members.setdefault(key, []).append(i)
    return members


def shuffled(make_id, seed=0):
    ids = [make_id(i) for i, size in enumerate(SIZES) for _ in range(size)]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    return [ids[i] for i in order]


FORMS = {
    "strings": lambda ids: ids,
    "tuple": tuple,
    "object array": lambda ids: np.array(ids, dtype=object),
    "string array": np.array,
    "integers": lambda ids: [int(i[1:]) * 7 - 11 for i in ids],
    "integer array": lambda ids: np.array([int(i[1:]) for i in ids]),
    "tensor": lambda ids: torch.tensor([int(i[1:]) - 3 for i in ids]),
    "prompt tokens": lambda ids: torch.tensor([[1, int(i[1:]) // 2, int(i[1:]) % 2, 0] for i in ids]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_layout_against_a_loop(form, seed):
    ids = shuffled(lambda i: f"u{i}", seed)
    layout = group_layout(FORMS[form](ids))
    values = torch.arange(1.0, len(ids) + 1)
    padded = layout.pad(values, 0.0)
    assert layout.shape == (len(SIZES), max(SIZES)) == padded.shape
    rows = {tuple(row[row > 0].tolist()) for row in padded}
    assert rows == {tuple(i + 1.0 for i in group) for group in loop_layout(ids).values()}  # in the order given
    # Every row is filled from the left.
    filled = padded > 0
    assert torch.equal(filled, filled.sort(dim=1, descending=True).values)
    assert torch.equal(layout.flatten(padded), values)


def test_uncounted_rows_have_no_place():
    ids = ["a", "pad", "b", "a", "b", "pad", "b", "pad"]
    counted = torch.tensor([i != "pad" for i in ids])
    layout = group_layout(ids, counted=counted)
    padded = layout.pad(torch.arange(1.0, 9.0), torch.nan)
    torch.testing.assert_close(padded, torch.tensor([[1.0, 4.0, torch.nan], [3.0, 5.0, 7.0]]), equal_nan=True)
    assert layout.flatten(padded).tolist() == [1.0, 0.0, 3.0, 4.0, 5.0, 0.0, 7.0, 0.0]


def test_empty():
    layout = group_layout([])
    assert layout.shape == (0, 2)
    assert layout.flatten(layout.pad(torch.empty(0), 0.0)).shape == (0,)


@pytest.mark.parametrize("form", ["strings", "integers", "tensor", "prompt tokens"])
def test_singletons_are_refused_and_named(form):
    ids = FORMS[form](["u0", "u0", "u1", "u2", "u2", "u3"])
    names = {
        "strings": "'u1', 'u3'",
        "integers": "-4, 10",
        "tensor": "-2, 0",
        "prompt tokens": r"\[1, 0, 1, 0\], \[1, 1, 1, 0\]",
    }
    with pytest.raises(ValueError, match=f"2 of 4 groups have a single rollout: ids {names[form]}. .*'zero'"):
        group_layout(ids)
    assert group_layout(ids, singletons="zero").shape == (4, 2)


def test_an_id_for_every_rollout_is_named_in_part():
    with pytest.raises(ValueError, match=r"32 of 32 groups .* ids 0, 1, 2, 3, 4, \.\.\.\. An advantage"):
        group_layout(range(32))
    with pytest.raises(ValueError, match="f81d4fae-7dec-11d0-a765-00a0c91e6bf6"):  # a whole UUID, to search for
        group_layout(["f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "b", "b"])


def test_all_alone_by_choice():
    layout = group_layout([3, 1, 2], singletons="zero")
    assert layout.shape == (3, 2)  # estimators want two columns
    assert layout.pad(torch.tensor([30.0, 10.0, 20.0]), torch.nan)[:, 0].tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, "1", 1, "1"], TypeError, "of one type, got int, str"),
        (["a", None, "a", None], TypeError, "given and of one type, got NoneType, str"),
        (np.array([None, None], dtype=object), TypeError, "got NoneType"),
        ([float("nan")] * 2, ValueError, "must not be NaN"),
        (torch.tensor([torch.nan] * 2), ValueError, "must not be NaN"),
        ([[1, 2], [1, 2]], ValueError, r"one per rollout, got an array of shape \(2, 2\)"),
        (torch.zeros(2, 2, 2), ValueError, r"got \(2, 2, 2\)"),
    ],
)
def test_bad_ids(ids, error, message):
    with pytest.raises(error, match=message):
        group_layout(ids)


def test_bad_option():
    with pytest.raises(ValueError, match="singletons must be 'error' or 'zero', got 'drop'"):
        group_layout([1, 1], singletons="drop")


def test_any_in_group():
    flags = torch.tensor([False, True, False, False, False])
    assert any_in_group(["a", "a", "b", "c", "b"], flags).tolist() == [True, True, False, False, False]
    with pytest.raises(ValueError, match="got 5 rollouts, 2 group ids"):
        any_in_group(["a", "a"], flags)
