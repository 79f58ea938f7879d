"""Entries meet tensors: what is complete and fits is bound, everything else is one clear error."""

import ml_dtypes
import numpy as np
import pytest

from ckptdbg.checkpoint import TensorSpec, spec_of
from ckptdbg.errors import MappingError
from ckptdbg.mapping import Mapping
from ckptdbg.mapping.tracing import trace

CONFIG = {"heads": 3, "layers": 2}


def specs(**shapes):
    return {name.replace("__", "."): TensorSpec(shape, "float32") for name, shape in shapes.items()}


def named(shape, *names):
    return {name: TensorSpec(shape, "float32") for name in names}


def mapping(entries, **more):
    lines = ["version: 1", "entries:", *("- " + "\n  ".join(entry.splitlines()) for entry in entries)]
    return Mapping.loads("\n".join(lines + [f"{key}: {value}" for key, value in more.items()]), file="m.yaml")


def bind(entries, source, target, **more):
    return mapping(entries, **more).bind(CONFIG, source, target)


def fails(call, *lines):
    with pytest.raises(MappingError) as caught:
        call()
    assert str(caught.value).splitlines() == list(lines)


SHAPES = {"matrix": (6, 4), "head": (3, 2, 4)}


@pytest.mark.parametrize("layout", ["copy", "moved", "scaled", "stacked", "split"])
@pytest.mark.parametrize("to", ["float32", "float16", "bfloat16", "float8_e4m3fn", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e5m2", "float64"])
def test_values_are_computed_in_high_precision_and_rounded_once(dtype, to, layout):
    rng = np.random.default_rng(5)
    names = ["a.0", "a.1"] if layout == "stacked" else ["a"]
    source = {n: rng.standard_normal((6, 4)).astype(numpy_dtype(dtype)) for n in names}
    high = np.float64 if dtype == "float64" else np.float32
    first = source[names[0]].astype(high)
    entry, right = {
        "copy": ("source: a\ntarget: b", [first]),
        "moved": ('source: a\ntarget: b\nops: [{rearrange: "(h d) m -> m h d", h: heads}]', [moved(first)]),
        "scaled": ("source: a\ntarget: b\nops: [{scale: 1 / 3}, {add: 1}]", [first * (1 / 3) + 1]),
        "stacked": ("source: a.{i}\ntarget: b\nstack: [{over: i, axis: -1}]", [stacked(source, high)]),
        "split": ("source: a\ntarget: [b, c]\nops: [{split: 0}]", [first[:3], first[3:]]),
    }[layout]
    right = [array.astype(numpy_dtype(to)) for array in right]
    target = dict(zip("bc", map(spec_of, right), strict=False))
    bound = bind([entry], {name: spec_of(array) for name, array in source.items()}, target)
    made = {name: array for name, array, _ in bound.values(source.__getitem__)}
    for name, array in zip("bc", right, strict=False):
        assert made[name].dtype == array.dtype
        assert made[name].tobytes() == array.tobytes()


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def moved(array):
    return array.reshape(3, 2, 4).transpose(2, 0, 1)


def stacked(source, dtype):
    return np.stack([array.astype(dtype) for array in source.values()], -1)


def test_integers_and_complex_numbers_keep_their_values():
    source = {"ids": np.array([2**52 + 1, -3]), "rope": np.array([1 + 2j, 3j], np.complex64)}
    entries = ["source: ids\ntarget: b", "source: rope\ntarget: c\nops: [{scale: 2}]"]
    tensors = {name: spec_of(array) for name, array in source.items()}
    bound = bind(entries, tensors, {"b": tensors["ids"], "c": tensors["rope"]})
    made = {name: array for name, array, _ in bound.values(source.__getitem__)}
    assert made["b"].tolist() == [2**52 + 1, -3]
    assert made["c"].dtype == np.complex64
    assert made["c"].tolist() == [2 + 4j, 6j]


def test_an_overflow_is_inf_and_no_warning():
    bound = bind(["source: a\ntarget: b"], specs(a=(1,)), {"b": TensorSpec((1,), "float16")})
    assert bound.entries[0].apply([np.array([1e30], np.float32)])[0] == np.inf


def test_layers_are_in_numeric_order():
    names = [f"a.{i}" for i in range(12)]
    bound = bind(
        ["source: a.{i}\ntarget: b.{i}"], named((2,), *sorted(names)), named((2,), *[f"b.{i}" for i in range(12)])
    )
    assert [entry.layer for entry in bound.entries] == [str(i) for i in range(12)]


def test_a_layer_that_names_do_not_have_is_not_made_up():
    bound = bind(["source: a.{i}\ntarget: b.{i + 1}"], named((2,), "a.3", "a.7"), named((2,), "b.4", "b.8"))
    assert [(entry.layer, entry.targets) for entry in bound.entries] == [("3", ("b.4",)), ("7", ("b.8",))]
    assert [entry.target_layers for entry in bound.entries] == [("4",), ("8",)]


def test_ranges_and_names_present_go_together():
    """Every second layer by range, whatever experts there are by name; the other layers are another entry's."""
    entries = [
        'name: even\nfor: {i: "0 .. layers"}\nsource: a.{2*i}.{e}\ntarget: b.{i}\nstack: [{over: e, axis: 0}]',
        'name: odd\nfor: {i: "0 .. layers"}\nsource: a.{2*i + 1}\ntarget: c.{i}',
    ]
    source = named((3,), "a.0.0", "a.0.1", "a.2.0", "a.2.1", "a.2.10", "a.2.9", "a.1", "a.3")
    target = {"b.0": TensorSpec((2, 3), "float32"), "b.1": TensorSpec((4, 3), "float32"), **named((3,), "c.0", "c.1")}
    bound = bind(entries, source, target)
    assert bound.entry_of_target["b.1"].sources == ("a.2.0", "a.2.1", "a.2.9", "a.2.10")
    assert [entry.sources for entry in bound.entries if entry.name == "odd"] == [("a.1",), ("a.3",)]


def test_one_source_may_go_to_every_layer():
    bound = bind(["source: a\ntarget: b.{i}"], named((2,), "a"), named((2,), "b.0", "b.1"))
    assert [(entry.layer, entry.sources) for entry in bound.entries] == [("0", ("a",)), ("1", ("a",))]
    values = {"b.0": np.ones(2, np.float32), "b.1": np.ones(2, np.float32)}
    (back,) = bound.reversed().values(values.__getitem__)
    assert (back[0], back[1].tolist()) == ("a", [1, 1])


def test_stacked_on_both_sides_at_once():
    """Fused experts in the source, one tensor per expert in the target, which is scanned over layers."""
    entry = "source: fused.{i}\ntarget: e.{e}\nstack: [{over: i, axis: 1}, {over: e, axis: 0}]\nops: [transpose]"
    source = {f"fused.{i}": np.random.default_rng(i).standard_normal((3, 4, 5)) for i in range(2)}
    tensors = {name: spec_of(array) for name, array in source.items()}
    bound = bind([entry], tensors, {f"e.{e}": TensorSpec((5, 2, 4), "float64") for e in range(3)})
    made = {name: array for name, array, _ in bound.values(source.__getitem__)}
    for e in range(3):
        np.testing.assert_array_equal(made[f"e.{e}"], np.stack([source[f"fused.{i}"][e].T for i in range(2)], 1))
    back = {name: array for name, array, _ in bound.reversed().values(made.__getitem__)}
    assert all(np.array_equal(back[name], array) for name, array in source.items())


def test_slices_of_one_source_are_put_together_in_the_reverse():
    entries = [
        "source: qkv\ntarget: q\nops: [{slice: 0, stop: 3}]",
        "source: qkv\ntarget: kv\nops: [{slice: 0, start: 3}, transpose]",
    ]
    bound = bind(entries, specs(qkv=(5, 2)), specs(q=(3, 2), kv=(2, 2)))
    qkv = np.arange(10, dtype=np.float32).reshape(5, 2)
    made = {name: array for name, array, _ in bound.values({"qkv": qkv}.__getitem__)}
    (back,) = bound.reversed().values(made.__getitem__)
    np.testing.assert_array_equal(back[1], qkv)


def test_ignored_tensors_take_no_part():
    """An extra layer that the target does not have must not be expanded."""
    source, target = named((2,), "a.0", "a.1", "a.61", "x.inv_freq"), named((2,), "b.0", "b.1", "rng")
    ignore = '{source: ["a.61", "*.inv_freq"], target: [rng]}'
    bound = bind(["source: a.{i}\ntarget: b.{i}"], source, target, ignore=ignore)
    assert list(bound.entry_of_target) == ["b.0", "b.1"]


def test_an_array_of_another_shape_is_refused():
    bound = bind(["name: e\nsource: a\ntarget: b"], specs(a=(2, 3)), specs(b=(2, 3)))
    fails(
        lambda: bound.entries[0].apply([np.ones((3, 2))]),
        "m.yaml:3: entry e: a has another shape than when bound; found (3, 2); expected (2, 3)",
    )


Q = "name: q\nsource: a.{i}\ntarget: b.{i}"
ERRORS = {
    "a source layer without a target": (
        [Q],
        named((2,), "a.0", "a.1"),
        named((2,), "b.0"),
        ["m.yaml:5: entry q: target tensor b.1 is missing; did you mean b.0?"],
    ),
    "a target layer without a source": (
        [Q],
        named((2,), "a.0"),
        named((2,), "b.0", "b.1"),
        ["m.yaml:4: entry q: source tensor a.1 is missing; did you mean a.0?"],
    ),
    "an entry that matches nothing": (
        ["name: q\nsource: layers.{i}.q_prj\ntarget: q.{i}.kernel"],
        named((2,), "layers.0.q_proj"),
        named((2,), "other"),
        [
            "m.yaml:4: entry q matches nothing: no source tensor is named layers.{i}.q_prj; "
            "did you mean layers.0.q_proj?"
        ],
    ),
    "a name that is nowhere": (
        ["name: q\nsource: embed\ntarget: b"],
        named((2,), "x"),
        named((2,), "b"),
        ["m.yaml:4: entry q: source tensor embed is missing; the source has 1 tensors, none with a name like it"],
    ),
    "a target made twice": (
        ["name: q\nsource: a\ntarget: b", "name: p\nsource: a\ntarget: b"],
        named((2,), "a"),
        named((2,), "b"),
        ["m.yaml:6: target tensor b is made twice: by entry q (m.yaml:3) and by entry p; keep one of them"],
    ),
    "layers into one tensor": (
        ["name: q\nsource: a.{i}\ntarget: b"],
        named((2,), "a.0", "a.1"),
        named((2,), "b"),
        [
            "m.yaml:3: target tensor b is made twice: by entry q (m.yaml:3) and by entry q (layers 0 and 1); "
            "put the placeholder in the target's name or stack over it"
        ],
    ),
    "source tensors that nobody uses": (
        [Q],
        named((2,), "a.0", "lone", *(f"a.0.bias{i}" for i in range(5))),
        named((2,), "b.0"),
        [
            "m.yaml: 6 source tensors are used by no entry",
            "  lone",
            *(f"  a.0.bias{i}" for i in range(4)),
            "  and 1 more; add entries, or globs under ignore.source",
        ],
    ),
    "a target tensor that nobody makes": (
        ["name: q\nsource: a\ntarget: layers.0.q.kernel"],
        named((2,), "a"),
        named((2,), "layers.0.q.kernel", "layers.0.k.kernel"),
        [
            "m.yaml: 1 target tensor is made by no entry",
            "  layers.0.k.kernel (like layers.0.q.kernel: entry q, m.yaml:3); "
            "add entries, or globs under ignore.target",
        ],
    ),
    "another shape": (
        ['name: q\nsource: a\ntarget: b\nops:\n- rearrange: "(h d) m -> m h d"\n  h: heads\n- {scale: 2}'],
        named((12, 5), "a"),
        named((5, 4, 3), "b"),
        [
            "m.yaml:3: entry q: b gets shape (5, 3, 4), expected (5, 4, 3)",
            "  a (12, 5)",
            '  {rearrange: "(h d) m -> m h d", h: heads} -> (5, 3, 4)',
            "  scale: 2 -> (5, 3, 4); correct the ops, or the config the sizes come from",
        ],
    ),
    "an op that does not fit": (
        ["name: q\nsource: a\ntarget: b\nops:\n- transpose\n- split: 0\n  sizes: [2, 2]"],
        named((4, 5), "a"),
        named((5, 4), "b"),
        [
            "m.yaml:8: entry q: split has sizes [2, 2], together 4, for an axis of 5",
            "  a (4, 5)",
            "  transpose -> (5, 4)",
        ],
    ),
    "sources that are not joined": (
        ["name: q\nsource: [a, c]\ntarget: b"],
        named((2,), "a", "c"),
        named((2,), "b"),
        [
            "m.yaml:3: entry q: makes 2 tensors for 1 targets",
            "  a (2,), c (2,); join the sources with concat, stack or rearrange",
        ],
    ),
    "targets that are not split": (
        ["name: q\nsource: a\ntarget: [b, c]"],
        named((2,), "a"),
        named((2,), "b", "c"),
        [
            "m.yaml:3: entry q: makes 1 tensors for 2 targets",
            "  a (2,); end the ops with split, or write one entry per target for a tie",
        ],
    ),
    "layers of different shapes in one stack": (
        ["name: q\nsource: a.{i}\ntarget: b\nstack: [{over: i, axis: 0}]"],
        {**named((2,), "a.0"), **named((3,), "a.1")},
        named((2, 2), "b"),
        ["m.yaml:3: entry q: a.1 cannot be stacked with a.0; found (3,); expected (2,)"],
    ),
    "a stack axis that is not there": (
        ["name: q\nsource: a.{i}\ntarget: b\nstack: [{over: i, axis: 2}]"],
        named((2,), "a.0"),
        named((1, 2), "b"),
        [
            "m.yaml:3: entry q: stack: {over: i, axis: 2} has no axis 2 of its own: the result has 2 axes",
            "  a.0 (2,)",
        ],
    ),
    "two stacks on one axis": (
        ["name: q\nsource: a.{i}.{e}\ntarget: b\nstack: [{over: i, axis: 0}, {over: e, axis: -3}]"],
        named((2,), "a.0.0"),
        named((1, 1, 2), "b"),
        [
            "m.yaml:3: entry q: stack: {over: e, axis: -3} has no axis -3 of its own: the result has 3 axes",
            "  a.0.0 (2,)",
        ],
    ),
    "two stacks on one axis of the source": (
        ["name: q\nsource: a\ntarget: b.{i}.{e}\nstack: [{over: i, axis: 0}, {over: e, axis: -2}]"],
        named((1, 2), "a"),
        named((2,), "b.0.0"),
        [
            "m.yaml:3: entry q: unstack: {over: e, axis: -2} shares its axis with another: the tensor has shape (1, 2)",
            "  a (1, 2)",
        ],
    ),
    "a stacked source of another length": (
        ["name: q\nsource: a\ntarget: b.{i}\nstack: [{over: i, axis: 0}]"],
        named((3, 2), "a"),
        named((2,), "b.0", "b.1"),
        [
            "m.yaml:3: entry q: unstack: {over: i, axis: 0} wants an axis of 2: the tensor has shape (3, 2)",
            "  a (3, 2)",
        ],
    ),
    "a stack over a name on both sides": (
        ["name: q\nsource: a.{i}\ntarget: b.{i}\nstack: [{over: i, axis: 0}]"],
        named((2,), "a.0"),
        named((2,), "b.0"),
        [
            "m.yaml:6: entry q: {i} is in the names of both sides, so neither is stacked over it; "
            "leave it out of the names of the stacked side"
        ],
    ),
    "a stack over a name that is nowhere": (
        ["name: q\nsource: a.{inner}\ntarget: b\nstack: [{over: iner, axis: 0}]"],
        named((2,), "a.0"),
        named((2,), "b"),
        ["m.yaml:6: entry q: no name has {iner}; did you mean inner?"],
    ),
    "a hole in a grid of stacks": (
        ["name: q\nsource: a.{i}.{e}\ntarget: b\nstack: [{over: i, axis: 0}, {over: e, axis: 1}]"],
        named((2,), "a.0.0", "a.0.1", "a.1.0"),
        named((2, 2, 2), "b"),
        ["m.yaml:4: entry q: source tensor a.1.1 is missing; did you mean a.1.0, a.0.1, a.0.0?"],
    ),
    "a placeholder that only an expression has": (
        ["name: q\nsource: a.{2 * i}\ntarget: b.{i + 1}"],
        named((2,), "a.0"),
        named((2,), "b.1"),
        ["m.yaml:3: entry q: names alone do not tell them; give the values of i with for"],
    ),
    "an empty range": (
        ['name: q\nfor: {i: "2 .. layers"}\nsource: a.{i}\ntarget: b.{i}'],
        named((2,), "a.0"),
        named((2,), "b.0"),
        ["m.yaml:4: for i takes no value; the end must be above the start"],
    ),
    "a range over a name that is nowhere": (
        ['name: q\nfor: {i: "0 .. layers"}\nsource: a\ntarget: b'],
        named((2,), "a"),
        named((2,), "b"),
        ["m.yaml:4: entry q: no name has {i}"],
    ),
    "an unknown variable": (
        ["name: q\nsource: a\ntarget: b\nops: [{scale: layer ** 0.5}]"],
        named((2,), "a"),
        named((2,), "b"),
        ["m.yaml:6: unknown variable layer in 'layer ** 0.5'; did you mean layers?"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_one_clear_error(case):
    entries, source, target, lines = ERRORS[case]
    fails(lambda: bind(entries, source, target), *lines)


def test_a_tensor_that_an_entry_names_but_the_mapping_ignores():
    fails(
        lambda: bind(["name: q\nsource: a\ntarget: b"], named((2,), "a"), named((2,), "b"), ignore="{source: [a]}"),
        "m.yaml:4: entry q: source tensor a is ignored; take it out of ignore.source",
    )


def test_what_has_no_reverse_is_said():
    bound = bind(["name: q\nsource: a\ntarget: b\nops:\n- scale: 0"], named((2,), "a"), named((2,), "b"))
    fails(bound.reversed, "m.yaml:7: entry q has no reverse: scale by 0 cannot be undone")


@pytest.mark.parametrize(
    ("variables", "config", "line"),
    [
        (
            "{n: head}",
            {"heads": 3},
            "variable n has no value; found none of head in the source's config; did you mean heads?",
        ),
        ("{n: a.b | c}", {"a": {"b": None}}, "variable n has no value; found none of a.b, c in the source's config"),
        ("{n: a}", None, "variable n has no value; found none of a in the source's config; the source has no config"),
    ],
)
def test_a_variable_without_a_value(variables, config, line):
    loaded = mapping(["source: a\ntarget: b"], variables=variables)
    fails(lambda: loaded.bind(config, named((2,), "a"), named((2,), "b")), f"m.yaml:5: {line}")


HEAD, ENTRIES = "version: 1\n", "entries: [{source: a, target: b}]"
ONE = "version: 1\nentries:\n- source: a\n"
FILES = [
    ("", "1: not a document; found nothing; expected keys and values"),
    ("version: 2\n" + ENTRIES, "1: unknown version; found 2; expected 1"),
    (ENTRIES, "1: unknown version; expected 1"),
    (HEAD + "entries: []", "2: a mapping without entries"),
    (HEAD + "entry: []", "2: a mapping has no key entry; did you mean entries?"),
    (HEAD + "entries: [a]", "2: not an entry; found 'a'; expected keys source and target"),
    (HEAD + "entries:\n- source: a", "3: an entry without target; add target: a tensor name or a list of them"),
    (ONE + "  taget: b", "4: an entry has no key taget; did you mean target?"),
    (ONE + "  target: b\n  ops: transpose", "5: ops is not a list; found 'transpose'"),
    (ONE + "  target: b\n  for: [1]", "5: for is not a mapping; found [1]; expected {name: 0 .. 6}"),
    (ONE + "  target: b\n  for: {i: 6}", '5: not a range: 6; expected "0 .. 6" or a list'),
    (ONE + "  target: b\n  stack: [layer]", "5: not a stack; found 'layer'; expected {over: name, axis: 0}"),
    (
        HEAD + "entries:\n- source: [a.{i}, b]\n  target: b",
        "3: not valid YAML: expected ',' or ']', but got '{'; in a list in brackets, text with braces needs quotes",
    ),
    (HEAD + "version: 1", '2: not valid YAML: found duplicate key "version" with value "1" (original value: "1")'),
    (HEAD + "variables: [a]\n" + ENTRIES, "2: variables is not a mapping"),
    (HEAD + "variables:\n  a:\n" + ENTRIES, "3: variable a is not an expression; found None"),
    (HEAD + "variables:\n  a: b |\n" + ENTRIES, "3: not an expression: ''"),
    (HEAD + "ignore: [a]\n" + ENTRIES, "2: ignore is not a mapping; expected {source: [globs], target: [globs]}"),
    (HEAD + "ignore: {source: a}\n" + ENTRIES, "2: ignore source is not a list; found 'a'"),
    (HEAD + "ignore: {sorce: [a]}\n" + ENTRIES, "2: ignore has no key sorce; did you mean source?"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_file_that_is_no_mapping(text, message):
    with pytest.raises(MappingError) as caught:
        Mapping.loads(text, file="m.yaml")
    assert str(caught.value).startswith(f"m.yaml:{message}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MappingError, match=r"none.yaml: no such file; check the path"):
        Mapping.load(tmp_path / "none.yaml")


def test_names_of_entries_differ():
    entries = ["source: a\ntarget: x/{i}/kernel", "source: a\ntarget: x/kernel", "name: n\nsource: a\ntarget: c"]
    assert [entry.name for entry in mapping(entries).entries] == ["x.kernel", "x.kernel#2", "n"]


BRACED = {"m{0}.{1}/w": (3, 4), "m{0}.{2}/w": (3, 4), "{a}": (5,)}


def test_a_brace_of_a_name_is_written_twice():
    target = {
        "t{1}": TensorSpec((4, 3), "float32"),
        "t{2}": TensorSpec((4, 3), "float32"),
        "b": TensorSpec((5,), "float32"),
    }
    entries = [
        "source: 'm{{0}}.{{{layer}}}/w'\ntarget: 't{{{layer}}}'\nops: [transpose]",
        "source: '{{a}}'\ntarget: b",
    ]
    bound = bind(entries, specs(**BRACED), target)
    assert {t: e.sources for t, e in bound.entry_of_target.items()} == {
        "t{1}": ("m{0}.{1}/w",),
        "t{2}": ("m{0}.{2}/w",),
        "b": ("{a}",),
    }
    assert [entry.layer for entry in bound.entries] == ["1", "2", None]


def test_a_single_brace_is_no_name():
    for text in ("a{b", "a}b", "{{a}", "{a}}"):
        with pytest.raises(MappingError, match=r"not a tensor name.*a brace of the name itself is written twice"):
            bind([f"source: '{text}'\ntarget: b"], specs(a=(1,)), specs(b=(1,)))


def test_names_with_braces_are_traced_and_come_back():
    source = {name: np.random.default_rng(len(name)).standard_normal(shape) for name, shape in BRACED.items()}

    def convert(tensors):
        return {f"t{{{i}}}": tensors[f"m{{0}}.{{{i}}}/w"].T for i in (1, 2)} | {"b": tensors["{a}"]}

    traced = trace(convert, {name: spec_of(array) for name, array in source.items()})
    assert traced.untraced == ()
    bound = traced.mapping.bind({}, {n: spec_of(a) for n, a in source.items()}, traced.specs)
    made = {name: array for name, array, _ in bound.values(source.__getitem__)}
    assert {n: a.tolist() for n, a in made.items()} == {n: a.tolist() for n, a in convert(source).items()}
