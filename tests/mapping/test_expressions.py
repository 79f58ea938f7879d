"""Arithmetic in mapping files: the same numbers as Python, and nothing but arithmetic."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdbg.errors import MappingError
from ckptdbg.mapping.expressions import Expression, Scope
from ckptdbg.mapping.templates import Template

SCOPE = Scope(
    {"heads": 6, "d": 8}, {"hidden_size": 48, "text_config": {"layers": 11}, "none": None, "act": "gelu", "tie": True}
)

numbers = st.integers(0, 9).map(str) | st.sampled_from(["1.5", "heads", "d"])
arithmetic = st.recursive(
    numbers,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(" ".join)
        | inner.map(lambda text: f"-({text})")
        | inner.map(lambda text: f"({text})")
    ),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine is no fault
@given(arithmetic)
def test_numbers_are_those_of_python(text):
    try:
        expected = eval(text, {"__builtins__": {}}, {"heads": 6, "d": 8})
    except ZeroDivisionError:
        with pytest.raises(MappingError, match="division by zero"):
            Expression(text, "m:1").value(SCOPE)
    else:
        assert Expression(text, "m:1").value(SCOPE) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("hidden_size // heads", 8),
        ("d ** -0.5", 8**-0.5),
        ("text_config.layers % 4", 3),
        (" 2 ** 3 ** 2 ", 512),
        ("+d - -1", 9),
    ],
)
def test_values(text, value):
    assert Expression(text, "m:1").value(SCOPE) == value


@pytest.mark.parametrize(
    "text",
    [
        "sqrt(d)",
        "__import__('os')",
        "d if 1 else 2",
        "[1]",
        "d.real()",
        "'a'",
        "True",
        "d < 3",
        "lambda: 1",
        "d & 1",
        "~d",
        "1j",
        "f(1).x",
    ],
)
def test_what_is_not_arithmetic_is_refused_when_read(text):
    with pytest.raises(
        MappingError, match=re.escape(f"m.yaml:4: not arithmetic: {text!r}; expected numbers, names, + -")
    ):
        Expression(text, "m.yaml:4")


@pytest.mark.parametrize("text", ["", "3 +", "(", "a b"])
def test_what_is_no_expression_is_refused_when_read(text):
    with pytest.raises(MappingError, match=r"m.yaml:4: not an expression"):
        Expression(text, "m.yaml:4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head * 2", "m.yaml:4: unknown variable head in 'head * 2'; did you mean heads?"),
        (
            "text_config.layer",
            "m.yaml:4: unknown variable text_config.layer in 'text_config.layer'; did you mean text_config.layers?",
        ),
        ("none", "m.yaml:4: unknown variable none in 'none'; declare it under variables, or check the source's config"),
        ("act", "m.yaml:4: act in 'act' is not a number; found 'gelu'; expected a number"),
        ("tie", "m.yaml:4: tie in 'tie' is not a number; found True; expected a number"),
        ("d ** 65", "m.yaml:4: an exponent over 64: 'd ** 65'"),
        ("(-d) ** 0.5", "m.yaml:4: a root of a negative number: '(-d) ** 0.5'"),
        ("1e300 ** 2", "m.yaml:4: a number too large: '1e300 ** 2'"),
    ],
)
def test_what_has_no_value(text, message):
    with pytest.raises(MappingError) as caught:
        Expression(text, "m.yaml:4").value(SCOPE)
    assert str(caught.value).startswith(message)


def test_placeholders_match_whole_numbers_only():
    names = ["a.0.w", "a.10.w", "a.9.w", "a.09.w", "a.x.w", "a.1.w.b", "b.1.w", "axw"]
    assert Template("a.{i}.w", "m:1").matches(names, Scope()) == [{"i": 0}, {"i": 10}, {"i": 9}]


def test_a_placeholder_that_comes_twice_is_the_same_number():
    assert Template("a.{i}.{j}.{i}", "m:1").matches(["a.1.2.1", "a.1.2.3"], Scope()) == [{"i": 1, "j": 2}]


def test_values_that_are_known_are_not_matched():
    template = Template("a.{6*block + inner}.{expert}", "m:1")
    assert template.matches(["a.7.3", "a.8.3"], Scope({"block": 1, "inner": 2})) == [{"expert": 3}]
    assert template.matches(["a.7.3"], Scope({"block": 1})) is None
    assert template.fill(Scope({"block": 1, "inner": 2, "expert": 30})) == "a.8.30"


@pytest.mark.parametrize("text", ["", "a.{b", "a}.b", "a.{b}}"])
def test_what_is_no_name(text):
    with pytest.raises(MappingError, match=r"m\.yaml:4: not a"):
        Template(text, "m.yaml:4")


def test_an_index_that_is_not_whole():
    with pytest.raises(MappingError, match=r"m.yaml:4: the index in a.\{i / 2\} must be a whole number; found 1.5"):
        Template("a.{i / 2}", "m.yaml:4").fill(Scope({"i": 3}))
