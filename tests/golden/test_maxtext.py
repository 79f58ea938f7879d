"""Golden logits of MaxText's format: read, written, compared; broken lines and pickles with code."""

import json
import os
import pickle

import numpy as np
import pytest
from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.compare.logits import compare_logits
from ckptdbg.errors import CheckpointError
from ckptdbg.golden.figures import compare_golden, golden_of
from ckptdbg.golden.maxtext import Golden, read_golden, write_golden
from ckptdbg.session import open_session


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def made(prompts=2, length=5, vocabulary=7):
    rng = np.random.default_rng(0)
    return [
        Golden("", f"prompt {i}", rng.integers(0, vocabulary, length + i), logits.astype(np.float32))
        for i in range(prompts)
        for logits in [rng.standard_normal((length + i, vocabulary))]
    ]


@pytest.mark.parametrize("name", ["g.jsonl", "g.pickle", "g.pkl"])
def test_what_is_written_is_read(name, tmp_path):
    goldens = made()
    file = write_golden(tmp_path / "new" / name, goldens, pickles=True)
    again = read_golden(file, pickles=True)
    assert [g.prompt for g in again] == ["prompt 0", "prompt 1"]
    for a, b in zip(goldens, again, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.logits, b.logits)
    with pytest.raises(CheckpointError, match="there is a file here already; name a new one"):
        write_golden(file, goldens, pickles=True)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_as_maxtext_writes_it(protocol, tmp_path):
    """A list of dicts with NumPy arrays, in every protocol; row- and column-major, and with either byte order."""
    items = [
        {"prompt": g.prompt, "tokens": g.tokens, "logits": logits}
        for g, order in zip(made(3), ("C", "F", ">"), strict=True)
        for logits in [g.logits.astype(">f4") if order == ">" else np.array(g.logits, order=order)]
    ]
    (tmp_path / "g.pickle").write_bytes(pickle.dumps(items, protocol))
    for item, read in zip(items, read_golden(tmp_path / "g.pickle", pickles=True), strict=True):
        assert np.array_equal(item["logits"], read.logits)
        assert np.array_equal(item["tokens"], read.tokens)


def test_a_line_of_the_checkers_own_output_holds_a_list(tmp_path):
    """``forward_pass_logit_checker --output_logits_path`` writes all prompts into one line."""
    items = [{"prompt": g.prompt, "tokens": g.tokens.tolist(), "logits": g.logits.tolist()} for g in made(3)]
    (tmp_path / "g.jsonl").write_text(json.dumps(items) + "\n")
    assert [g.prompt for g in read_golden(tmp_path / "g.jsonl")] == ["prompt 0", "prompt 1", "prompt 2"]


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harm",)


class Attribute:
    def __reduce__(self):
        return getattr, (dict, "clear")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (Harmful(), "posix.system"),
        ([{"prompt": Harmful(), "tokens": [], "logits": []}], "posix.system"),
        (Attribute(), "builtins.getattr"),
        (np.array([Harmful()], dtype=object), "an array of dtype 'O8'"),
        (np.random.default_rng(0), r"numpy.random.*"),
        (Golden, "ckptdbg.golden.maxtext.Golden"),
    ],
)
def test_a_pickle_with_code_is_refused_and_not_run(value, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.pickle").write_bytes(pickle.dumps(value))
    message = rf"g.pickle: this pickle asks for more than values, and was not run; found {found}; expected lists, dicts"
    with pytest.raises(CheckpointError, match=message):
        read_golden(tmp_path / "g.pickle", pickles=True)
    assert [path.name for path in tmp_path.iterdir()] == ["g.pickle"]


def test_the_harmful_pickle_would_do_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Harmful()))
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"not a pickle", pickle.dumps([1])[:-1], b"\x80\x04r\xff\xff\xff\xff.", b"P1\n.",
        b"cnumpy\nndarray\n(I9999999999\ntR.", b"cnumpy._core.multiarray\n_reconstruct\n(tRN.",
    ],
)  # fmt: skip
def test_a_broken_pickle_gives_one_error(raw, tmp_path):
    (tmp_path / "g.pickle").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"g.pickle: "):
        read_golden(tmp_path / "g.pickle", pickles=True)


