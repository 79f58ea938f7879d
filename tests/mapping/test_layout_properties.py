"""Whatever ops a mapping chains, probing reads the very index map that they apply, and that of the way back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from op_chains import OPS, Shapes, chains, losses, numbered, run, undoing

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping import layout as prober
from ckptdbg.mapping.layout import Along, Layout, read_layouts
from ckptdbg.mapping.ops import REGISTRY, Array, Of, Op, OpError, Pad, Reshape, Scale, Transpose

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _matrix(array: Array) -> Array:
    """Half of the axes to each side, as an operand has them."""
    return array.reshape(math.prod(array.shape[: array.ndim // 2]), -1)


def _probed(shapes: Shapes, ops: list[Op]) -> list[Layout]:
    specs = {str(i): TensorSpec(shape, "float32") for i, shape in enumerate(shapes)}
    return read_layouts(lambda read: [_matrix(x) for x in run(ops, [read(name) for name in specs])], specs)


def _over(along: Along, shape: tuple[int, int]) -> Array:
    values = np.asarray(along.values)
    assert values.shape == {"constant": (), "feature": shape[:1], "contraction": shape[1:], "mixed": shape}[along.role]
    return np.broadcast_to(values[:, None] if along.role == "feature" else values, shape)


def _numbers(layout: Layout, shapes: Shapes) -> Array:
    """The number, of those that ``numbered`` gives, behind every element of an operand; 0 where there is none."""
    coordinates = [_over(c, layout.shape).astype(int) for c in layout.coordinates]
    ordinal, *index = coordinates
    nowhere = np.any([c < 0 for c in coordinates], axis=0)
    found = np.zeros(layout.shape)
    for i, numbers in enumerate(numbered(shapes)):
        here = (ordinal == i) & ~nowhere
        found[here] = numbers[tuple(part[here] for part in index[: numbers.ndim])]
    return found


def _places_only(op: Op) -> Op:
    """The op, padding with 0: the number of no element."""
    if isinstance(op, Of):
        return replace(op, inner=_places_only(op.inner))
    return replace(op, value=0.0) if isinstance(op, Pad) else op


def _different(rows: Array) -> bool:
    """Whether some of the rows differ. Padding beside rows that do not shows in the shape, not in the coordinates."""
    return bool((rows != rows[:1]).any())


def assert_read_exactly(shapes: Shapes, ops: list[Op]) -> None:
    """The layouts of a chain's results against the chain itself, on distinct numbers and on random ones."""
    moved = run([_places_only(op) for op in ops if not op.elementwise], numbered(shapes))
    rng = np.random.default_rng(len(ops))
    random = [rng.normal(size=shape) for shape in shapes]
    values = np.concatenate([[0.0], *(x.reshape(-1) for x in random)])
    for layout, due, made in zip(_probed(shapes, ops), map(_matrix, moved), run(ops, random), strict=True):
        assert layout.opaque is None
        alive = due > 0
        told = alive | (_different(due[alive.any(1)]) & _different(due.T[alive.any(0)]))
        np.testing.assert_array_equal(np.where(told, _numbers(layout, shapes), 0), due)
        scale, shift = (_over(x, layout.shape) for x in (layout.scale, layout.shift))
        predicted = np.where(alive, values[due.astype(int)] * scale, 0) + shift
        np.testing.assert_allclose(predicted, _matrix(made), rtol=1e-9, atol=1e-9)


def test_the_chains_hold_every_op_that_has_a_layout() -> None:
    assert set(OPS) == set(REGISTRY) - {"opaque"}


@QUICK
@given(chains())
def test_a_chain_is_read_exactly(chain: tuple[Shapes, list[Op]]) -> None:
    shapes, ops = chain
    event(f"{len(ops)} ops")
    assert_read_exactly(shapes, ops)


@QUICK
@given(chains())
def test_the_way_back_is_read_exactly(chain: tuple[Shapes, list[Op]]) -> None:
    shapes, ops = chain
    try:
        back = undoing(ops, shapes)
    except OpError:
        assume(False)
        raise
    made = [x.shape for x in run(ops, numbered(shapes))]
    assert_read_exactly(made, back)
    there_and_back = [*ops, *back]
    assert_read_exactly(shapes, there_and_back)
    for layout, own in zip(_probed(shapes, there_and_back), map(_matrix, numbered(shapes)), strict=True):
        found = _numbers(layout, shapes)
        if not losses(ops, shapes):  # else the elements that are left are in their places: read exactly, see above
            np.testing.assert_array_equal(found, own)
            np.testing.assert_allclose(layout.scale.values, 1, rtol=1e-12)
            np.testing.assert_allclose(layout.shift.values, 0, atol=1e-12)


FAULTS = {
    "axes counted from the end": ("_axis_label", lambda true: lambda specs, axis: true(specs, 1 - axis)),
    "indices reversed": ("_axis_label", lambda true: lambda specs, axis: lambda name: -true(specs, axis)(name)),
    "what varies is taken for constant": (
        "_reduce_plain",
        lambda true: lambda array: Along("constant", np.asarray(array.flat[0])),
    ),
    "a mixed operand by its first row": (
        "_reduce_plain",
        lambda true: lambda array: x if (x := true(array)).role != "mixed" else true(array[:1].repeat(len(array), 0)),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_prober_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain: list[Op] = [Transpose(), Reshape((6, 2)), Scale(3.0)]
    assert_read_exactly([(4, 3)], chain)
    name, faulty = FAULTS[fault]
    monkeypatch.setattr(prober, name, faulty(getattr(prober, name)))
    with pytest.raises((AssertionError, IndexError)):
        assert_read_exactly([(4, 3)], chain)
