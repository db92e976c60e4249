"""Every estimator of the index, and every option of theirs that changes the graph, compiles whole."""

import pytest
import torch

from tests.estimators.test_contract import SPECS, call, draw, every_estimator, gen

plain_estimator = pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.options], ids=str)


def compare(spec, backend, shapes, dtype, **tolerance):
    torch.compiler.reset()

    def function(rewards, mask):
        return call(spec, rewards, mask, monotone=True)

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for shape in shapes:
        rewards = draw(spec, shape, seed=25, dtype=dtype)
        mask = torch.rand(shape, generator=gen(26)) < 0.8
        torch.testing.assert_close(compiled(rewards, mask), function(rewards, mask), **tolerance)


@every_estimator
def test_compiles_to_one_graph(spec):
    # Traces what inductor would; only the code is not generated.
    compare(spec, "aot_eager", [(8, 16)], torch.float64, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@plain_estimator
def test_compiled_code_computes_the_same(spec):
    compare(spec, "inductor", [(8, 16)], torch.float32, rtol=1e-3, atol=1e-4)


@plain_estimator
def test_compiled_follows_the_shape(spec):
    compare(spec, "eager", [(4, 16), (4, 8), (9, 24)], torch.float64, rtol=1e-9, atol=1e-9)
