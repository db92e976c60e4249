"""Several small Llamas as one: the models of :mod:`benchmarks.training.policy`, with one matrix product for all.

A run of a model this small is calls and not arithmetic. Runs of the same shape are trained side by side instead, their
weights stacked; every model has its own rollouts, generator and optimizer state, so that its run is the one that it has
alone. A prompt is run once for all of its completions. Checked against transformers' model by
``tests/benchmarks/test_stack.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Shape:
    """Of a `LlamaForCausalLM` with tied embeddings and as many key as query heads."""

    vocab: int
    width: int
    inner: int
    layers: int
    heads: int
    positions: int
    epsilon: float
    theta: float

    @classmethod
    def of(cls, model: Any) -> Shape:
        config = model.config
        theta = config.rope_parameters["rope_theta"]
        return cls(
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.max_position_embeddings,
            config.rms_norm_eps,
            theta,
        )

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def pieces(self) -> list[tuple[int, ...]]:
        """Shapes of the weights of one model, in order: embeddings, per layer six, the last norm."""
        d, f = self.width, self.inner
        layer: list[tuple[int, ...]] = [(d,), (d, 3 * d), (d, d), (d,), (d, 2 * f), (f, d)]
        return [(self.vocab, d), *layer * self.layers, (d,)]

    def rotations(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines (positions, head / 2)."""
        frequency = self.theta ** (-torch.arange(0, self.head, 2, dtype=torch.float32) / self.head)
        angle = torch.arange(self.positions, dtype=torch.float32)[:, None] * frequency
        return angle.cos(), angle.sin()


def _weights_of(model: Any, shape: Shape) -> Tensor:
    """(D,) all weights of a model."""
    found = [model.model.embed_tokens.weight]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight))
        found += [layer.input_layernorm.weight, qkv.T]
        found += [attention.o_proj.weight.T, layer.post_attention_layernorm.weight]
        found += [torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).T, mlp.down_proj.weight.T]
    found.append(model.model.norm.weight)
    return torch.cat([piece.detach().reshape(-1) for piece in found]).float()


def _softmax(scores: Tensor) -> Tensor:
    """Over a last dimension of a dozen, for which torch's own is slow."""
    e = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


