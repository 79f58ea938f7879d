"""What looks like a fault and is none, and faults that look like nothing: on a small torch decoder written here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import ckptdbg as cd
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

VOCABULARY, WIDTH, HEADS = 23, 16, 4
IDS = {"input_ids": np.random.default_rng(3).integers(0, VOCABULARY, (2, 7))}


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.2 * torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = Norm(), Norm()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        y = self.n1(x)
        q, k, v = (m(y).view(batch, length, HEADS, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.silu(self.up(self.n2(x))))


class Decoder(nn.Module):
    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(16, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = Norm(), nn.Linear(WIDTH, vocabulary, bias=False)

    def body(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(input_ids))


class First(Decoder):
    """Its output reads the first token only."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(input_ids)[:, :1])


class Experts(nn.Module):
    """Two of four experts, chosen by a score plus a bias that does not enter their weights."""

    def __init__(self, biased: bool = True) -> None:
        super().__init__()
        self.embed, self.router = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 4, bias=False)
        self.bias, self.biased = nn.Parameter(0.5 * torch.randn(4)), biased
        self.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)])
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids).view(-1, WIDTH)
        scores = self.router(x).sigmoid()
        chosen = (scores + self.bias if self.biased else scores).topk(2, -1).indices
        weights = scores.gather(-1, chosen)
        y = sum(e(x) * (weights * (chosen == i)).sum(-1, keepdim=True) for i, e in enumerate(self.experts))
        return self.head(x + y).view(*input_ids.shape, VOCABULARY)


def pair(make: Callable[[], nn.Module], other: Callable[[], nn.Module] | None = None) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    source = make().eval()
    return source, (other or make)().eval()


def compare(source: nn.Module, target: nn.Module, ops: Mapping[str, Any] | None = None) -> Result:
    """Fill the target through the mapping (name to name, with these ops) and compare."""
    ops = ops or {}
    entries = [{"name": n, "source": n, "target": n, "ops": ops.get(n, [])} for n in source.state_dict()]
    mapping = cd.Mapping.from_dict({"version": 1, "variables": {}, "entries": entries})
    from ckptdbg.models.loaders import wrap_model

    specs = wrap_model(source).specs, wrap_model(target).specs
    bound = mapping.bind({}, *specs)
    made = {n: torch.from_numpy(np.array(v)) for n, v, _ in bound.values(wrap_model(source).read)}
    target.load_state_dict(made)
    return cd.compare_models(source, target, mapping, IDS)


@pytest.mark.parametrize(
    "ops",
    [
        {"blocks.0.v.weight": [{"scale": 3.0}], "blocks.0.o.weight": [{"scale": 1 / 3}]},
        {"blocks.1.q.weight": [{"scale": 5.0}], "blocks.1.k.weight": [{"scale": 0.2}]},
        {"blocks.0.q.weight": [{"scale": 2.0}], "blocks.0.k.weight": [{"scale": 0.5}]},
    ],
    ids=["v and o", "q and k, not a power of two", "q and k"],
)
def test_a_scale_that_is_undone_is_no_fault(ops):
    assert compare(*pair(Decoder), ops).verdict == "equivalent"


def test_a_scale_that_is_not_undone_is_one():
    result = compare(*pair(Decoder), {"blocks.1.q.weight": [{"scale": 5.0}]})
    assert result.verdict == "divergent"
    assert result.findings[0].entries[0].name == "blocks.1.q.weight"


def test_an_anchor_without_a_partner_raises_no_alarm_elsewhere():
    def normed() -> nn.Module:
        model = Decoder()
        weight_norm(model.blocks[0].o)  # its weight is a product of two tensors: no index map
        return model

    result = compare(*pair(normed))
    assert result.verdict == "equivalent"
    assert any("index probes" in row.reason for row in result.not_compared)
    faulty = compare(*pair(normed), {"blocks.1.v.weight": [{"scale": 2.0}]})
    assert [[e.name for e in f.entries] for f in faulty.findings] == [["blocks.1.v.weight"]]


