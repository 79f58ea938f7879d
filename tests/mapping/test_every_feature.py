"""A mapping file that uses every feature, against plain NumPy."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ckptdbg.checkpoint import MemoryCheckpoint
from ckptdbg.errors import MappingError
from ckptdbg.mapping import REGISTRY, Mapping

FILE = Path(__file__).with_name("every_feature.yaml")
LAYERS, EXPERTS, HEADS, HEAD_DIM, HIDDEN, FFN, VOCAB, ROWS = 12, 3, 2, 6, 10, 7, 50, 43
BF16 = ml_dtypes.bfloat16
NORM_ORDER = [9, 8, 7, 6, 5, 4, 3, 2, 0, 1]
CONFIG = {
    "num_attention_heads": HEADS,
    "num_key_value_heads": None,
    "head_dim": HEAD_DIM,
    "hidden_size": HIDDEN,
    "ffn": FFN,
    "layers": LAYERS,
    "text_config": {"num_experts": EXPERTS},
}


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(11)
    shapes = {"embed.weight": (ROWS, HIDDEN), "scanned.weight": (5, LAYERS, 4), "rope.inv_freq": (3,)}
    shapes |= {"extra.2.weight": (8, 1), "extra.11.weight": (14, 1)}
    for i in range(LAYERS):
        one = {"q": (HEADS * HEAD_DIM, HIDDEN), "k": (4, HIDDEN), "v": (3, HIDDEN), "g": (5, HIDDEN)}
        one |= {"gate_up": (2 * FFN, HIDDEN), "a": (FFN, HIDDEN), "b": (FFN, HIDDEN), "norm": (HIDDEN,)}
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in one.items()}
        shapes |= {f"layers.{i}.experts.{e}.weight": (FFN, HIDDEN) for e in range(EXPERTS)} | {f"layers.{i}.bias": (9,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def expected(source):
    """What the file says, in NumPy."""

    def w(i, name):
        return source[f"layers.{i}.{name}.weight"]

    factor = np.float32(BF16(HIDDEN**0.5))
    made = {
        "token_embedder/embedding": np.pad(source["embed.weight"], ((0, VOCAB - ROWS), (0, 0))) * factor,
        "logits/kernel": source["embed.weight"].T,
        "decoder/extra_0": source["extra.2.weight"][1:4, 0],
        "decoder/extra_9": source["extra.11.weight"][10:13, 0],
        "decoder/experts/kernel": np.stack(
            [np.stack([w(i, f"experts.{e}").T for e in range(EXPERTS)], 1) for i in range(LAYERS)]
        ),
    }
    for i in range(LAYERS):
        q = w(i, "q").reshape(HEADS, 2, HEAD_DIM // 2, HIDDEN).transpose(3, 0, 2, 1).reshape(HIDDEN, HEADS, HEAD_DIM)
        ab = np.empty((HIDDEN, 2 * FFN), np.float32)
        ab[:, ::2], ab[:, 1::2] = w(i, "a").T, w(i, "b").T
        made |= {
            f"decoder/layers_{i}/query/kernel": q * np.float32(HEAD_DIM**-0.5),
            f"decoder/layers_{i}/kvg/kernel": np.vstack([w(i, "k"), w(i, "v"), w(i, "g") / np.float32(3)]).T,
            f"decoder/layers_{i}/gate/kernel": w(i, "gate_up")[:FFN].T,
            f"decoder/layers_{i}/up/kernel": w(i, "gate_up")[FFN:].T,
            f"decoder/layers_{i}/ab/kernel": ab,
            f"decoder/layers_{i}/norm/scale": (w(i, "norm") + 1)[NORM_ORDER].astype(BF16),
            f"decoder/layers_{i}/unscanned": source["scanned.weight"][:, i],
        }
    for inner in range(4):
        biases = [source[f"layers.{4 * block + inner}.bias"] for block in range(LAYERS // 4)]
        made[f"decoder/blocks/layers_{inner}/bias"] = np.stack(biases, -1)
    return made


@pytest.fixture(scope="module")
def bound(source):
    target = {**MemoryCheckpoint(expected(source)).specs, **MemoryCheckpoint({"rngs/count": np.zeros(2)}).specs}
    return Mapping.load(FILE).bind(CONFIG, MemoryCheckpoint(source).specs, target)


def test_every_op_but_the_inverse_ones_is_in_the_file():
    used = {op.cls.kind for entry in Mapping.load(FILE).entries for op in entry.ops}
    assert set(REGISTRY) - used == {"stack", "unstack", "opaque"}  # a file alone runs no function


def test_the_values_are_those_of_numpy(source, bound):
    right = expected(source)
    made = {name: array for name, array, _ in bound.values(source.__getitem__)}
    assert made.keys() == right.keys()
    for name, array in right.items():
        assert made[name].dtype == array.dtype
        np.testing.assert_array_equal(made[name], array, err_msg=name)


def test_in_float64_nothing_is_rounded(source, bound):
    made = {name: array for name, array, _ in bound.values(source.__getitem__, cast=False, dtype=np.float64)}
    assert {array.dtype for array in made.values()} == {np.dtype(np.float64)}
    norm = made["decoder/layers_3/norm/scale"]
    np.testing.assert_array_equal(norm, source["layers.3.norm.weight"].astype(np.float64)[NORM_ORDER] + 1)
    # the factor that the model itself rounds stays rounded
    factor = made["token_embedder/embedding"][0, 0] / source["embed.weight"][0, 0].astype(np.float64)
    assert factor == pytest.approx(float(BF16(HIDDEN**0.5)), rel=1e-15)


def test_the_reverse_gives_the_source_back(source, bound):
    target = expected(source)
    back = {name: array for name, array, _ in bound.reversed().values(target.__getitem__)}
    assert back.keys() == source.keys() - {"rope.inv_freq"}
    for name, array in back.items():
        right = source[name]
        if name.startswith("extra"):  # a slice: the rest is filled with zeros
            start = 1 if ".2." in name else 10
            right = np.zeros_like(right)
            right[start : start + 3] = source[name][start : start + 3]
        tolerance = 2.0**-7 if "norm" in name else 3e-7
        np.testing.assert_allclose(array, right, rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_broken_tie_shows_in_the_reverse(source, bound):
    target = expected(source)
    target["logits/kernel"] = target["logits/kernel"] * 1.001
    with pytest.raises(MappingError) as caught:
        list(bound.reversed().values(target.__getitem__))
    assert str(caught.value) == (
        f"{FILE}:18: embed.weight comes out differently from entry embedding ({FILE}:10) and from entry head; "
        "in reverse they must agree: compare token_embedder/embedding with logits/kernel"
    )


def test_what_is_dropped_is_said(bound):
    lost = {entry.name: entry.dropped() for entry in bound.entries if entry.dropped()}
    assert lost == {
        "embedding": ["{pad: vocab, axis: 0}: the reverse drops the padding: 7 of 50 on axis 0"],
        "decoder.layers.norm.scale": ["cast: bfloat16: rounds to bfloat16; the reverse keeps the rounded values"],
        "first": [
            "slice: {axis: 0, start: i - 1, stop: i + 2}: drops 11 of 14 on axis 0; the reverse fills them with 0"
        ],
    }


def test_entries_know_their_place_and_their_layers(bound):
    lines = FILE.read_text().splitlines()
    for entry in bound.entries:
        assert lines[entry.line - 1].lstrip().startswith(("- name:", "- source:"))
        for op in entry.ops:
            assert op.kind in lines[int(op.where.rpartition(":")[2]) - 1]
    queries = [entry for entry in bound.entries if entry.name == "attention.query"]
    assert [entry.layer for entry in queries] == [str(i) for i in range(LAYERS)]
    experts = bound.entry_of_target["decoder/experts/kernel"]
    assert (experts.layer, len(experts.sources)) == (None, LAYERS * EXPERTS)
    assert experts.source_layers[:14] == (*(f"{i}.0" for i in range(LAYERS)), "0.1", "1.1")
    bias = bound.entry_of_target["decoder/blocks/layers_2/bias"]
    assert (bias.layer, bias.source_layers, bias.sources[1]) == ("2", ("2", "6", "10"), "layers.6.bias")
    scanned = bound.entries_of_source["scanned.weight"]
    assert [(entry.layer, entry.target_layers) for entry in scanned] == [(None, tuple(str(i) for i in range(LAYERS)))]
    assert [entry.name for entry in bound.entries_of_source["embed.weight"]] == ["embedding", "head"]


def test_steps_are_shown_with_their_shapes(bound):
    def shapes(target):
        return bound.shapes(bound.entry_of_target[target])

    assert shapes("decoder/layers_3/query/kernel") == [
        ('{rearrange: "(h two d) m -> m h (d two)", two: 2, h: heads}', (10, 2, 6)),
        ("scale: head_dim ** -0.5", (10, 2, 6)),
    ]
    assert shapes("decoder/layers_3/up/kernel") == [
        ("transpose", (10, 14)),
        ("{split: 1, sizes: [ffn, ffn]} [1 of 2]", (10, 7)),
        ("{split: 1, sizes: [ffn, ffn]} [2 of 2]", (10, 7)),
    ]
    stacks = "stack: {over: expert, axis: 2}, stack: {over: layer, axis: 0}"
    assert shapes("decoder/experts/kernel") == [("transpose", (10, 7)), (stacks, (12, 10, 3, 7))]
    assert shapes("decoder/layers_0/unscanned") == [("unstack: {over: layer, axis: 1}", (5, 4))]


def test_a_copy_is_bound_like_the_original(source, bound):
    """from_dict and the text of an edited mapping say the same."""
    from ruamel.yaml import YAML

    copy = Mapping.from_dict(YAML(typ="safe").load(FILE.read_text()))
    target = {
        name: spec for entry in bound.entries for name, spec in zip(entry.targets, entry.target_specs, strict=True)
    }
    again = copy.bind(CONFIG, MemoryCheckpoint(source).specs, target)
    assert [(e.name, e.sources, e.targets, e.ops) for e in again.entries] == [
        (e.name, e.sources, e.targets, e.ops) for e in bound.entries
    ]


def test_editing_ops_changes_only_their_lines():
    mapping = Mapping.load(FILE)
    assert mapping.ops("attention.query")[1] == {"scale": "head_dim ** -0.5"}
    edited = mapping.with_ops("attention.query", [{"rearrange": "(h d) m -> m h d", "h": "heads"}, {"scale": 2}])
    before, after = mapping.text.splitlines(), edited.text.splitlines()
    assert [line for line in after if line not in before] == [
        '      - rearrange: "(h d) m -> m h d"',
        "      - scale: 2",
    ]
    assert [line.strip() for line in before if line not in after] == [
        '- rearrange: "(h two d) m -> m h (d two)"',
        "two: 2",
        "- scale: head_dim ** -0.5",
    ]
    assert edited.with_ops("attention.query", mapping.ops("attention.query")).text == mapping.text
    assert edited.entries[2].ops[1].written == "scale: 2"
    removed, added = mapping.with_ops("head", []), mapping.with_ops("scanned", ["transpose", {"add": 1}])
    head = before.index("  - name: head                      # a tie: the same source again")
    assert before[head + 3] == "    ops: [transpose]"
    assert removed.text.splitlines() == before[: head + 3] + before[head + 4 :]
    assert added.text.splitlines()[added.entries[9].line : added.entries[9].line + 5] == [
        "    source: scanned.weight",
        "    target: decoder/layers_{layer}/unscanned",
        "    ops:",
        "      - transpose",
        "      - add: 1",
    ]
    with pytest.raises(
        MappingError, match=r"every_feature.yaml: no entry attention.qery; did you mean attention.query"
    ):
        mapping.with_ops("attention.qery", [])


def test_an_entry_in_braces_can_be_edited_too():
    name = "long " * 30 + "e"
    line = f"- {{source: 'a', target: b, name: {name}}}  # c\n"
    edited = Mapping.loads(f"version: 1\nentries:\n{line}").with_ops(name, [{"add": 1}])
    assert "source: 'a', target: b" in edited.text
    assert name in edited.text
    assert edited.text.count("# c") == 1
    assert edited.ops(name) == [{"add": 1}]
