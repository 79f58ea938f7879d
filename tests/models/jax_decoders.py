"""One small decoder (RMSNorm, grouped-query attention with RoPE, gated MLP) in each way that JAX models are written.

Every size is different and every parameter random, so that no transposition and no swap can hide. All of them compute
what ``reference`` computes in NumPy float64.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

LAYERS, EMBED, HEADS, KV_HEADS, HEAD, MLP, VOCAB = 3, 22, 6, 2, 8, 34, 50
BATCH, LENGTH = 2, 7
EPS = 1e-5
LAYER_SHAPES = {
    "norm1": (EMBED,),
    "q": (EMBED, HEADS, HEAD),
    "k": (EMBED, KV_HEADS, HEAD),
    "v": (EMBED, KV_HEADS, HEAD),
    "o": (HEADS, HEAD, EMBED),
    "norm2": (EMBED,),
    "gate": (EMBED, MLP),
    "up": (EMBED, MLP),
    "down": (MLP, EMBED),
}
ANCHORS_PER_LAYER = ("q", "k", "v", "o", "gate", "up", "down")


def ids(seed: int = 0) -> dict[str, np.ndarray]:
    return {"input_ids": np.random.default_rng(seed).integers(0, VOCAB, (BATCH, LENGTH))}


def random_layers(seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{name: _random(rng, shape) for name, shape in LAYER_SHAPES.items()} for _ in range(LAYERS)]


def random_params(seed: int = 0, *, stacked: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed + 1)
    layers: Any = [jax.tree.map(jnp.asarray, layer) for layer in random_layers(seed)]
    if stacked:
        layers = jax.tree.map(lambda *many: jnp.stack(many), *layers)
    return {
        "embed": jnp.asarray(_random(rng, (VOCAB, EMBED))),
        "layers": layers,
        "norm": jnp.asarray(_random(rng, (EMBED,))),
        "head": jnp.asarray(_random(rng, (EMBED, VOCAB))),
    }


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return (1 + 0.2 * rng.normal(size=shape)).astype(np.float32)
    return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def rms_norm(x: Any, scale: Any) -> Any:
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS) * scale


def rope(x: Any) -> Any:
    angle = np.arange(x.shape[1])[:, None] / 1e4 ** (np.arange(0, HEAD, 2) / HEAD)
    cos, sin = (jnp.asarray(f(angle), x.dtype)[:, None] for f in (np.cos, np.sin))
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def attend(q: Any, k: Any, v: Any) -> Any:
    """(batch, length, heads, head) each; the keys' einsum has its operands in the other order."""
    k, v = (jnp.repeat(x, HEADS // KV_HEADS, 2) for x in (k, v))
    scores = jnp.einsum("bshk,bthk->bhts", k, q) / float(np.sqrt(HEAD))
    causal = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, jnp.finfo(scores.dtype).min), -1)
    return jnp.einsum("bshk,bhts->bthk", v, weights)


def layer(x: Any, p: dict[str, Any]) -> Any:
    y = rms_norm(x, p["norm1"])
    q, k = (rope(jnp.einsum("btd,dhk->bthk", y, p[name])) for name in ("q", "k"))
    v = jnp.einsum("dhk,btd->bthk", p["v"], y)  # the other operand order
    x = x + jnp.einsum("bthk,hkd->btd", attend(q, k, v), p["o"])
    y = rms_norm(x, p["norm2"])
    return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]


def unrolled(params: Any, inputs: dict[str, Any]) -> Any:
    x = params["embed"][inputs["input_ids"]]
    for p in params["layers"]:
        x = layer(x, p)
    return rms_norm(x, params["norm"]) @ params["head"]


def scanned(params: Any, inputs: dict[str, Any]) -> Any:
    """``lax.scan`` over stacked layers, each under ``jax.checkpoint`` and a nested ``jit``."""
    step = jax.checkpoint(jax.jit(layer))
    x, _ = lax.scan(lambda x, p: (step(x, p), None), params["embed"][inputs["input_ids"]], params["layers"])
    return rms_norm(x, params["norm"]) @ params["head"]


class NnxLayer(nnx.Module):
    def __init__(self, p: dict[str, Any]) -> None:
        for name, value in p.items():
            setattr(self, name, nnx.Param(jnp.asarray(value)))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.dropout(layer(x, {name: getattr(self, name)[...] for name in LAYER_SHAPES}))


