"""Every op against plain NumPy, in both directions, in shapes and in text."""

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdbg.errors import MappingError
from ckptdbg.mapping.expressions import Scope
from ckptdbg.mapping.ops import (
    REGISTRY,
    Add,
    Cast,
    Concat,
    Divide,
    Expand,
    Of,
    Opaque,
    OpError,
    Pad,
    Rearrange,
    Reshape,
    Scale,
    Slice,
    Split,
    Squeeze,
    Stack,
    Take,
    Transpose,
    Unstack,
)
from ckptdbg.mapping.parse import parse_op


def arrays(*shapes):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape) for shape in shapes]


def edge(array, widths, value):
    return np.pad(array, widths, constant_values=value)


# op, input shapes, the same in plain NumPy
CASES = {
    "rearrange": (
        Rearrange("(h two d) m -> m h (d two)", {"two": 2, "h": 3}),
        [(24, 5)],
        lambda a: [a.reshape(3, 2, 4, 5).transpose(3, 0, 2, 1).reshape(5, 3, 8)],
    ),
    "rearrange, what the right side leaves open": (
        Rearrange("h d m -> (h d) m"),
        [(3, 4, 5)],
        lambda a: [a.reshape(12, 5)],
    ),
    "rearrange, ellipsis": (
        Rearrange("h d ... -> ... (d h)"),
        [(3, 4, 5)],
        lambda a: [a.transpose(2, 1, 0).reshape(5, 12)],
    ),
    "rearrange of several": (
        Rearrange("two f m -> m (f two)"),
        [(4, 5), (4, 5)],
        lambda a, b: [np.stack([a, b], -1).transpose(1, 0, 2).reshape(5, 8)],
    ),
    "transpose": (Transpose(), [(3, 4)], lambda a: [a.T]),
    "transpose axes": (Transpose((2, 0, -2)), [(3, 4, 5)], lambda a: [a.transpose(2, 0, 1)]),
    "transpose of several": (Transpose(), [(3, 4), (5, 6)], lambda a, b: [a.T, b.T]),
    "reshape": (Reshape((6, -1)), [(3, 4, 5)], lambda a: [a.reshape(6, 10)]),
    "squeeze": (Squeeze(-2), [(3, 1, 4)], lambda a: [a.reshape(3, 4)]),
    "expand": (Expand(-1), [(3, 4)], lambda a: [a[..., None]]),
    "expand, repeated": (Expand(1, 3), [(2, 4)], lambda a: [np.repeat(a[:, None], 3, 1)]),
    "concat": (Concat(-1), [(3, 4), (3, 2), (3, 5)], lambda a, b, c: [np.hstack([a, b, c])]),
    "split": (Split(1, (4, 2, 5)), [(3, 11)], lambda a: [a[:, :4], a[:, 4:6], a[:, 6:]]),
    "split equally": (Split(0, parts=3), [(6, 5)], lambda a: [a[:2], a[2:4], a[4:]]),
    "stack": (Stack(-1), [(3, 4), (3, 4)], lambda a, b: [np.stack([a, b], 2)]),
    "unstack": (Unstack(1), [(3, 2, 4)], lambda a: [a[:, 0], a[:, 1]]),
    "pad": (Pad(7, 0, value=2), [(5, 3)], lambda a: [edge(a, ((0, 2), (0, 0)), 2)]),
    "pad in front": (Pad(7, -1, before=1), [(5, 3)], lambda a: [edge(a, ((0, 0), (1, 3)), 0)]),
    "pad to a shape": (Pad((7, 3, 4)), [(5, 3, 2)], lambda a: [edge(a, ((0, 2), (0, 0), (0, 2)), 0)]),
    "slice": (Slice(1, 1, 4), [(3, 6)], lambda a: [a[:, 1:4]]),
    "slice to the end": (Slice(0, -2), [(5, 3)], lambda a: [a[-2:]]),
    "take": (Take(0, (2, 0, 3, 1)), [(4, 3)], lambda a: [a[[2, 0, 3, 1]]]),
    "divide": (Divide(3.0), [(3, 4)], lambda a: [a / 3.0]),
    "scale in float64": (
        Scale(0.3, dtype="float64"),
        [(3, 4)],
        lambda a: [a * np.float64(0.3)],
    ),
    "of several, some": (
        Of(Rearrange("(h d) m -> m h d", {"h": 2}), (0, 2)),
        [(4, 3), (5, 3), (6, 3)],
        lambda a, b, c: [a.reshape(2, 2, 3).transpose(2, 0, 1), b, c.reshape(2, 3, 3).transpose(2, 0, 1)],
    ),
    "scale": (Scale(0.3), [(3, 4)], lambda a: [a * 0.3]),
    "scale by a rounded number": (
        Scale(0.3, dtype="bfloat16"),
        [(3, 4)],
        lambda a: [a * float(ml_dtypes.bfloat16(0.3))],
    ),
    "add": (Add(1), [(4,)], lambda a: [a + 1]),
    "cast": (Cast("bfloat16"), [(3, 4)], lambda a: [a.astype(ml_dtypes.bfloat16).astype(a.dtype)]),
}
LOSSY = {"slice", "slice to the end", "cast"}