def test_a_padded_vocabulary_is_compared_as_far_as_it_goes():
    ops = {name: [{"pad": VOCABULARY + 3, "axis": 0}] for name in ("embed.weight", "head.weight")}
    result = compare(*pair(Decoder, lambda: Decoder(VOCABULARY + 3)), ops)
    assert result.verdict == "equivalent"
    assert {s.site for s in result.sites} >= {"embed.weight", "head.weight"}


def test_a_vocabulary_in_another_order_is_a_fault_of_the_output():
    ops = {"head.weight": [{"rearrange": "v d -> v d"}]}
    assert compare(*pair(Decoder), ops).verdict == "equivalent"
    source, target = pair(lambda: Decoder(24))
    result = compare(source, target, {"head.weight": [{"rearrange": "(a b) d -> (b a) d", "a": 2}]})
    assert result.verdict == "divergent"
    assert result.findings[0].entries[0].name == "head.weight"


def test_a_wrong_tensor_that_the_output_does_not_read_is_still_wrong():
    source, target = pair(First)
    compare(source, target)
    with torch.no_grad():
        target.get_parameter("positions.weight")[3] += 1
    entries = [{"name": n, "source": n, "target": n} for n in source.state_dict()]
    result = cd.compare_models(source, target, cd.Mapping.from_dict({"version": 1, "entries": entries}), IDS)
    assert result.verdict == "divergent"
    assert [e.name for f in result.findings for e in f.entries] == ["positions.weight"]


def test_a_choice_that_differs_by_more_than_rounding_is_found():
    assert compare(*pair(Experts)).verdict == "equivalent"
    negated = compare(*pair(Experts), {"bias": [{"scale": -1.0}]})
    assert negated.verdict == "divergent"
    assert "bias" in {e.name for f in negated.findings for e in f.entries}
    forgotten = compare(*pair(Experts, lambda: Experts(biased=False)))
    assert forgotten.verdict == "divergent"


def test_a_mapped_tensor_that_nothing_exercises_is_not_called_right():
    def spare() -> nn.Module:
        model = Decoder()
        model.register_parameter("spare", nn.Parameter(torch.randn(5, 5)))
        return model

    result = compare(*pair(spare), {"spare": [{"transpose": [1, 0]}]})
    assert result.verdict == "cannot-tell"
    assert any(row.name == "spare" for row in result.not_compared)


def test_one_small_factor_in_a_rounded_tensor_is_seen():
    source, target = pair(Decoder)
    compare(source, target)
    target = copy.deepcopy(target)
    with torch.no_grad():
        weight = target.get_parameter("blocks.0.up.weight")
        weight *= 1.0000007  # within four roundings of every single element
    entries = [{"name": n, "source": n, "target": n} for n in source.state_dict()]
    result = cd.compare_models(source, target, cd.Mapping.from_dict({"version": 1, "entries": entries}), IDS)
    assert [e.name for f in result.findings for e in f.entries] == ["blocks.0.up.weight"]


@pytest.mark.parametrize(("wrong", "verdict"), [(0.0, "equivalent"), (1e-4, "divergent")])
def test_what_is_stored_wider_than_it_was_computed_is_no_fault(wrong, verdict, tmp_path):
    """A conversion that computes in single precision, as torch does, and writes doubles."""
    config = build_sample(tmp_path, "qwen3_to_nnx", num_hidden_layers=1)
    session = open_session(config)
    tensors = {name: np.asarray(session.target.read(name)).astype(np.float64) for name in session.made}
    tensors["decoder/layers_0/self_attention/query_norm/scale"][3] *= 1 + wrong
    save_file(tensors, session.config.target.path)
    result = open_session(config).compare()
    assert (result.verdict, [f.kind for f in result.findings]) == (verdict, ["tensor"] if wrong else [])
