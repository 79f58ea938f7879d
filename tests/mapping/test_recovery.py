"""Mappings recovered from the values of two checkpoints."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from ckptdbg.checkpoint import MemoryCheckpoint
from ckptdbg.errors import MappingError
from ckptdbg.mapping.judge import judge
from ckptdbg.mapping.recovery import recover
from ckptdbg.samples.build import build_sample
from ckptdbg.samples.pairs import list_pairs
from ckptdbg.session import open_session


def recovered(source, target, config=None):
    a, b = MemoryCheckpoint(source), MemoryCheckpoint(target)
    return recover(a.specs, a.read, b.specs, b.read, config)


def as_function(mapping, config, source, target):
    bound = mapping.bind(config, MemoryCheckpoint(source).specs, MemoryCheckpoint(target).specs)
    return lambda tensors: {n: v for n, v, _ in bound.values(lambda name: tensors[name])}


@pytest.mark.parametrize("pair", list_pairs())
def test_every_sample_conversion_is_explained_whole(pair, tmp_path):
    session = open_session(build_sample(tmp_path, pair))
    config, specs, target = session.model_config, session.source_specs, session.target
    found = recover(specs, session.read_source, target.specs, target.read, config)
    assert (found.unexplained, found.odd, found.ambiguous) == ((), (), ())

    def runs(mapping):
        bound = mapping.bind(config, specs, target.specs)
        return lambda tensors: {n: v for n, v, _ in bound.values(lambda name: tensors[name])}

    assert judge(runs(session.unbound_mapping), runs(found.mapping), specs).differing == ()
    assert len(found.mapping.entries) <= 1.3 * len(session.unbound_mapping.entries)


LAYERS = 6


@pytest.fixture
def tensors():
    generator = np.random.default_rng(5)
    shapes = {"q": (24, 10), "down": (10, 16), "norm": (10,)}
    source = {
        f"layers.{i}.{name}.weight": generator.standard_normal(shape).astype(np.float32)
        for i in range(LAYERS)
        for name, shape in shapes.items()
    }
    source["embed.weight"] = generator.standard_normal((31, 10)).astype(np.float32)
    source["embed.weight"][7] = 0  # a padding token
    return source


def converted(source):
    made = {"embedding": np.pad(source["embed.weight"], ((0, 1), (0, 0)))}
    for i in range(LAYERS):
        query = source[f"layers.{i}.q.weight"].reshape(3, 2, 4, 10).transpose(3, 0, 2, 1).reshape(10, 3, 8)
        made[f"h_{i}/q"] = query / np.sqrt(np.float32(8))
        made[f"h_{i}/down"] = source[f"layers.{i}.down.weight"].T
        made[f"h_{i}/norm"] = source[f"layers.{i}.norm.weight"] + 1
    return {n: np.ascontiguousarray(v) for n, v in made.items()}


def test_scale_shift_padding_and_zero_rows(tensors):
    target = converted(tensors)
    found = recovered(tensors, target, {"head_dim": 8})
    assert (found.unexplained, found.odd) == ((), ())
    assert "divide: head_dim ** 0.5" in found.mapping.text
    again = as_function(found.mapping, {"head_dim": 8}, tensors, target)(tensors)
    assert {n for n, v in again.items() if v.tobytes() != target[n].tobytes()} == set()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_a_rounded_conversion(tensors, dtype):
    target = {n: v.astype(dtype) for n, v in converted(tensors).items()}
    found = recovered(tensors, target, {"head_dim": 8})
    assert found.unexplained == ()
    again = as_function(found.mapping, {"head_dim": 8}, tensors, target)(tensors)
    assert {n for n, v in again.items() if v.tobytes() != target[n].tobytes()} == set()


def test_swapped_tensors_are_odd(tensors):
    target = converted(tensors)
    target["h_2/down"], target["h_3/down"] = target["h_3/down"], target["h_2/down"]
    found = recovered(tensors, target)
    assert found.unexplained == ()
    assert found.odd[0] == (
        "h_2/down: made of layers.3.down.weight by transpose [1, 0]; "
        "most of its siblings: made of layers.2.down.weight by transpose [1, 0]"
    )
    assert len(found.odd) == 2


def test_a_permuted_tensor_is_odd(tensors):
    target = converted(tensors)
    order = np.random.default_rng(0).permutation(16)
    target["h_4/down"] = np.ascontiguousarray(target["h_4/down"][order])
    found = recovered(tensors, target)
    (line,) = found.odd
    assert line.startswith("h_4/down: made of layers.4.down.weight by take 1 indices [")
    (taken,) = [e for e in found.mapping.entries if any("take" in op.written for op in e.ops)]
    assert taken.targets[0].text == "h_4/down"


@pytest.mark.parametrize("elements", [1, 3])
def test_wrong_elements_are_counted_and_placed(tensors, elements):
    target = converted(tensors)
    places = [(11, 4), (2, 0), (2, 9)][:elements]
    for place in places:
        target["h_1/down"][place] *= 1.5
    found = recovered(tensors, target)
    (left,) = found.unexplained
    assert (left.target, left.wrong, left.at) == ("h_1/down", elements, min(places))
    assert found.odd == ()


def test_what_comes_from_nowhere_is_made_as_its_siblings_are(tensors):
    target = converted(tensors)
    target["h_1/down"] = np.random.default_rng(9).standard_normal((16, 10)).astype(np.float32)
    target["h_5/down"] = np.zeros((16, 10), np.float32)
    target["new"] = np.ones(4, np.float32)
    found = recovered(tensors, target)
    reasons = {u.target: u.reason for u in found.unexplained}
    assert reasons["h_1/down"].startswith("no source tensor has its values")
    assert reasons["h_1/down"].endswith("it is made as its siblings are")
    assert reasons["h_5/down"].startswith("zeros")
    assert not reasons["new"].endswith("siblings are")
    right = converted(tensors)
    again = as_function(found.mapping, {}, tensors, target)(tensors)
    assert again["h_1/down"].tobytes() == right["h_1/down"].tobytes()
    assert again["h_5/down"].tobytes() == right["h_5/down"].tobytes()
    assert "new" not in again


def test_equal_tensors_are_told_by_name(tensors):
    for i in range(LAYERS):
        tensors[f"layers.{i}.norm.weight"] = np.ones(10, np.float32)
    target = {f"h_{i}/norm": tensors[f"layers.{i}.norm.weight"].copy() for i in range(LAYERS)}
    found = recovered(tensors, target)
    assert found.ambiguous == tuple(target)
    (entry,) = found.mapping.entries
    assert entry.sources[0].text == "layers.{h}.norm.weight"


def test_a_reshape_where_a_transpose_belongs_is_found(tensors):
    target = converted(tensors)
    target["h_0/down"] = tensors["layers.0.down.weight"].reshape(16, 10).copy()
    found = recovered(tensors, target)
    assert found.unexplained == ()
    assert found.odd[0].startswith("h_0/down: made of layers.0.down.weight by reshape [16, 10]; most of its siblings")


def test_two_strangers():
    generator = np.random.default_rng(1)
    with pytest.raises(MappingError, match="no target tensor has the values of any source tensor"):
        recovered({"a": generator.standard_normal((4, 5))}, {"b": generator.standard_normal((4, 5))})


def made_again(found, source, target):
    """The targets that the recovered mapping makes otherwise than they are."""
    made = as_function(found.mapping, {}, source, target)(source)
    return {n for n, v in made.items() if v.shape != target[n].shape or v.tobytes() != target[n].tobytes()}


def test_zeros_are_explained_by_zeros():
    generator = np.random.default_rng(7)
    weight = generator.standard_normal((12, 8)).astype(np.float32)
    weight[9:] = 0
    source = {"h.0.w": weight, "h.0.b": np.zeros(6, np.float32)}
    target = {"x.0.w": weight.reshape(3, 4, 8).transpose(2, 1, 0).copy(), "x.0.b": np.zeros(6, np.float32)}
    found = recovered(source, target)
    assert (found.unexplained, found.ambiguous, made_again(found, source, target)) == ((), (), set())
    del source["h.0.b"]
    assert [u.reason for u in recovered(source, target).unexplained] == ["zeros: it was never loaded"]


@pytest.mark.parametrize("turned", [False, True])
def test_rows_of_other_values_are_no_padding(turned):
    generator = np.random.default_rng(7)
    source = {"a": generator.standard_normal((8, 4)).astype(np.float32)}
    corrupt = source["a"].copy()
    corrupt[:3] = generator.standard_normal((3, 4))
    found = recovered(source, {"b": corrupt.T.copy() if turned else corrupt})
    assert [(u.wrong, u.size) for u in found.unexplained] == [(12, 32)]
    assert "pad" not in found.mapping.text


def test_one_number_is_not_taken_for_a_multiple_of_another():
    generator = np.random.default_rng(7)
    source = {"w": generator.standard_normal((5, 3)).astype(np.float32), "temperature": np.array(2.65, np.float32)}
    for wrong in (np.array(4.6, np.float32), np.array([4.6], np.float32)):
        found = recovered(source, {"w": source["w"], "temperature": wrong})
        assert [u.target for u in found.unexplained] == ["temperature"]


@pytest.mark.parametrize("odd", [np.array(3.5, np.float32), np.array([2**25 + 1, 2**25 + 3]), np.array(0.1)])
def test_odd_tensors_disturb_nothing(odd):
    generator = np.random.default_rng(7)
    weight = generator.standard_normal((8, 6)).astype(np.float32)
    source = {"w": weight, "odd": odd}
    target = {"x": np.ascontiguousarray((weight / np.float32(3**0.5)).T), "odd": odd}
    found = recovered(source, target)
    assert (found.unexplained, made_again(found, source, target)) == ((), set())


def test_what_is_not_finite_or_not_there():
    weight = np.random.default_rng(7).standard_normal((8, 6)).astype(np.float32)
    weight[0, 0], weight[1, 1] = np.nan, np.inf
    large = weight.copy()
    large[2, 2] = 1e30  # not finite in float16
    empty = np.zeros((0, 3), np.float32)
    with np.errstate(over="ignore"):
        half = large.astype(np.float16)
    found = recovered({"a": weight, "b": large, "e": empty}, {"x": weight.T.copy(), "y": half, "e": empty})
    assert [(u.target, u.reason) for u in found.unexplained] == [("e", "it has no elements that could tell")]
    other = weight * 2
    other[3, 3] = np.inf
    with pytest.raises(MappingError, match="no target tensor"):
        recovered({"a": weight}, {"x": other})


def test_rows_shuffled_each_on_its_own_are_not_explained():
    generator = np.random.default_rng(7)
    source = generator.standard_normal((5, 6)).astype(np.float32)
    shuffled = generator.permuted(source, axis=1)
    shuffled[4] = generator.standard_normal(6)
    plain = generator.standard_normal((3, 4)).astype(np.float32)
    found = recovered({"a": source, "b": plain}, {"x": shuffled, "y": plain})
    assert [(u.target, u.wrong) for u in found.unexplained] == [("x", 30)]


@pytest.mark.parametrize(("noise", "correlation"), [(0.01, 0.9999), (0.5, 0.89)])
def test_what_was_trained_further_is_made_as_its_siblings_and_says_how_close_it_is(tensors, noise, correlation):
    target = converted(tensors)
    was = target["h_1/down"]
    target["h_1/down"] = was + noise * np.random.default_rng(2).standard_normal(was.shape).astype(np.float32)
    found = recovered(tensors, target)
    (left,) = found.unexplained
    assert left.correlation == pytest.approx(correlation, abs=0.03)
    assert "but they go with those of layers.1.down.weight (correlation 0." in left.reason
    assert "trained further" in left.reason
    again = as_function(found.mapping, {}, tensors, target)(tensors)
    assert again["h_1/down"].tobytes() == was.tobytes()


def test_what_is_newly_initialised_goes_with_nothing(tensors):
    target = converted(tensors)
    target["h_1/down"] = np.random.default_rng(9).standard_normal((16, 10)).astype(np.float32)
    (left,) = recovered(tensors, target).unexplained
    assert abs(left.correlation) < 0.3
    assert "nor do they go with those of layers.1.down.weight" in left.reason
    assert "corrupt, newly initialised" in left.reason


def test_a_checkpoint_that_was_trained_further_as_a_whole_is_told_by_its_names():
    generator = np.random.default_rng(4)
    source = {f"h.{i}.{n}": generator.standard_normal(s) for i in range(2) for n, s in (("w", (16, 9)), ("v", (9, 7)))}
    target = {n: a.T.copy() if n.endswith("w") else a.copy() for n, a in source.items()}
    for array in target.values():
        array += 0.1 * generator.standard_normal(array.shape)
    found = recovered(source, target)
    assert [u.target for u in found.unexplained] == list(target)
    assert all("made as it began, by its name" in u.reason or "siblings" in u.reason for u in found.unexplained)
    made = as_function(found.mapping, {}, source, target)(source)
    right = {n: a.T if n.endswith("w") else a for n, a in source.items()}
    assert {n for n, a in made.items() if not np.array_equal(a, right[n])} == set()
    assert set(made) == set(target)


def test_mixed_axes_are_said_even_where_all_layers_have_them(tensors):
    target = converted(tensors)
    for i in range(LAYERS):
        target[f"h_{i}/down"] = tensors[f"layers.{i}.down.weight"].reshape(16, 10).copy()
    found = recovered(tensors, target)
    assert (found.unexplained, found.odd) == ((), ())
    (line,) = found.mixed
    assert line.startswith("h.down: ")
    assert "axes 0 and 1 of layers.0.down.weight (10, 16) come out mixed" in line
    assert recovered(tensors, converted(tensors)).mixed == ()


def torchtitan_style(source):
    """Names of its own; queries and keys of each head with neighbouring pairs, the rest as it is."""
    made = {"tok_embeddings.weight": source["embed.weight"]}
    for i in range(LAYERS):
        query = source[f"layers.{i}.q.weight"]
        made[f"layers.{i}.attention.wq.weight"] = query.reshape(3, 2, 4, 10).transpose(0, 2, 1, 3).reshape(24, 10)
        made[f"layers.{i}.feed_forward.w2.weight"] = source[f"layers.{i}.down.weight"]
        made[f"layers.{i}.ffn_norm.weight"] = source[f"layers.{i}.norm.weight"]
    return {n: np.array(v) for n, v in made.items()}


def maxtext_style(source):
    """Kernels turned, heads on an axis of their own, layers stacked on axis 1, the query scaled."""

    def every(name):
        return [source[f"layers.{i}.{name}.weight"] for i in range(LAYERS)]

    query = [w.reshape(3, 2, 4, 10).transpose(3, 0, 2, 1).reshape(10, 3, 8) * np.float32(8**-0.5) for w in every("q")]
    made = {"token_embedder/embedding": source["embed.weight"]}
    made["decoder/layers/self_attention/query/kernel"] = np.stack(query, 1)
    made["decoder/layers/mlp/wo/kernel"] = np.stack([w.T for w in every("down")], 1)
    made["decoder/layers/norm/scale"] = np.stack(every("norm"), 1)
    return {n: np.array(v) for n, v in made.items()}


STYLES = {
    # how it is made, two layers of one tensor, a tensor whose rows are exchanged, a tensor and a place in it
    "torchtitan": (
        torchtitan_style,
        [("layers.0.feed_forward.w2.weight", ()), ("layers.1.feed_forward.w2.weight", ())],
        ("layers.2.feed_forward.w2.weight", "made of layers.2.down.weight by take 0 indices ["),
        ("layers.4.attention.wq.weight", (3, 7)),
    ),
    "maxtext": (
        maxtext_style,
        [("decoder/layers/mlp/wo/kernel", (slice(None), i)) for i in (0, 1)],
        ("token_embedder/embedding", "made of embed.weight by take 0 indices ["),
        ("decoder/layers/self_attention/query/kernel", (3, 4, 2, 7)),
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_one_tensor_swapped_one_permuted_and_one_element_changed(style, tensors):
    convert, swapped, (shuffled, said), (changed, place) = STYLES[style]
    target = convert(tensors)
    healthy = recovered(tensors, target)
    assert (healthy.unexplained, healthy.odd, healthy.mixed) == ((), (), ())
    one, other = (target[name][at] for name, at in swapped)  # views
    one[...], other[...] = other.copy(), one.copy()
    target[shuffled] = np.random.default_rng(0).permutation(target[shuffled])
    target[changed][place] *= 1.5
    found = recovered(tensors, target)
    (left,) = found.unexplained
    assert (left.target, left.wrong, left.at) == (changed, 1, place)
    assert {line.split(":")[0] for line in found.odd} == {shuffled, *(name for name, _ in swapped)}
    assert any(line.startswith(f"{shuffled}: {said}") for line in found.odd)
    if style == "maxtext":
        told = "axis 1 has its parts in another order than that of their numbers: layers.1.down.weight, layers.0.down"
        assert any(told in line for line in found.odd)


def test_a_slice_that_is_made_otherwise_is_named(tensors):
    target = maxtext_style(tensors)
    layer = target["decoder/layers/mlp/wo/kernel"][:, 2]
    layer[...] = np.random.default_rng(0).permutation(layer)
    (left,) = recovered(tensors, target).unexplained
    assert (
        left.reason == "slices that are made in different ways: 2 of axis 1 (take, transpose) otherwise than the rest"
    )


ROWS, COLUMNS = 2048, 512


def _random(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16)


def _halved(tensor):
    return (tensor.astype(np.float32) / 2).astype(ml_dtypes.bfloat16)


def _with_a_wrong_one(tensor):
    tensor = tensor.copy()
    tensor[3, 5] += 1
    return tensor


WHOLE, LAYERS_OF = (
    _random(ROWS, COLUMNS),
    {f"layers.{i}.w": part for i, part in enumerate(_random(8, ROWS // 8, COLUMNS))},
)
LARGE = {
    "rearranged": ({"w": WHOLE}, WHOLE.reshape(32, 2, 32, COLUMNS).transpose(3, 0, 2, 1).reshape(COLUMNS, -1)),
    "scaled": ({"w": WHOLE}, _halved(WHOLE)),
    "stacked": (LAYERS_OF, np.stack([part.T for part in LAYERS_OF.values()], 1)),
    "joined": (LAYERS_OF, np.concatenate(list(LAYERS_OF.values())).T),
    "wrong": ({"w": WHOLE}, _with_a_wrong_one(WHOLE.T)),
    "padded": ({"w": WHOLE}, np.pad(WHOLE, ((0, 64), (0, 0)))),
    "of other values": ({"w": WHOLE}, _random(1, COLUMNS, ROWS)[0]),
}


@pytest.mark.parametrize("case", list(LARGE))
def test_memory_stays_near_the_tensor_that_is_explained(case):
    source, target = LARGE[case]
    target = {"made": np.ascontiguousarray(target), "as it is": WHOLE if "w" in source else LAYERS_OF["layers.0.w"]}
    recovered(source, target)  # what is imported and kept on the first call
    tracemalloc.start()
    found = recovered(source, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bool(found.unexplained) == (case in ("wrong", "of other values"))
    # beside the two tensors themselves; hashes alone would be 8 bytes an element for each of them
    assert peak < (24 if case == "padded" else 15) * ROWS * COLUMNS


def test_a_joined_bias_is_explained_though_it_is_padded():
    query, key = (np.random.default_rng(i).standard_normal(10).astype(np.float32) for i in (1, 2))
    found = recovered({"q": query, "k": key}, {"fused": np.concatenate([query, key, np.zeros(10, np.float32)])})
    assert found.unexplained == ()
    assert found.unused == ()
    made = as_function(found.mapping, {}, {"q": query, "k": key}, {"fused": np.zeros(30, np.float32)})
    np.testing.assert_array_equal(
        made({"q": query, "k": key})["fused"], np.concatenate([query, key, np.zeros(10, np.float32)])
    )


def test_a_tensor_that_is_not_the_first_of_the_source_is_found_whole():
    first, second = (_random(16, 24 + i) for i in (0, 1))
    found = recovered({"first": first, "second": second}, {"made": np.ascontiguousarray(second.T)})
    assert (found.unexplained, found.unused) == ((), ("first",))
    assert found.mapping.source(found.mapping.entries[0].name) == "second"


def test_infinite_values_are_values():
    """A mask kept as a buffer has them."""
    mask = np.triu(np.full((12, 12), -np.inf, np.float32), 1)
    weights = np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32)
    source = {"mask": mask, "w": weights}
    found = recovered(source, {"m": mask, "v": np.ascontiguousarray(weights.T)})
    assert (found.unexplained, found.unused) == ((), ())
    made = as_function(found.mapping, {}, source, {"m": mask, "v": weights.T})(source)
    np.testing.assert_array_equal(made["m"], mask)
