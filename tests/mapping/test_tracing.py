"""Conversion functions traced on probes: what comes out is a mapping that gives the function's own bits."""

from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError, MappingError
from ckptdbg.mapping.tracing import trace
from ckptdbg.models.loaders.conversion import load_conversion
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.pairs import list_pairs
from ckptdbg.session import open_session

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, WIDE, VOCAB = 12, 20, 6, 3, 8, 28, 31
CONFIG = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": DIM,
    "bos_token_id": 2,
}
SHAPES = {
    "self_attn.q_proj": (HEADS * DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * DIM),
    "mlp.gate_proj": (WIDE, HIDDEN),
    "mlp.up_proj": (WIDE, HIDDEN),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
FILE = Path(__file__).with_name("conversions.py")


def specs_of(dtype: str = "float32") -> dict[str, TensorSpec]:
    top = {"model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN)}
    every = {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in SHAPES.items()}
    return {f"{name}.weight": TensorSpec(shape, dtype) for name, shape in (top | every).items()}


def tensors_of(specs, seed=7, size=1.0):
    generator = np.random.default_rng(seed)
    return {n: (size * generator.standard_normal(s.shape)).astype(as_dtype(s.dtype)) for n, s in specs.items()}


def conversion(name, specs, **asked):
    chosen = load_conversion(f"{FILE.name}:{name}", FILE.parent, options={}, config=CONFIG, **asked)
    return chosen(tensors_of(specs))


def same_bits(traced, convert, specs):
    """Targets for which the traced mapping gives other bits than the function."""
    tensors = tensors_of(specs, seed=99)
    wanted = convert({n: a.copy() for n, a in tensors.items()})
    made = {n: v for n, v, _ in traced.mapping.bind(CONFIG, specs, traced.specs).values(lambda n: tensors[n])}
    return {n for n, v in made.items() if v.tobytes() != wanted[n].astype(v.dtype).tobytes()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["hooks", "fused", "grouped", "by_name_order", "shuffled"])
def test_the_mapping_gives_the_bits_of_the_function(name, dtype):
    specs = specs_of(dtype)
    convert = conversion(name, specs, arrays="numpy" if name in ("hooks", "shuffled") else "torch")
    traced = trace(convert, specs, CONFIG, name)
    assert traced.untraced == ()
    assert traced.inexact == ()
    assert same_bits(traced, convert, specs) == set()


def test_a_difference_of_one_bit_would_be_seen():
    specs = specs_of()
    convert = conversion("fused", specs)
    traced = trace(convert, specs, CONFIG)
    assert same_bits(traced, lambda t: {n: np.nextafter(v, np.inf) for n, v in convert(t).items()}, specs)


def test_the_mapping_reads_as_a_person_would_write_it():
    specs = specs_of()
    text = trace(conversion("hooks", specs, arrays="numpy"), specs, CONFIG, "convert.py:hooks").mapping.text
    assert text.splitlines()[0] == "# from convert.py:hooks"
    assert "rearrange: (num_key_value_heads two a) hidden_size -> hidden_size num_key_value_heads (a two)" in text
    assert "divide: head_dim ** 0.5" in text
    assert "source: model.layers.{key}.self_attn.k_proj.weight\n  target: layers/key/{key}" in text
    assert "- over: layer\n    axis: 1" in text


def test_layers_stacked_as_text_are_listed_in_that_order():
    specs = specs_of()
    traced = trace(conversion("by_name_order", specs), specs, CONFIG)
    assert "layer: [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]" in traced.mapping.text


def test_what_no_op_says_is_named_with_its_reason():
    specs = specs_of()
    traced = trace(conversion("beyond", specs, arrays="torch"), specs, CONFIG)
    assert {u.target: u.reason for u in traced.untraced} == {
        "clamped": "a value-dependent or non-linear function of the source tensors",
        "scaled": "not finite for zeros or ones",
        "mean": "not an affine index map of the source tensors",
        "table": "a constant: it comes from no source tensor",
    }
    entries = traced.mapping.bind(CONFIG, specs, traced.specs).entry_of_target
    assert {name: entry.opaque is not None for name, entry in entries.items()} == {
        "head": False,
        "clamped": True,
        "scaled": True,
        "mean": True,
    }
    assert entries["mean"].sources == ("model.embed_tokens.weight", "lm_head.weight")
    assert "# clamped: a value-dependent" in traced.mapping.text
    assert traced.mapping.ignore.target == ("table",)
    assert same_bits(traced, conversion("beyond", specs, arrays="torch"), specs) == set()


def test_the_checkpoints_own_values_have_the_last_word():
    specs = specs_of()
    convert = conversion("on_values", specs, arrays="torch")
    real = {n: np.clip(v, -0.94, 0.94) for n, v in tensors_of(specs).items()}
    assert trace(convert, specs, CONFIG).untraced == ()
    (left,) = trace(convert, specs, CONFIG, real=real).untraced
    assert left.target == "other"
    assert "of the real tensors the function makes other values" in left.reason


@pytest.mark.parametrize("axes", [(0, 0), (0, 1), (1, 0), (2, 1)])
def test_tensors_of_two_names_are_stacked_layer_by_layer(axes):
    specs = {f"h.{i}.{name}": TensorSpec((4, 6), "float32") for i in range(11) for name in ("gate", "up")}

    def convert(tensors):
        pairs = [np.stack([tensors[f"h.{i}.{name}"] for name in ("gate", "up")], axes[1]) for i in range(11)]
        return {"wi": np.stack(pairs, axes[0])}

    traced = trace(convert, specs)
    assert (traced.untraced, same_bits(traced, convert, specs)) == ((), set())


BLENDS = {
    "another tensor": lambda t: t["a"] + np.float32(0.01) * t["b"],
    "its own rows": lambda t: np.float32(0.999) * t["a"] + np.float32(0.001) * t["a"][::-1],
    "its cube": lambda t: t["a"] + np.float32(0.01) * t["a"] ** 3,
    "its mean": lambda t: t["a"] - t["a"].mean(0),
}


@pytest.mark.parametrize("what", BLENDS)
def test_a_little_of_something_else_is_no_rounding(what):
    specs = {n: TensorSpec((6, 4), "float32") for n in "ab"}
    traced = trace(lambda t: {"plain": t["a"].T, "blend": BLENDS[what](t)}, specs)
    assert [u.target for u in traced.untraced] == ["blend"]
    assert "constant" not in traced.untraced[0].reason
    assert traced.inexact == ()


@pytest.mark.parametrize(
    "name", ["blocks[0].w", "a*", "what?", "two\nlines: [", "# w", "<img src=x>", "null", "1", "a: b"]
)
def test_any_name_is_a_name(name):
    specs = {n: TensorSpec((3, 2), "float32") for n in (name, f"{name}.unused")}
    traced = trace(lambda t: {f"{name}.t": t[name].T, f"{name}.table": np.ones(3, np.float32)}, specs)
    assert set(traced.mapping.bind({}, specs, traced.specs).entry_of_target) == {f"{name}.t"}
    assert traced.unused == (f"{name}.unused",)
    assert len(traced.mapping.ignore.source) == 1
    assert traced.mapping.without_ignored(f"{name}.unused").ignore.source == ()


def test_errors_say_what_to_do():
    specs = specs_of()
    with pytest.raises(MappingError, match="gives another head when it is run again on the same tensors"):
        trace(conversion("random", specs), specs, CONFIG)
    with pytest.raises(LoaderError, match=r"say which it is written for: mapping: \{trace: ..., arrays: torch\}"):
        conversion("either", specs)
    with pytest.raises(LoaderError, match=r"conversions\.py:\d+: the conversion raised KeyError on torch arrays"):
        conversion("wrong_name", specs)
    with pytest.raises(LoaderError, match="unknown kind of arrays"):
        conversion("fused", specs, arrays="tensorflow")


@pytest.mark.parametrize("pair", list_pairs())
def test_every_sample_mapping_is_recovered_from_what_it_does(pair, tmp_path):
    session = open_session(build_sample(tmp_path, pair))
    mapping, specs, config = session.mapping, session.source_specs, session.model_config
    real = {name: session.read_source(name) for name in specs}

    def convert(tensors):
        return {n: v for n, v, _ in mapping.values(lambda name: tensors[name])}

    traced = trace(convert, specs, config, pair, real)
    made = {n: v for n, v, _ in traced.mapping.bind(config, specs, session.target.specs).values(lambda n: real[n])}
    assert traced.untraced == traced.inexact == ()
    assert {n for n, v in convert(real).items() if v.tobytes() != made[n].tobytes()} == set()
    assert len(traced.mapping.entries) <= 1.3 * len(session.unbound_mapping.entries)


def test_probes_fit_dtypes_that_hold_few_whole_numbers():
    specs = {"a": TensorSpec((300, 40), "bfloat16"), "b": TensorSpec((40, 7), "float8_e4m3fn")}
    traced = trace(lambda t: {"x": t["a"].T, "y": t["b"].reshape(-1, 14), "z": t["a"].astype(np.float32) * 3}, specs)
    made = {n: v for n, v, _ in traced.mapping.bind({}, specs, traced.specs).values(lambda n: tensors_of(specs)[n])}
    assert traced.untraced == ()
    assert made["x"].dtype == bfloat16
    assert made["x"].tobytes() == np.ascontiguousarray(tensors_of(specs)["a"].T).tobytes()
    assert made["y"].tobytes() == tensors_of(specs)["b"].tobytes()
    assert (made["z"] == tensors_of(specs)["a"].astype(np.float32) * 3).all()


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("lambda tensors: {'a': 'text', 'b': tensors['a']}", "no tensor for a; found str"),
        ("type('Model', (), {'__init__': lambda self, tensors: None})", "no tensor for its only leaf; found Model"),
        ("functools.partial(lambda tensors, key: tensors[key], key='b')", "the conversion raised KeyError"),
        ("dict", None),
    ],
)
def test_odd_functions_are_called_or_refused_in_one_line(function, problem, tmp_path):
    (tmp_path / "odd.py").write_text(f"import functools\n\nconvert = {function}\n")
    chosen = load_conversion("odd.py:convert", tmp_path, arrays="numpy", options={}, config={})
    given = {"a": np.ones((2, 3), np.float32)}
    if problem is None:
        assert list(chosen(given)(given)) == ["a"]
        return
    with pytest.raises(LoaderError, match=problem):
        chosen(given)(given)
