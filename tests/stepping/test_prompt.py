"""`ckptdbg step`: the verbs at a prompt and in a pipe."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ckptdbg.cli.step import Prompt
from ckptdbg.mapping import Mapping


@pytest.fixture
def typed(on_torch, capsys, monkeypatch):
    """Types lines at a prompt; gives what it says on stdout, what it complains of, and its status."""

    def type_lines(*lines):
        vars(on_torch).pop("stepper", None)
        prompt = Prompt(on_torch)
        prompt.cmdqueue = [*lines, "EOF"]
        prompt.loop()
        said = capsys.readouterr()
        return said.out, said.err, prompt.status

    return type_lines


def first_lines(text):
    return [line.partition("  ")[0] for line in text.splitlines() if line.startswith("[")]


def test_moving_and_repeating(typed):
    out, err, status = typed("s", "", "n", "b", "goto 9", "c", "w", "c", "c")
    assert first_lines(out) == [f"[{n} of 22]" for n in (1, 2, 11, 10, 9, 17, 17, 22, 22)]
    assert (err, status) == ("", 0)


def test_the_whole_way_to_a_mended_mapping(typed, tmp_path):
    new = tmp_path / "mended.yaml"
    out, err, status = typed(
        "findings", "c", "show", "show alone", "plant layers", "try 1", "apply", "c", f"write {new}"
    )
    assert (err, status) == ("", 0)
    assert "1. Layout fault at layers.0.feed_forward.w2.weight in, layers 0, 1: sources in the order" in out
    assert "(tokens x features), this piece alone" in out
    assert "`apply` keeps it" in out
    assert "no divergence lies ahead" in out
    assert Mapping.load(new).source("mlp.gate_up")[0].endswith("gate_proj.weight")


def test_ops_are_typed_in_a_line(typed):
    out, err, _ = typed("try mlp.down last {scale: 2}", "try mlp.down [{scale: 2}]", "undo")
    assert out.count("tried on mlp.down") == 2
    assert err == "ckptdbg: nothing is applied, so there is nothing to undo\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("fly", "no command fly; `help` lists the commands"),
        ("goto", "not a site's number; found nothing; expected goto 1 to goto 22"),
        ("goto 23", "not a site's number; found 23; expected goto 1 to goto 22"),
        ("show all", "an unknown word; found all; expected alone, or nothing"),
        ("try", "what to try is missing; expected try N, or try ENTRY OPS; `help` shows the forms"),
        ("try mlp.down", "what to try is missing; expected try N, or try ENTRY OPS; `help` shows the forms"),
        ("try mlp.down {scal: 2}", "what was typed: unknown op scal; did you mean scale?"),
        ("apply", "nothing was tried yet; try a finding's repair, or ops for an entry"),
        ("write", "write needs the name of a new file; expected write FILE"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line_and_the_prompt_goes_on(typed, line, complaint):
    out, err, status = typed(line, "w")
    assert err == f"ckptdbg: {complaint}\n"
    assert first_lines(out) == ["[1 of 22]"]
    assert status == 2


def test_an_interrupt_ends_the_command_and_not_the_prompt(typed, on_torch, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ckptdbg.stepping.stepper.plant", interrupted)
        out, err, status = typed("c", "plant", "w")
    assert err == "ckptdbg: interrupted; what was finished before is kept\n"
    assert (first_lines(out), status) == (["[8 of 22]"] * 2, 0)


def test_help_lists_every_command(typed):
    out, _, _ = typed("help")
    for name in ("step (s)", "next (n)", "back (b)", "continue (c)", "where (w)", "goto N", "show", "plant", "try N"):
        assert name in out
    for name in ("apply:", "undo:", "write FILE", "help (h)", "quit (q)", "findings:"):
        assert name in out


def test_it_works_in_a_pipe(on_torch):
    command = [sys.executable, "-m", "ckptdbg.cli", "step", str(on_torch.config.file)]
    done = subprocess.run(command, input="c\nw\nq\nw\n", capture_output=True, text=True, timeout=300)
    assert first_lines(done.stdout) == ["[8 of 22]"] * 2
    assert (done.stderr, done.returncode) == ("", 0)