def run(op, values):
    before = [value.copy() for value in values]
    results = op.apply(values)
    assert all(np.array_equal(a, b) for a, b in zip(before, values, strict=True)), "an input was changed"
    return results


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_an_op_does_what_numpy_does_and_keeps_the_dtype(case, dtype):
    op, shapes, expected = CASES[case]
    values = [array.astype(dtype) for array in arrays(*shapes)]
    results = run(op, values)
    for result, right in zip(results, expected(*values), strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, right.astype(dtype))


@pytest.mark.parametrize("case", CASES)
def test_shapes_are_known_without_data(case):
    op, shapes, _ = CASES[case]
    assert op.shapes(shapes) == [result.shape for result in run(op, arrays(*shapes))]


@pytest.mark.parametrize("case", CASES)
def test_the_inverse_gives_back_what_is_not_dropped(case):
    op, shapes, _ = CASES[case]
    values = arrays(*shapes)
    results, undone = run(op, values), op.inverse(shapes)
    for inverse in undone:
        results = run(inverse, results)
    for result, value in zip(results, values, strict=True):
        assert result.shape == value.shape
        if case in LOSSY:
            assert not np.array_equal(result, value)
            assert op.dropped(shapes)
        else:
            np.testing.assert_allclose(result, value, rtol=1e-15)


@pytest.mark.parametrize(
    ("op", "shape", "text"),
    [
        (Slice(0, 0, 5), (7, 3), "drops 2 of 7 on axis 0; the reverse fills them with 0"),
        (Slice(0, 0, 7), (7, 3), ""),
        (Pad((7, 3)), (5, 2), "the reverse drops the padding: 2 of 7 on axis 0, 1 of 3 on axis 1"),
        (Pad((7, 3)), (7, 3), ""),
        (Expand(1, 4), (2, 3), "the reverse reads one of 4 copies on axis 1"),
        (Expand(1), (2, 3), ""),
        (Cast("float16"), (2,), "rounds to float16; the reverse keeps the rounded values"),
        (Transpose(), (2, 3), ""),
    ],
)
def test_what_is_dropped_is_said(op, shape, text):
    assert op.dropped([shape]) == text


