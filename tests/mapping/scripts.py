"""What conversion scripts do besides moving tensors about: each function must survive being traced."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

LAYERS, EXPERTS = 3, 4


def low_precision(state):
    """bf16 and fp16 on the way."""
    for name, weight in state.items():
        yield name, weight.to(torch.bfloat16).movedim(0, -1).to(torch.float16).contiguous().float()


def in_place(state):
    """The input is changed, through a view and by slices, before and after it is taken."""
    query = state["q.weight"]
    taken = query.T
    query[:4] *= 2.0
    query.view(-1)[:3].zero_()
    state["norm.weight"].add_(1)
    return {"q": query, "taken": taken, "norm": state["norm.weight"]}


def dropped_and_tied(state):
    """Some tensors are left out, some go to two places."""
    head = state.pop("embed.weight")
    state.clear()
    return {"embed": head, "head": head, "head_again": head.clone()}


def padded(state):
    """Rows added in two ways."""
    embed = state["embed.weight"]
    table = torch.full((embed.shape[0] + 5, embed.shape[1]), 0.5)
    table[2 : 2 + embed.shape[0]] = embed
    return {"after": F.pad(embed, (0, 0, 0, 3)), "between": table}


def stacked(state):
    """Experts and layers stacked, written one by one into an array made first, and by stack."""
    first = state["l.0.e.0.w"]
    every = torch.empty(EXPERTS, LAYERS, *first.shape[::-1])
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            every[expert, layer] = state[f"l.{layer}.e.{expert}.w"].T
    rows = [torch.stack([state[f"l.{i}.e.{e}.w"] for e in range(EXPERTS)]) for i in range(LAYERS)]
    return {"written": every, "stacked": torch.stack(rows, 1).to(torch.bfloat16)}


def unstacked(state):
    """Every layer and expert a tensor of its own."""
    fused = state["fused"]
    for layer in range(fused.shape[1]):
        for expert in range(fused.shape[0]):
            yield f"l.{layer}.e.{expert}.w", fused[expert, layer].T.contiguous()


def split(state):
    """Fused weights taken apart, in a row and interleaved by group."""
    q, k, v = state["qkv.weight"].split([8, 4, 4])
    gate, up = state["gate_up.weight"].unflatten(0, (-1, 2)).unbind(1)
    grouped = state["qkv.weight"].reshape(4, 4, -1)
    return {"q": q, "k": k, "v": v, "gate": gate, "up": up, "queries": grouped[:, :2].reshape(8, -1)}


def pytree(state):
    """Lists in dicts, arrays of NumPy's beside tensors."""
    table = np.arange(4.0)
    layers = [{"w": state["q.weight"].T}, {"w": state["k.weight"] * 3.0}]
    return {"layers": layers, "norm": (state["norm.weight"],), "table": table}


def rows_moved(state):
    """Rows rolled, repeated, and in a listed order."""
    weight = state["q.weight"]
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    return {"rolled": weight.roll(3, 0), "repeated": weight.repeat_interleave(2, 0), "listed": weight[order]}


def scaled(state, config):
    """Factors and shifts, before and after a cast."""
    dim = config["head_dim"]
    return {
        "divided": state["q.weight"] / dim**0.5,
        "times": (state["k.weight"] * dim**-0.5).to(torch.bfloat16),
        "norm": state["norm.weight"] - 1,
    }


SHAPES = {
    "low_precision": {"q.weight": (8, 6), "norm.weight": (6,)},
    "in_place": {"q.weight": (8, 6), "norm.weight": (6,)},
    "dropped_and_tied": {"embed.weight": (11, 6), "inv_freq": (3,)},
    "padded": {"embed.weight": (11, 6)},
    "stacked": {f"l.{i}.e.{e}.w": (5, 6) for i in range(LAYERS) for e in range(EXPERTS)},
    "unstacked": {"fused": (EXPERTS, LAYERS, 5, 6)},
    "split": {"qkv.weight": (16, 6), "gate_up.weight": (14, 6)},
    "pytree": {"q.weight": (8, 6), "k.weight": (4, 6), "norm.weight": (6,)},
    "rows_moved": {"q.weight": (8, 6)},
    "scaled": {"q.weight": (160, 70), "k.weight": (80, 70), "norm.weight": (70,)},
}
# No op says how these are made (part of a tensor is scaled; rows are cut and put together again), or of what.
LEFT = {"in_place": {"q", "taken"}, "pytree": {"table"}}


def takes_a_value(state):
    weight = state["q.weight"]
    return {"q": weight if weight.abs().max() > 1 else -weight}


def leaves_torch(state):
    return {"q": torch.from_numpy(state["q.weight"].numpy().T.copy())}


def looks_at_memory(state):
    weights = list(state.values())
    return {f"w{i}": w for i, w in enumerate(weights) if w.data_ptr() != weights[0].data_ptr() or i == 0}


def draws(state):
    return {"q": state["q.weight"] + torch.rand(6)}


def draws_elsewhere(state):
    return {"q": state["q.weight"] * float(np.random.default_rng().random())}