class NnxDecoder(nnx.Module):
    """Unrolled; its input has another name than the usual one."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.embed = nnx.Embed(VOCAB, EMBED, rngs=nnx.Rngs(0))
        self.embed.embedding[...] = params["embed"]
        self.layers = nnx.List([NnxLayer(p) for p in params["layers"]])
        self.norm = nnx.Param(params["norm"])
        self.head = nnx.Linear(EMBED, VOCAB, use_bias=False, rngs=nnx.Rngs(0))
        self.head.kernel[...] = params["head"]

    def __call__(self, tokens: Any) -> dict[str, Any]:
        x = self.embed(tokens)
        for one in self.layers:
            x = one(x)
        return {"hidden": x, "logits": self.head(rms_norm(x, self.norm[...]))}


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any = None) -> tuple[Any, None]:
        p = {name: self.param(name, nn.initializers.ones, shape) for name, shape in LAYER_SHAPES.items()}
        return layer(x, p), None


class LinenDecoder(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, input_ids: Any, position_ids: Any = None) -> Any:
        x = nn.Embed(VOCAB, EMBED, name="embed")(input_ids)
        if self.scan:
            stack = nn.scan(
                nn.remat(LinenLayer), variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
            )
            x, _ = stack(name="layers")(x, None)
        else:
            for i in range(LAYERS):
                x, _ = LinenLayer(name=f"layers_{i}")(x)
        x = rms_norm(x, self.param("norm", nn.initializers.ones, (EMBED,)))
        return nn.Dense(VOCAB, use_bias=False, name="head")(x)


def linen(seed: int = 0, *, scan: bool = False) -> tuple[LinenDecoder, dict[str, Any]]:
    params = random_params(seed, stacked=scan)
    layers = {"layers": params["layers"]} if scan else {f"layers_{i}": p for i, p in enumerate(params["layers"])}
    tree = {
        "embed": {"embedding": params["embed"]},
        **layers,
        "norm": params["norm"],
        "head": {"kernel": params["head"]},
    }
    return LinenDecoder(scan), {"params": tree}


def reference(input_ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """The logits in float64, (batch, length, vocabulary)."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), random_params(seed))
    x = params["embed"][input_ids]
    angle = np.arange(input_ids.shape[1])[:, None] / 1e4 ** (np.arange(0, HEAD, 2) / HEAD)
    # The models hold their tables in float32.
    cos, sin = (f(angle).astype(np.float32).astype(np.float64)[:, None] for f in (np.cos, np.sin))

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + float(np.float32(EPS))) * scale

    def turn(x: np.ndarray) -> np.ndarray:
        a, b = x[..., : HEAD // 2], x[..., HEAD // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    for p in params["layers"]:
        y = norm(x, p["norm1"])
        q, k, v = (np.einsum("btd,dhk->bthk", y, p[name]) for name in "qkv")
        q, k = turn(q), np.repeat(turn(k), HEADS // KV_HEADS, 2)
        v = np.repeat(v, HEADS // KV_HEADS, 2)
        scores = np.einsum("bthk,bshk->bhts", q, k) / float(np.float32(np.sqrt(HEAD)))
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("bhts,bshk,hkd->btd", weights, v, p["o"])
        y = norm(x, p["norm2"])
        gate = y @ p["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ p["up"])) @ p["down"]
    return norm(x, params["norm"]) @ params["head"]


# The same weights in another attention: interleaved RoPE by stacking, grouped queries by a reshape, padding masked.


def padded_ids(seed: int = 0) -> dict[str, np.ndarray]:
    mask = np.ones((BATCH, LENGTH), np.int64)
    mask[1, -2:] = 0
    return {**ids(seed), "attention_mask": mask}


def interleaved_rope(x: Any) -> Any:
    angle = np.arange(x.shape[1])[:, None] / 1e4 ** (np.arange(0, HEAD, 2) / HEAD)
    cos, sin = (jnp.asarray(f(angle), x.dtype)[:, None] for f in (np.cos, np.sin))
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape)


def grouped_layer(x: Any, p: dict[str, Any], attention_mask: Any) -> Any:
    y = rms_norm(x, p["norm1"])
    q, k = (interleaved_rope(jnp.einsum("btd,dhk->bthk", y, p[name])) for name in ("q", "k"))
    v = jnp.einsum("btd,dhk->bthk", y, p["v"])
    batch, length = x.shape[:2]
    q = q.reshape(batch, length, KV_HEADS, HEADS // KV_HEADS, HEAD)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) / float(np.sqrt(HEAD))
    seen = jnp.tril(jnp.ones((length, length), bool)) & (attention_mask[:, None, None, None, :] > 0)
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min), -1)
    out = jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(batch, length, HEADS, HEAD)
    x = x + jnp.einsum("bthk,hkd->btd", out, p["o"])
    y = rms_norm(x, p["norm2"])
    return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]


def grouped_unrolled(params: Any, inputs: dict[str, Any]) -> Any:
    x = params["embed"][inputs["input_ids"]]
    for p in params["layers"]:
        x = grouped_layer(x, p, inputs["attention_mask"])
    return rms_norm(x, params["norm"]) @ params["head"]


def grouped_scanned(params: Any, inputs: dict[str, Any], chosen: bool = False) -> Any:
    """The mask goes around the loop; with ``chosen``, each layer comes in a branch of a ``cond`` by its index."""

    def step(carry: Any, p: dict[str, Any]) -> Any:
        x, i, mask = carry
        run = jax.checkpoint(grouped_layer)
        # A branch takes what it closes over as an operand of the cond.
        branch = lambda x: run(x, p, mask)  # noqa: E731
        x = lax.cond(i % 2 == 0, branch, branch, x) if chosen else branch(x)
        return (x, i + 1, mask), None

    start = params["embed"][inputs["input_ids"]], jnp.int32(0), inputs["attention_mask"]
    (x, *_), _ = lax.scan(step, start, params["layers"])
    return rms_norm(x, params["norm"]) @ params["head"]


class GroupedLayer(nn.Module):
    @nn.compact
    def __call__(self, x: Any, attention_mask: Any) -> tuple[Any, None]:
        p = {name: self.param(name, nn.initializers.ones, shape) for name, shape in LAYER_SHAPES.items()}
        return grouped_layer(x, p, attention_mask), None


class GroupedDecoder(nn.Module):
    """``nn.scan`` over ``nn.remat``."""

    @nn.compact
    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        x = nn.Embed(VOCAB, EMBED, name="embed")(input_ids)
        stack = nn.scan(
            nn.remat(GroupedLayer),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=LAYERS,
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        )
        x, _ = stack(name="layers")(x, attention_mask)
        x = rms_norm(x, self.param("norm", nn.initializers.ones, (EMBED,)))
        return nn.Dense(VOCAB, use_bias=False, name="head")(x)