def test_a_cast_is_not_made_while_probing():
    value = np.array([1 + 2**-12])
    assert Cast("bfloat16").apply([value], rounding=False)[0] == value
    assert Cast("bfloat16").apply([value])[0] == 1


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (Rearrange("(h d) m -> h d m", {"h": 5}), [(12, 3)], "can't divide axis of length 12 in chunks of 5"),
        (Rearrange("a b -> b a"), [(1, 2, 3)], "expected 2 dims. Received 3-dim tensor"),
        (Rearrange("n a b -> a (n b)"), [(2, 3), (2, 4)], "needs arrays of one shape to treat them as one axis"),
        (Transpose(), [(2, 3, 4)], "without axes is for matrices; of shape (2, 3, 4) name the axes, such as [0, 2, 1]"),
        (Transpose((0, 1)), [(2, 3, 4)], "axes don't match array"),
        (Reshape((5, -1)), [(3, 4)], "cannot reshape array of size 12 into shape (5,"),
        (Squeeze(0), [(3, 4)], "cannot select an axis to squeeze out which has size not equal to one"),
        (Expand(4), [(3, 4)], "axis 4 is out of bounds for array of dimension 3"),
        (Concat(0), [(3, 4), (3, 5)], "needs arrays that differ on axis 0 only, got [(3, 4), (3, 5)]"),
        (Concat(2), [(3, 4)], "has no axis 2: 2 axes"),
        (Split(0, (3, 4)), [(8, 2)], "has sizes [3, 4], together 7, for an axis of 8"),
        (Split(0, parts=3), [(8, 2)], "cannot make 3 equal parts of an axis of 8: give sizes"),
        (Split(0, parts=2), [(8, 2), (8, 2)], "split takes one array, got 2: concat or rearrange them first"),
        (Stack(0), [(3, 4), (4, 3)], "needs arrays of one shape, got [(3, 4), (4, 3)]"),
        (Pad(4, 0), [(5, 3)], "to 4 is smaller than (5, 3): use slice to cut"),
        (Pad((9, 9)), [(5,)], "to [9, 9] has another number of axes than (5,)"),
        (Slice(0, 2, 9), [(5, 3)], "has no 2:9 on an axis of 5"),
        (Slice(0, 3, 3), [(5, 3)], "has no 3:3 on an axis of 5"),
    ],
)
def test_what_does_not_fit_is_said(op, shapes, message):
    with pytest.raises(OpError, match=re.escape(message)):
        op.shapes(shapes)


def test_what_cannot_be_undone_is_said():
    with pytest.raises(OpError, match="by 0 cannot be undone"):
        Scale(0).inverse([(3,)])
    with pytest.raises(OpError, match="cannot be undone for arrays of different shapes"):
        Reshape((6,)).inverse([(2, 3), (3, 2)])


sizes = st.integers(1, 4)


@settings(deadline=None)  # a busy machine is no fault
@given(st.data(), st.lists(sizes, min_size=1, max_size=5))
def test_any_rearrange_is_undone(data, axes):
    names = list("abcde"[: len(axes)])
    order = data.draw(st.permutations(names))

    def groups(names):
        cuts = sorted(data.draw(st.sets(st.integers(1, len(names) - 1)))) if len(names) > 1 else []
        parts = [names[i:j] for i, j in zip([0, *cuts], [*cuts, len(names)], strict=True)]
        return parts, " ".join(f"({' '.join(part)})" if len(part) > 1 else part[0] for part in parts)

    size = dict(zip(names, axes, strict=True))
    left, before = groups(names)
    _, after = groups(order)
    shape = tuple(int(np.prod([size[name] for name in part])) for part in left)
    op = Rearrange(f"{before} -> {after}", {name: size[name] for part in left for name in part[1:]})
    value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    (moved,) = op.apply([value])
    results = [moved]
    for inverse in op.inverse([shape]):
        results = inverse.apply(results)
    np.testing.assert_array_equal(results[0], value)
    assert op.shapes([shape]) == [moved.shape]