class Stack:
    """S models of one shape.

    Args:
        flat: (S, D) float32, the weights of each in a row.
        shape: Of each of them.
    """

    def __init__(self, flat: Tensor, shape: Shape) -> None:
        self.flat, self.shape = flat, shape
        self._rotations = shape.rotations()
        self._future = torch.full((shape.positions, shape.positions), -torch.inf).triu(1)

    @classmethod
    def of(cls, models: Sequence[nn.Module]) -> Stack:
        """Copies of transformers' models."""
        shape = Shape.of(models[0])
        return cls(torch.stack([_weights_of(model, shape) for model in models]), shape)

    def __len__(self) -> int:
        return len(self.flat)

    def __getitem__(self, index: int) -> Stack:
        """One of them, as a stack of one."""
        return Stack(self.flat.detach()[index].unsqueeze(0), self.shape)  # an IndexError beyond the last

    def __iter__(self) -> Iterator[Stack]:
        return (self[i] for i in range(len(self)))

    def _weights(self) -> tuple[Tensor, list[tuple[Tensor, ...]], Tensor]:
        """Embeddings (S, V, d), per layer (qkv, o, gate and up, down), and unembedding (S, d, V).

        The norms' weights are multiplied into the matrices after them, and the scale of the attention into q.
        """
        shape = self.shape
        sizes = [torch.Size(piece).numel() for piece in shape.pieces]
        embed, *rest, last = (
            part.view(-1, *piece) for part, piece in zip(self.flat.split(sizes, 1), shape.pieces, strict=True)
        )
        scale = torch.ones(3 * shape.width)
        scale[: shape.width] = shape.head**-0.5
        layers = []
        for i in range(shape.layers):
            norm, qkv, out, second, up, down = rest[6 * i : 6 * i + 6]
            layers.append((norm.unsqueeze(2) * qkv * scale, out, second.unsqueeze(2) * up, down))
        return embed, layers, (embed * last.unsqueeze(1)).transpose(1, 2)

    def _normed(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.shape.width,), None, self.shape.epsilon)

    def _qkv(self, x: Tensor, qkv: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v (S, B, heads, T, head) of x (S, B, T, d), the first of T at that position."""
        s, b, t, _ = x.shape
        heads, head = self.shape.heads, self.shape.head
        found = torch.bmm(self._normed(x).view(s, b * t, -1), qkv).view(s, b, t, 3, heads, head)
        cos, sin = (of[first : first + t, None, None] for of in self._rotations)
        one, two = found[..., :2, :, :].chunk(2, dim=-1)
        q, k = torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1).unbind(3)
        return q.transpose(2, 3), k.transpose(2, 3), found[..., 2, :, :].transpose(2, 3)

    def _after(self, x: Tensor, attended: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """The residual stream x (S, B, T, d) with what was attended (S, B, heads, T, head), and the MLP."""
        s, b, t, d = x.shape
        x = x.view(s, b * t, d)
        x = torch.baddbmm(x, attended.transpose(2, 3).reshape(s, b * t, d), out)
        gate, value = torch.bmm(self._normed(x), up).chunk(2, dim=-1)
        return torch.baddbmm(x, functional.silu(gate) * value, down).view(s, b, t, d)

    def _embedded(self, embed: Tensor, tokens: Tensor) -> Tensor:
        """(S, B, T, d) of tokens (S, B, T)."""
        s = len(embed)
        offset = torch.arange(s)[:, None, None] * self.shape.vocab
        return functional.embedding(tokens + offset, embed.reshape(-1, embed.shape[-1]))

    def _prompt(self, prompts: Tensor, weights: Any) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits (S, P, V) after prompts (S, P, L), and keys and values per layer."""
        embed, layers, unembed = weights
        length = prompts.shape[2]
        x = self._embedded(embed, prompts)
        past = []
        for qkv, out, up, down in layers:
            q, k, v = self._qkv(x, qkv, 0)
            past.append((k, v))
            scores = q @ k.transpose(-1, -2) + self._future[:length, :length]
            x = self._after(x, _softmax(scores) @ v, out, up, down)
        return torch.bmm(self._normed(x[:, :, -1]), unembed), past

    @torch.no_grad()
    def sample(
        self, prompts: Tensor, num_generations: int, length: int, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Completions (S, P * m, T) of prompts (S, P, L), groups contiguous, at temperature 1.

        Args:
            prompts: Of each model.
            num_generations: m.
            length: T.
            generators: One per model.
        """
        s, p, start = prompts.shape
        m, shape = num_generations, self.shape
        weights = self._weights()
        embed, layers, unembed = weights
        logits, past = self._prompt(prompts, weights)
        logits = logits.repeat_interleave(m, dim=1)
        kept = [torch.empty(2, s, p, m, shape.heads, length - 1, shape.head) for _ in layers]
        tokens = torch.empty(s, p * m, length, dtype=torch.long)
        for t in range(length):
            probabilities = logits.softmax(-1)
            for i, generator in enumerate(generators):
                tokens[i, :, t] = torch.multinomial(probabilities[i], 1, generator=generator)[:, 0]
            if t == length - 1:
                break
            x = self._embedded(embed, tokens[:, :, t : t + 1])
            for (qkv, out, up, down), (key, value), own in zip(layers, past, kept, strict=True):
                q, k, v = (of.view(s, p, m, shape.heads, shape.head) for of in self._qkv(x, qkv, start + t))
                own[0, ..., t, :], own[1, ..., t, :] = k, v
                mine = own[:, ..., : t + 1, :]
                # (S, P, heads, m, L): the prompt's keys are those of all of its completions.
                before = q.transpose(2, 3) @ key.transpose(-1, -2)
                now = (q.unsqueeze(-2) * mine[0]).sum(-1)
                attention = _softmax(torch.cat((before.transpose(2, 3), now), dim=-1))
                attended = (attention[..., :start].transpose(2, 3) @ value).transpose(2, 3)
                attended = attended + (attention[..., start:].unsqueeze(-1) * mine[1]).sum(-2)
                x = self._after(x, attended.reshape(s, p * m, shape.heads, 1, shape.head), out, up, down)
            logits = torch.bmm(self._normed(x[:, :, 0]), unembed)
        return tokens

    def all_log_probs(self, prompts: Tensor, completions: Tensor) -> Tensor:
        """(S, B, T, V) log-probabilities of every token where completions (S, B, T) of prompts (S, P, L) go on.

        B = P * m, groups contiguous.
        """
        s, p, start = prompts.shape
        b, length = completions.shape[1:]
        m = b // p
        weights = self._weights()
        embed, layers, unembed = weights
        first, past = self._prompt(prompts, weights)
        first = first.log_softmax(-1).repeat_interleave(m, dim=1).unsqueeze(2)
        if length == 1:
            return first
        x = self._embedded(embed, completions[:, :, :-1])
        end = start + length - 1
        for (qkv, out, up, down), shared in zip(layers, past, strict=True):
            q, k, v = self._qkv(x, qkv, start)
            keys, values = (
                torch.cat((of.repeat_interleave(m, dim=1), own), dim=3) for of, own in zip(shared, (k, v), strict=True)
            )
            scores = q @ keys.transpose(-1, -2) + self._future[start:end, :end]
            x = self._after(x, _softmax(scores) @ values, out, up, down)
        logits = torch.bmm(self._normed(x).view(s, b * (length - 1), -1), unembed)
        return torch.cat((first, logits.view(s, b, length - 1, -1).log_softmax(-1)), dim=2)

    def log_probs(self, prompts: Tensor, completions: Tensor) -> Tensor:
        """(S, B, T) of the completions' own tokens; arguments as :meth:`all_log_probs`."""
        return self.all_log_probs(prompts, completions).gather(-1, completions.unsqueeze(-1)).squeeze(-1)


class Adam:
    """Adam over the weights (S, D) of a stack, one learning rate and one bound on the gradient's norm per model.

    Args:
        flat: (S, D), the weights: changed in place, with their gradient in ``flat.grad``.
    """

    def __init__(self, flat: Tensor) -> None:
        self.flat, self.steps = flat, 0
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)

    @torch.no_grad()
    def step(self, learning_rates: Tensor, max_norms: Tensor) -> None:
        """One step at learning rates (S,), each model's gradient scaled down to a norm of at most max_norms (S,)."""
        gradient = self.flat.grad
        assert gradient is not None
        norm = gradient.norm(dim=1)
        gradient.mul_((max_norms / (norm + 1e-6)).clamp(max=1.0)[:, None])
        self.steps += 1
        one, two = ADAM_BETAS
        self.mean.lerp_(gradient, 1.0 - one)
        self.square.mul_(two).addcmul_(gradient, gradient, value=1.0 - two)
        scale = (self.square / (1.0 - two**self.steps)).sqrt_().add_(ADAM_EPSILON)
        self.flat.addcdiv_(self.mean * (-learning_rates[:, None] / (1.0 - one**self.steps)), scale)
        self.flat.grad = None
