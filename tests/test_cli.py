"""The command line: exit statuses, one clear line per error, and the demo end to end."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

import ckptdbg.session
from ckptdbg import cli
from ckptdbg.checkpoint import write_safetensors
from ckptdbg.errors import ConfigError
from ckptdbg.mapping import BoundMapping
from ckptdbg.result import Result
from ckptdbg.samples.build import DEMO_PAIR
from ckptdbg.samples.fault import plan
from ckptdbg.samples.faults import FAULTS

NO_STATS = {"mean": None, "std": None, "min": None, "max": None}


def result(verdict, findings=()):
    return Result.model_validate(
        {
            "verdict": verdict,
            "first_divergence": None,
            "findings": list(findings),
            "sites": [],
            "not_compared": [],
            "noise": {"method": "promoted", "suspect": 10, "divergent": 30},
            "logits": None,
            "coverage": {"parameters_exercised": 3, "parameters_total": 3},
            "probe": {},
            "environment": {},
            "timings": {},
        }
    )


def finding(cause="mapping", effect="diverges", *entries):
    return {
        "kind": "layout",
        "cause": cause,
        "effect": effect,
        "entries": [{"name": name} for name in entries],
        "layers": [],
        "site": "somewhere out",
        "ratio": 1e5,
        "explanation": "Something is permuted.",
    }


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_mapping_that_is_there_is_seen_before_the_models_run(session, tmp_path):
    session(RuntimeError("the models ran"))
    (tmp_path / "mine.yaml").write_text("mine")
    done = run("compare", "config.yaml", "--fix", tmp_path / "mine.yaml")
    assert done.exit_code == 2
    assert "mine.yaml: there is a file here already; name a new one" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.fixture
def session(monkeypatch):
    """Makes ``compare`` return or raise what it is told to."""

    def arrange(outcome):
        class Fake:
            mapping = BoundMapping(())
            comparison = None

            def compare(self, progress):
                progress("comparing")
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        monkeypatch.setattr(ckptdbg.session, "open_session", lambda config, source_trace=None: Fake())

    return arrange


@pytest.mark.parametrize(
    ("verdict", "status", "strict"),
    [
        ("equivalent", 0, 0),
        ("precision-floor", 0, 1),
        ("cannot-tell", 1, 1),
        ("definition-differs", 1, 1),
        ("divergent", 1, 1),
    ],
)
def test_the_exit_status_follows_the_verdict(session, verdict, status, strict):
    session(result(verdict))
    assert run("compare", "config.yaml").exit_code == status
    assert run("compare", "config.yaml", "--strict").exit_code == strict


def test_every_report_is_written(session, tmp_path):
    given = result("divergent", [finding("mapping", "diverges", "q")])
    session(given)
    names = {"--json": "r.json", "--html": "r.html", "--markdown": "r.md", "--csv": "r.csv"}
    done = run("compare", "c.yaml", *(part for flag, name in names.items() for part in (flag, tmp_path / name)))
    assert done.exit_code == 1
    for name in names.values():
        assert (tmp_path / name).stat().st_size > 0
        assert str(tmp_path / name) in done.stdout
    assert Result.from_json(tmp_path / "r.json") == given


def test_bad_input_is_one_line_on_stderr(session):
    error = ConfigError(
        "unknown key", where="config.yaml:3", found="'lodaer'", expected="loader", hint="rename\n  it:\nnow"
    )
    session(error)
    done = run("compare", "config.yaml")
    assert done.exit_code == 2
    assert done.stdout == ""
    expected = "ckptdbg: config.yaml:3: unknown key; found 'lodaer'; expected loader; rename; it: now\n"
    assert done.stderr == expected


def test_a_failure_of_the_tool_is_one_line_and_a_kept_traceback(session, monkeypatch):
    session(ZeroDivisionError("by zero\nindeed"))
    monkeypatch.delenv("CKPTDBG_DEBUG", raising=False)
    done = run("compare", "config.yaml")
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "ckptdbg: ckptdbg itself failed: ZeroDivisionError: by zero; indeed; the traceback is"
    )
    file = done.stderr.split("the traceback is in ")[1].split(" (")[0]
    with open(file, encoding="utf-8") as kept:
        assert "ZeroDivisionError: by zero" in kept.read()


def test_the_traceback_is_shown_when_asked_for(session, monkeypatch):
    session(ZeroDivisionError("by zero"))
    monkeypatch.setenv("CKPTDBG_DEBUG", "1")
    done = run("compare", "config.yaml")
    assert done.exit_code == 3
    assert "Traceback (most recent call last)" in done.stderr


@pytest.mark.parametrize("arguments", [["compare"], ["nothing"], ["compare", "c.yaml", "--nothing"], ["logits"]])
def test_wrong_usage_is_bad_input(arguments):
    assert run(*arguments).exit_code == 2


def test_a_missing_config_is_bad_input(tmp_path):
    done = run("compare", tmp_path / "none.yaml")
    assert done.exit_code == 2
    assert "none.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(
        path, [("layer.weight", np.arange(6, dtype=np.float32).reshape(2, 3)), ("b", np.float32([np.nan]))]
    )
    return path


def test_inspect_lists_tensors(checkpoint):
    done = run("inspect", checkpoint)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "layer.weight               2x3  float32",
        "b                            1  float32",
        "2 tensors, 7 elements",
    ]


def test_inspect_says_what_is_inside(checkpoint):
    first, second, _ = run("inspect", checkpoint, "--stats").stdout.splitlines()
    assert first.split()[3:] == ["mean", "2.5", "std", "1.71", "min", "0", "max", "5", "nonfinite", "0"]
    assert second.split()[3:] == ["mean", "–", "std", "–", "min", "–", "max", "–", "nonfinite", "1"]


def test_inspect_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no header")
    done = run("inspect", tmp_path / "x.safetensors")
    assert done.exit_code == 2
    assert "x.safetensors" in done.stderr


def test_list_faults_says_a_name_and_a_description_a_line():
    lines = run("demo", "--list-faults").stdout.splitlines()
    assert len(lines) == len(FAULTS)
    for line in lines:
        name, description = line.split(maxsplit=1)
        assert FAULTS[name].description == description
    assert len(run("demo", "--list-faults", "--pair", "gpt2_to_jax").stdout.splitlines()) < len(lines)


@pytest.mark.parametrize("arguments", [["--fault", "no-such"], ["--pair", "no-such", "--fault", "none"]])
def test_the_demo_refuses_what_it_does_not_know(tmp_path, arguments):
    done = run("demo", "--out", tmp_path, *arguments)
    assert done.exit_code == 2
    assert "no-such" in done.stderr


@pytest.mark.parametrize(
    ("name", "verdict", "found", "yes"),
    [
        ("query-not-interleaved", "divergent", finding("mapping", "diverges", "mlp.up", "attention.query"), True),
        ("query-not-interleaved", "divergent", finding("mapping", "diverges", "attention.out"), False),
        ("query-not-interleaved", "equivalent", finding("mapping", "none", "attention.query"), False),
        ("query-not-interleaved@1", "divergent", finding("mapping", "diverges", "attention.query@1"), True),
    ],
)
def test_a_planted_fault_counts_as_found_when_its_entry_is_named(name, verdict, found, yes):
    assert cli.was_found(plan(name, DEMO_PAIR, FAULTS), result(verdict, [found])) is yes


def planted_as(**wanted):
    return next(
        plan(fault.name, DEMO_PAIR, FAULTS)
        for fault in FAULTS.values()
        if fault.applies(DEMO_PAIR) and all(getattr(fault, key) == value for key, value in wanted.items())
    )


def test_a_definition_counts_as_found_when_a_model_is_named_the_cause():
    item = planted_as(kind="definition", effect="diverges")
    assert cli.was_found(item, result("definition-differs", [finding("model")]))
    assert not cli.was_found(item, result("divergent", [finding("mapping")]))


def test_a_precision_floor_is_found_by_its_verdict_alone():
    item = next(plan(fault.name, fault.pairs[0], FAULTS) for fault in FAULTS.values() if fault.effect == "rounding")
    assert cli.was_found(item, result("precision-floor"))
    assert not cli.was_found(item, result("equivalent"))


@pytest.mark.parametrize(
    ("arguments", "verdict", "status"),
    [(["--fault", "none"], "equivalent", 0), (["--fault", "none"], "divergent", 1), ([], "equivalent", 1)],
)
def test_the_demo_succeeds_only_when_it_ends_as_planted(session, tmp_path, arguments, verdict, status):
    session(result(verdict))
    done = run("demo", "--out", tmp_path, *arguments)
    assert done.exit_code == status
    assert ("did not end as planted" in done.stderr) == bool(status)
    assert (tmp_path / "report.html").exists()


def test_the_demo_finds_what_it_plants(tmp_path):
    done = run("demo", "--out", tmp_path)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "DIVERGENT" in done.stdout
    assert str(tmp_path / "report.html") in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "<img" in page
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "divergent"
    trace = tmp_path / "trace"
    assert run("capture", tmp_path / "config.yaml", "-o", trace).exit_code == 0
    again = run("compare", tmp_path / "config.yaml", "--source-trace", trace, "--json", tmp_path / "again.json")
    assert again.exit_code == 1
    names = [
        [entry.name for finding in Result.from_json(tmp_path / file).findings for entry in finding.entries]
        for file in ("report.json", "again.json")
    ]
    assert names[0] == names[1]
    logits = run("logits", tmp_path / "config.yaml", "--greedy", "3")
    assert logits.exit_code == 0, logits.stderr
    assert "kl_mean_nats" in logits.stdout
    assert logits.stdout.count("  source  ") == logits.stdout.count("  target  ") > 0


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['ckptdbg', '--help']\n"
        "try: runpy.run_module('ckptdbg.cli', run_name='__main__')\n"
        "except SystemExit: print(*sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout
    assert not {"torch", "jax", "transformers", "pandas", "matplotlib", "numpy"} & set(done.stderr.split())
    # Measured 0.2 s; the bound leaves room for a busy machine.
    assert time.perf_counter() - started < 3


def test_who_closes_the_pipe_loses_no_report(tmp_path):
    out = tmp_path / "demo"
    arguments = ["demo", "--pair", "llama_to_torch", "--fault", "down-zeros", "--out", str(out)]
    command = [sys.executable, "-m", "ckptdbg.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.close()  # as `| head` does once it has its lines
        assert running.wait() != 0
    assert {"report.json", "report.html"} <= {file.name for file in out.iterdir()}