@settings(deadline=None)  # a busy machine is no fault
@given(st.data(), st.lists(sizes, min_size=1, max_size=4))
def test_any_transpose_reshape_pad_and_expand_is_undone(data, shape):
    shape = tuple(shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size, before = shape[axis] + data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    ops = [
        Transpose(tuple(data.draw(st.permutations(range(len(shape)))))),
        Reshape((-1,)),
        Pad(size + before, axis, value=7, before=before),
        Expand(axis, data.draw(sizes)),
    ]
    value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    for op in ops:
        results = op.apply([value])
        assert op.shapes([shape]) == [results[0].shape]
        for inverse in op.inverse([shape]):
            results = inverse.apply(results)
        np.testing.assert_array_equal(results[0], value)


def test_indices_that_repeat_or_leave_out_rows_have_no_reverse():
    (value,) = arrays((4, 3))
    np.testing.assert_array_equal(Take(1, (2, 0, 2)).apply([value])[0], value[:, [2, 0, 2]])
    with pytest.raises(OpError, match="leave some out or repeat some"):
        Take(1, (2, 0, 2)).inverse([(4, 3)])
    with pytest.raises(OpError, match="has no index 3 on an axis of 3"):
        Take(1, (0, 3)).shapes([(4, 3)])
    with pytest.raises(OpError, match=r"has no array 2 in `of`: there are 2, counted from 0"):
        Of(Squeeze(0), (2,)).shapes([(1, 3), (1, 3)])


# as written, as it comes back in text, as a record
TEXTS = [
    (
        {"rearrange": "(h d) m -> m h d", "h": "heads"},
        '{rearrange: "(h d) m -> m h d", h: heads}',
        Rearrange("(h d) m -> m h d", {"h": 6}),
    ),
    ({"transpose": [0, 2, 1]}, "transpose: [0, 2, 1]", Transpose((0, 2, 1))),
    ("transpose", "transpose", Transpose()),
    ({"reshape": ["heads", -1, "heads * d"]}, "reshape: [heads, -1, heads * d]", Reshape((6, -1, 48))),
    ({"scale": "d ** -0.5"}, "scale: d ** -0.5", Scale(8**-0.5)),
    ({"scale": {"by": "d", "dtype": "bfloat16"}}, "scale: {by: d, dtype: bfloat16}", Scale(8, dtype="bfloat16")),
    ({"add": 1}, "add: 1", Add(1)),
    ({"concat": 0}, "concat: 0", Concat(0)),
    ({"split": 0}, "split: 0", Split(0, parts=3)),
    ({"split": 1, "sizes": ["d", 2]}, "{split: 1, sizes: [d, 2]}", Split(1, (8, 2))),
    ({"stack": -1}, "stack: -1", Stack(-1)),
    ({"unstack": 2}, "unstack: 2", Unstack(2)),
    ({"pad": "2 * d", "axis": 0, "value": -1.5}, "{pad: 2 * d, axis: 0, value: -1.5}", Pad(16, 0, value=-1.5)),
    ({"pad": ["2 * d", 5]}, "pad: [2 * d, 5]", Pad((16, 5))),
    ({"slice": {"axis": 0, "stop": "d"}}, "slice: {axis: 0, stop: d}", Slice(0, 0, 8)),
    ({"cast": "bfloat16"}, "cast: bfloat16", Cast("bfloat16")),
    ({"take": 0, "indices": [1, 0]}, "{take: 0, indices: [1, 0]}", Take(0, (1, 0))),
    ({"divide": "d ** 0.5"}, "divide: d ** 0.5", Divide(8**0.5)),
    ({"squeeze": 1, "of": [0, 2]}, "{squeeze: 1, of: [0, 2]}", Of(Squeeze(1), (0, 2))),
    ({"squeeze": 1}, "squeeze: 1", Squeeze(1)),
    ({"expand": 1, "size": 3}, "{expand: 1, size: 3}", Expand(1, 3)),
    (
        {"opaque": "c.py:f", "shape": ["heads", "d"], "dtype": "float32"},
        '{opaque: "c.py:f", shape: [heads, d], dtype: float32}',
        Opaque("c.py:f", (6, 8), "float32"),
    ),
]
SCOPE = Scope({"heads": 6, "d": 8})


@pytest.mark.parametrize(("written", "text", "op"), TEXTS, ids=[text for _, text, _ in TEXTS])
def test_an_op_is_read_and_keeps_its_text(written, text, op):
    found = parse_op(written, "m.yaml:7").bind(SCOPE, targets=3)
    assert (found, str(found), found.where) == (op, text, "m.yaml:7")
    assert hash(found) == hash(op)
    # what is made in Python is written so that it reads back as itself
    assert parse_op(op.data(), "m.yaml:7").bind(Scope(), targets=3) == op


def test_every_op_is_covered():
    assert {op.kind for _, _, op in TEXTS} == set(REGISTRY)
    assert {op.kind for op, _, _ in CASES.values()} == set(REGISTRY) - {"opaque"}


def test_an_opaque_op_is_its_function_where_that_is_at_hand_and_nothing_else():
    op = Opaque("c.py:f", (3, 2), "float32")
    stored = [np.arange(6).reshape(2, 3).astype(ml_dtypes.float8_e4m3fn)]
    computed = [array.astype(np.float32) for array in stored]
    with pytest.raises(MappingError, match="and a mapping file runs none; say so in the config"):
        op.apply(computed)
    seen = []

    def make(target, sources):
        seen.append((target, {n: a.dtype.name for n, a in sources.items()}))
        return sources["w"].T.astype(np.float32) * 2

    placed = op.placed(make, ["w"], [stored[0].dtype], "t")
    assert (placed, placed.shapes([(2, 3)]), placed.data()) == (op, [(3, 2)], op.data())
    (made,) = placed.apply(computed)
    assert seen == [("t", {"w": "float8_e4m3fn"})]
    np.testing.assert_array_equal(made, computed[0].T * 2)
    assert placed.apply([computed[0].astype(np.float64)])[0].dtype == np.float64
    with pytest.raises(OpError, match="tells no way back"):
        placed.inverse([(2, 3)])
    with pytest.raises(
        MappingError, match=r"makes another shape than the mapping says; found \(3, 2\); expected \(6,\)"
    ):
        Opaque("c.py:f", (6,), "float32").placed(make, ["w"], [stored[0].dtype], "t").apply(computed)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"rearange": "a b -> b a"}, "m.yaml:7: unknown op rearange; did you mean rearrange?"),
        ("flip", "m.yaml:7: unknown op flip; the ops are add, cast, concat,"),
        (3, "m.yaml:7: not an op; found 3; expected a key such as rearrange"),
        ({"rearrange": "(h d) m -> m h d", "heads": 3}, "m.yaml:7: rearrange has no key heads; it takes"),
        ({"rearrange": "a b"}, "m.yaml:7: rearrange wants an einops pattern such as 'a b -> b a', found 'a b'"),
        ({"rearrange": 3}, "m.yaml:7: pattern of rearrange is not text; found 3"),
        ({"split": 0, "size": [1, 2]}, "m.yaml:7: split has no key size; did you mean sizes?"),
        ({"scale": {"dtype": "bfloat16"}}, "m.yaml:7: scale without by; write scale: <by>"),
        ({"scale": None}, "m.yaml:7: scale without by; write scale: <by>"),
        ({"transpose": 1}, "m.yaml:7: axes of transpose has the wrong form; found 1; expected a list"),
        ({"concat": [1]}, "m.yaml:7: axis of concat has the wrong form; found [1]; expected one value"),
        ({"split": 0, "sizes": 3}, "m.yaml:7: sizes of split has the wrong form; found 3"),
        ({"rearrange": "(h d) -> h d", "h": [3]}, "m.yaml:7: h of rearrange has the wrong form; found [3]"),
        ({"add": True}, "m.yaml:7: not a number or expression; found True"),
        ({"add": "sqrt(2)"}, "m.yaml:7: not arithmetic: 'sqrt(2)'"),
    ],
)
def test_an_op_that_cannot_be_read(written, message):
    with pytest.raises(MappingError) as caught:
        parse_op(written, "m.yaml:7")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"cast": "bf16"}, "m.yaml:7: cast knows no dtype 'bf16'"),
        ({"scale": {"by": 2, "dtype": "half-ish"}}, "m.yaml:7: scale knows no dtype 'half-ish'"),
        ({"reshape": ["heads / 4"]}, "m.yaml:7: to of reshape must be a whole number; found 1.5"),
        ({"rearrange": "(h d) -> h d", "h": "head"}, "m.yaml:7: unknown variable head in 'head'; did you mean heads?"),
        ({"pad": 3}, "m.yaml:7: pad takes a whole shape, or one size and its axis"),
        ({"pad": [3], "axis": 0}, "m.yaml:7: pad takes a whole shape, or one size and its axis"),
    ],
)
def test_an_op_that_cannot_have_these_numbers(written, message):
    with pytest.raises(MappingError) as caught:
        parse_op(written, "m.yaml:7").bind(SCOPE, targets=1)
    assert str(caught.value).startswith(message)


def test_every_op_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "mappings.md").read_text(encoding="utf-8")
    table = page.partition("## Ops")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)(?=[:`,])", table)) >= set(REGISTRY)