def line(**changes):
    item = {"prompt": "I love to", "tokens": [1, 2], "logits": [[0.5, 1, 2], [3, 4, 5]], **changes}
    return json.dumps({key: value for key, value in item.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON: Expecting .*; expected an object with prompt, tokens and logits"),
        (line(logits=[[0.5, float("nan"), 2], [3, 4, 5]]), "not valid JSON: found NaN where a number is due"),
        (line(logits=[[0.5, float("-inf"), 2], [3, 4, 5]]), "not valid JSON: found -Infinity where a number is due"),
        (line(logits=[[0.5, 1e39, 2], [3, 4, 5]]), r"its logits are not all numbers; found inf at \[0, 1\]"),
        ("7", "not an object; found int; expected prompt, tokens, logits"),
        (line(tokens=None), "it has no tokens; found prompt, logits; expected prompt, tokens, logits"),
        (line(logits=None), "it has no logits; found prompt, tokens"),
        (line(tokens=[1.5, 2]), r"tokens is not right; found float64 \[2\]; expected \[length\] whole numbers"),
        (line(tokens=["a", "b"]), r"tokens is not right; found <U1 \[2\]"),
        (line(logits=[[1, 2], [3]]), "logits is not right; found rows of different lengths"),
        (line(logits=[1, 2]), r"logits is not right; found int64 \[2\]; expected \[length, vocabulary\] numbers"),
        (line(tokens=[1, 2, 3]), r"tokens and logits do not fit; found 3 tokens, logits \[2, 3\]"),
        (line(tokens=[], logits=[]), "logits is not right"),
        (
            line(pixel_values=[[1.0]]),
            "the model was given more than tokens.*; found pixel_values; expected prompt, tokens, logits",
        ),
        (line(attention_mask=[0, 1]), "its attention_mask leaves tokens out"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_line_is_named(text, message, tmp_path):
    (tmp_path / "g.jsonl").write_text(f"{line()}\n\n{text}\n")
    with pytest.raises(CheckpointError, match=rf"g\.jsonl:3: ({message})"):
        read_golden(tmp_path / "g.jsonl")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("g.json", b"", r"unknown kind of golden logits; found .json; expected .jsonl, .pickle, .pkl"),
        ("g.pickle", pickle.dumps([]), "a pickle is not taken unasked; expected .jsonl; --pickle takes it"),
        ("g.jsonl", b"\n\n", "there are no golden logits in it"),
        ("g.jsonl", b"\xff\xfe", "g.jsonl:1: not valid JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused(name, raw, message, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(CheckpointError, match=message):
        read_golden(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file of golden logits; check the path"):
        read_golden(tmp_path / "nothing.jsonl")


class Fixed:
    """A side that gives the same logits whatever it is asked."""

    def __init__(self, logits):
        self.logits = logits

    def run(self, inputs):
        from ckptdbg.models.records import Trace

        logits = self.logits[None]
        return Trace((), logits.reshape(-1, logits.shape[-1]), logits.shape)


def test_figures_are_ours_and_those_of_maxtext():
    """Two of the last token's first ten exchange places, and one leaves for another."""
    golden = made(1, 4, 30)[0]
    own = golden.logits.copy()
    order = np.argsort(-own[-1])
    own[-1, order[[2, 3]]] = own[-1, order[[3, 2]]]
    own[-1, order[[9, 20]]] = own[-1, order[[20, 9]]]
    (found,) = compare_golden(Fixed(own), [golden], None)
    assert (found.overlap_count, found.rank_agreement_percentage) == ("9/10", 70.0)
    assert found.jaccard_similarity == pytest.approx(9 / 11)
    assert found.logits == compare_logits(golden.logits[None], own[None])


def test_a_padded_vocabulary_is_compared_as_far_as_both_go():
    golden = made(1, 4, 30)[0]
    padded = np.pad(golden.logits, ((0, 0), (0, 6)))
    (found,) = compare_golden(Fixed(padded), [golden], None)
    assert (found.vocabulary, found.logits.kl_max_nats) == ((30, 36), 0.0)


def test_the_command_writes_and_compares(sketched, tmp_path):
    file = tmp_path / "golden.jsonl"
    done = run("logits", sketched, "--write-golden", file, "--side", "source")
    assert (done.exit_code, done.stdout.split(":")[-1].strip()) == (0, "2 prompts of the source")
    assert "there is a file here already" in run("logits", sketched, "--write-golden", file).stderr
    done = run("logits", sketched, "--golden", file)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("overlap_count             10/10") == 2
    assert "all 96 tokens: KL " in done.stdout
    session = open_session(sketched)
    written, made = read_golden(file), golden_of(session.source.side, session.inputs, "")
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(written, made, strict=True))


def test_a_token_beyond_the_vocabulary_is_named(sketched, tmp_path):
    write_golden(tmp_path / "g.jsonl", [Golden("", "", np.array([1, 5000]), np.zeros((2, 131), np.float32))])
    done = run("logits", sketched, "--golden", tmp_path / "g.jsonl")
    assert done.exit_code == 2
    assert "g.jsonl:1: a token beyond the model's vocabulary; found 5000 at [1]; expected 0 to 130" in done.stderr
    assert "three things" in run("logits", sketched, "--golden", tmp_path / "g.jsonl", "--greedy", 3).stderr


def test_padding_is_left_out_of_what_is_written():
    logits = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)

    class Side:
        def run(self, inputs):
            from ckptdbg.models.records import Trace

            return Trace((), logits.reshape(6, 4), logits.shape)

    inputs = {"input_ids": np.array([[9, 1, 2], [3, 4, 5]]), "attention_mask": np.array([[0, 1, 1], [1, 1, 1]])}
    first, second = golden_of(Side(), inputs, "")
    assert first.tokens.tolist() == [1, 2]
    assert np.array_equal(first.logits, logits[0, 1:])
    assert np.array_equal(second.logits, logits[1])
