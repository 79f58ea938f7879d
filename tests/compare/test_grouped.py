"""Experts in one grouped matmul: those that no token reached, or only padded ones, are in nobody's way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ckptdbg as cd

EXPERTS, SIZE, WORDS = 6, 8, 11
UNREACHED = 3


def forward(params, inputs):
    """One layer of experts, one of them per token, in order of the experts."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    hidden = params["embedding"][ids] * mask[..., None]
    flat = hidden.reshape(-1, SIZE)
    weight, chosen = jax.lax.top_k(flat @ params["router"], 1)
    order = jnp.argsort(chosen[:, 0])
    sizes = jnp.bincount(chosen[:, 0], length=EXPERTS).astype(jnp.int32)
    out = jax.lax.ragged_dot(flat[order], params["experts"], sizes)
    back = jnp.zeros_like(out).at[order].set(out) * weight
    return (back.reshape(hidden.shape) + hidden) @ params["head"]


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {
        "embedding": (WORDS, SIZE),
        "router": (SIZE, EXPERTS),
        "experts": (EXPERTS, SIZE, SIZE),
        "head": (SIZE, WORDS),
    }
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    made["router"][:, UNREACHED] = 0.0
    made["embedding"][:, 0], made["router"][0] = 1.0, 5.0  # a token's score is far above that expert's zero
    made["router"][0, UNREACHED] = -5.0
    return made


def compared(source, target, mask):
    text = "".join(f"- {{source: {name}, target: {name}}}\n" for name in source)
    mapping = cd.Mapping.loads(f"version: 1\nentries:\n{text}")
    ids = np.random.default_rng(1).integers(0, WORDS, size=(2, 7))
    models = (cd.JaxModel(forward, {n: jnp.asarray(v) for n, v in params.items()}) for params in (source, target))
    return cd.compare_models(*models, mapping, {"input_ids": ids, "attention_mask": mask})


@pytest.mark.parametrize("padded", [0, 3])
def test_experts_that_no_token_reached(params, padded):
    mask = np.ones((2, 7), np.int64)
    mask[1, 7 - padded :] = 0
    healthy = compared(params, params, mask)
    assert not [f for f in healthy.findings if f.effect == "diverges"]
    assert any("[3]" in row.name and "no token reached it" in row.reason for row in healthy.not_compared)
    wrong = {name: value.copy() for name, value in params.items()}
    wrong["experts"][1:] *= 1.5
    result = compared(params, wrong, mask)
    assert result.verdict == "divergent"
    assert {entry.name for finding in result.findings for entry in finding.entries} == {"experts"}
