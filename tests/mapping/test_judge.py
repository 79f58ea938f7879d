"""Two mappings judged by what they do."""

import numpy as np
import pytest

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.judge import judge
from ckptdbg.mapping.tracing import trace

SPECS = {"q": TensorSpec((12, 5), "float32"), "k": TensorSpec((12, 5), "float32"), "n": TensorSpec((5,), "float32")}


def right(tensors):
    q = tensors["q"].reshape(2, 2, 3, 5).transpose(0, 2, 1, 3).reshape(12, 5)
    return {"q": q * np.float32(0.5), "k": tensors["k"].T, "n": tensors["n"] + 1, "e": np.exp(tensors["n"])}


CHANGES = {
    "same": {},
    "values": {"n": lambda t: t["n"] - 1},
    "layout": {"q": lambda t: t["q"] * np.float32(0.5)},
    "sources": {"k": lambda t: t["q"].T},
    "shape": {"k": lambda t: t["k"]},
    "unread": {"e": lambda t: np.exp2(t["n"])},
    "missing": {"q": None},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_difference_is_named(kind):
    def other(tensors):
        made = right(tensors)
        for name, change in CHANGES[kind].items():
            made[name] = change and change(tensors)
        return {n: v for n, v in made.items() if v is not None}

    found = judge(right, other, SPECS)
    assert [t.same for t in found.differing] == ([] if kind == "same" else [kind])
    shares = {
        "same": (1, 1, 1),
        "values": (1, 1, 0.75),
        "layout": (1, 0.75, 0.75),
        "shape": (1, 0.75, 0.75),
    }.get(kind, (0.75, 0.75, 0.75))
    assert tuple(found.score.values()) == shares


def test_what_only_the_second_makes_is_extra():
    found = judge(right, lambda t: {**right(t), "more": t["n"]}, SPECS)
    assert [(t.target, t.same) for t in found.differing] == [("more", "extra")]
    assert found.score["values"] == 1


def test_rounding_on_the_way_is_a_difference_of_values():
    def rounded(tensors):
        return {**right(tensors), "k": tensors["k"].T.astype(np.float16).astype(np.float32)}

    assert [(t.target, t.same) for t in judge(right, rounded, SPECS).differing] == [("k", "values")]


def test_what_is_zero_for_zeros_and_ones_is_no_constant():
    def centred(tensors):
        return {"q": tensors["q"] - tensors["q"].mean(0)}

    found = judge(centred, lambda t: {"q": np.zeros((12, 5), np.float32)}, SPECS)
    assert [(t.target, t.same) for t in found.differing] == [("q", "unread")]
    assert judge(centred, centred, SPECS).differing == ()


def test_a_traced_function_is_the_function():
    def plain(tensors):
        return {n: v for n, v in right(tensors).items() if n != "e"}

    traced = trace(plain, SPECS)
    bound = traced.mapping.bind({}, SPECS, traced.specs)
    found = judge(plain, lambda t: {n: v for n, v, _ in bound.values(lambda name: t[name])}, SPECS)
    assert found.differing == ()
