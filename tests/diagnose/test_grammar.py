"""For every mistake that the grammar knows there is an edit that makes the right tensor of the wrong entry."""

from __future__ import annotations

import numpy as np
import pytest

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.diagnose.edit import Edit
from ckptdbg.diagnose.grammar import edits, second_edits
from ckptdbg.mapping import BoundEntry, Mapping

SIZES = {"heads": 6, "kv_heads": 2, "head_dim": 8, "experts": 12, "width": 5}
TEXT = """version: 1
variables: {heads: heads, kv_heads: kv_heads, head_dim: head_dim, experts: experts}
entries:
  - name: entry
    source: source
    target: target
"""
HALVES = {"rearrange": "(h two d) m -> (h d two) m", "two": 2, "h": "heads"}
PARTLY = [0, 2, 1, 3, 4, 5, 6, 7]  # of 8, the first 4 from halves to neighbours


def entry_of(ops: list[dict], shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[BoundEntry, Mapping]:
    mapping = Mapping.loads(TEXT + (f"    ops: {ops}\n" if ops else ""), "mapping.yaml")
    specs = {"source": TensorSpec(shape, "float32")}, {"target": TensorSpec(target, "float32")}
    return mapping.bind(SIZES, *specs).entries[0], mapping


def made(entry: BoundEntry, edit: Edit | None = None) -> np.ndarray:
    value = np.random.default_rng(0).standard_normal(entry.source_specs[0].shape)
    entry = entry if edit is None else edit.applied(entry, {})
    return entry.apply([value], cast=False)[0]


def partly(x: np.ndarray) -> np.ndarray:
    return x.reshape(6, 8, -1)[:, PARTLY].reshape(x.shape)


CASES = {
    "rotary order of all": ([], (48, 5), lambda x: x.reshape(6, 2, 4, 5).swapaxes(1, 2).reshape(48, 5)),
    "rotary order of a part of each head": ([], (48, 5), partly),
    "the same of a bias": ([], (48,), lambda x: partly(x[:, None])[:, 0]),
    "rotary order of a norm": ([], (8,), lambda x: x.reshape(2, 4).T.ravel()),
    "rotary order of a part of a norm": ([], (8,), lambda x: x[PARTLY]),
    "rotary order of a bias": ([], (48,), lambda x: x.reshape(6, 2, 4).swapaxes(1, 2).ravel()),
    "heads repeated, not tiled": ([], (48, 5), lambda x: x.reshape(2, 3, 8, 5).swapaxes(0, 1).reshape(48, 5)),
    "experts sorted as text": ([], (12, 5), lambda x: x[sorted(range(12), key=str)]),
    "heads of another count": (
        [{**HALVES, "h": "kv_heads"}],
        (48, 5),
        lambda x: x.reshape(6, 2, 4, 5).swapaxes(1, 2).reshape(48, 5),
    ),
    "a scale left out": ([], (48, 5), lambda x: x / 8**0.5),
    "a scale too many": ([{"scale": "head_dim ** -0.5"}], (48, 5), lambda x: x),
}


@pytest.mark.parametrize("name", CASES)
def test_an_edit_mends_it_and_can_be_written(name):
    ops, shape, right = CASES[name]
    entry, mapping = entry_of(ops, shape, shape)
    wanted = right(np.random.default_rng(0).standard_normal(shape))
    assert not np.allclose(made(entry), wanted), "nothing is wrong here"
    mending = [e for e in edits(entry, mapping, SIZES) if np.allclose(made(entry, e), wanted, rtol=1e-12)]
    assert mending
    edit = min(mending, key=lambda e: e.cost)
    written = edit.written(mapping).bind(SIZES, {"source": entry.source_specs[0]}, {"target": entry.target_specs[0]})
    np.testing.assert_allclose(made(written.entries[0]), wanted, rtol=1e-6)


def test_two_mistakes_in_one_entry_are_one_edit():
    entry, mapping = entry_of([], (48, 5), (48, 5))
    value = np.random.default_rng(0).standard_normal((48, 5))
    wanted = partly(value) / 8**0.5
    singles = [e for e in edits(entry, mapping, SIZES) if not e.changes_source]
    assert not any(np.allclose(made(entry, e), wanted) for e in singles)
    both = [s for first in singles for s in second_edits(entry, first, mapping, SIZES)]
    mending = [e for e in both if np.allclose(made(entry, e), wanted, rtol=1e-12)]
    assert mending
    assert len(mending[0].written(mapping).ops("entry")) == len(mending[0].data)


def test_an_entry_keeps_its_shape():
    entry, mapping = entry_of([], (48, 5), (48, 5))
    assert all(made(entry, e).shape == (48, 5) for e in edits(entry, mapping, SIZES))


STACKED = """version: 1
entries:
  - name: stacked
    source: layers.{layer}.experts.{expert}.w
    target: layers_{layer}/experts
    stack: [{over: expert, axis: 0}]
    for: {layer: "0 .. 2", expert: [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]}
  - name: swapped
    source: ["layers.{layer + 1 - 2 * (layer % 2)}.a", "layers.{layer + 1 - 2 * (layer % 2)}.b"]
    target: layers/ab
    stack: [{over: layer, axis: 1}]
    for: {layer: 0 .. 4}
    ops:
      - concat: 0
"""
STACKED_SOURCE = {f"layers.{i}.experts.{e}.w": TensorSpec((3, 5), "float32") for i in range(2) for e in range(12)}
STACKED_SOURCE |= {f"layers.{i}.{n}": TensorSpec((2, 5), "float32") for i in range(4) for n in "ab"}
STACKED_TARGET = {f"layers_{i}/experts": TensorSpec((12, 3, 5), "float32") for i in range(2)}
STACKED_TARGET |= {"layers/ab": TensorSpec((4, 4, 5), "float32")}


@pytest.mark.parametrize("name", ["stacked", "swapped"])
def test_what_is_stacked_in_another_order_is_put_in_that_of_its_numbers(name):
    mapping = Mapping.loads(STACKED, "mapping.yaml")
    bound = {e.name: e for e in mapping.bind({}, STACKED_SOURCE, STACKED_TARGET).entries}
    (edit,) = [e for e in edits(bound[name], mapping, {}) if e.lanes is not None]
    wanted = sorted(bound[name].sources, key=lambda n: [int(p) if p.isdigit() else 0 for p in n.split(".")])
    assert list(bound[name].sources) != wanted, "nothing is wrong here"
    mended = edit.applied(bound[name], {})
    assert list(mended.sources) == wanted
    written = edit.written(mapping).bind({}, STACKED_SOURCE, STACKED_TARGET)
    assert next(e for e in written.entries if e.name == name).sources == (
        mended.sources if mended.layer is None else tuple(n.replace("layers.1", "layers.0") for n in mended.sources)
    )
    again = edit.written(mapping)
    sound = {e.name: e for e in again.bind({}, STACKED_SOURCE, STACKED_TARGET).entries}
    assert [e for e in edits(sound[name], again, {}) if e.lanes is not None] == []
