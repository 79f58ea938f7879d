"""`ckptdbg capture --sketch` and what takes its trace."""

from typer.testing import CliRunner

from ckptdbg import cli
from ckptdbg.result import Result


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_capture_and_compare(sample, tmp_path):
    sketch = tmp_path / "golden"
    done = run("capture", sample, "--sketch", "-o", sketch)
    assert done.stdout == f"wrote {sketch}: compare with `ckptdbg compare CONFIG --source-trace {sketch}`\n"
    reports = {name: tmp_path / f"r.{name}" for name in ("json", "html", "markdown", "csv")}
    options = [part for name, file in reports.items() for part in (f"--{name}", file)]
    done = run("compare", sample, "--source-trace", sketch, *options)
    assert done.exit_code == 0, done.stderr
    assert "error in units of rounding noise, free running" in done.stdout
    assert "not compared: each piece alone (a sketch holds no values to plant" in done.stdout
    assert "nats per token (worst" in done.stdout
    result = Result.from_json(reports["json"])
    assert result.logits.kl_mean_nats is None
    low, high = result.logits.kl_mean_bounds
    assert 0 <= low < 1e-6 < high
    assert "sketch" in result.noise.method
    assert all(file.stat().st_size for file in reports.values())


def test_options_that_take_values_are_refused_before_anything_runs(sample):
    sketch = sample.parent / "sketch"
    for option in (["--coverage"], ["--fix", sample.parent / "fixed.yaml"]):
        done = run("compare", sample, "--source-trace", sketch, *option)
        assert done.exit_code == 2
        assert f"{option[0]} takes values of the source; found a sketch; expected a trace" in done.stderr
    done = run("capture", sample, "--sketch", "--stats")
    assert "a sketch is written; found --stats; expected -o TRACE" in done.stderr
