"""JSON, CSV and the grid: what programs read."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
from report_examples import HOSTILE, NAMES, result, site, sites

from ckptdbg.errors import CkptdbgError
from ckptdbg.report.grid import layers_by_sites, shrink
from ckptdbg.report.table import sites_frame
from ckptdbg.result import Result


@pytest.mark.parametrize("verdict", ["divergent", "definition-differs", "cannot-tell", "precision-floor", "equivalent"])
def test_json_comes_back_as_the_same_result(tmp_path, verdict):
    before = result(verdict)
    path = before.to_json(tmp_path / "new" / "result.json")
    assert json.loads(path.read_text())["schema"] == "ckptdbg.result/1"
    assert Result.from_json(path) == before


def test_what_is_not_finite_is_null_and_noted_beside_it(tmp_path):
    broken = site("mlp.up", "3", "out", 1, math.inf, math.nan, nonfinite="first NaN in decoder/mlp")
    before = result(sites=[broken, site("mlp.up", "4", "out", 2, 1.5, 1.2)], timings={"compare": -math.inf})
    text = before.to_json(tmp_path / "r.json").read_text()
    tree = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    note = tree["sites"][0]["nonfinite"]
    assert tree["sites"][0]["ratio"] is None
    assert note.startswith("first NaN in decoder/mlp; ")
    assert "ratio is inf" in note
    assert "isolated.ratio is nan" in note
    assert tree["sites"][1]["nonfinite"] is None
    assert tree["nonfinite"] == "timings.compare is -inf"
    assert before.timings["compare"] == -math.inf, "writing must not change the result"


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "other/1"}', "[1, 2]"])
def test_another_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(CkptdbgError, match=r"other\.json: this is not a result of ckptdbg; found .*expected JSON") as e:
        Result.from_json(path)
    assert "\n" not in str(e.value)


def test_a_report_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(CkptdbgError, match=r"taken: the report could not be written; found .* is a folder"):
        result().to_json(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(CkptdbgError, match="could not be written"):
        result().to_csv(tmp_path / "file" / "r.csv")
    assert sorted(os.listdir(tmp_path)) == ["file", "taken"]


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    path = result().to_json(tmp_path / "r.json")
    before = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CkptdbgError, match="disk full"):
        result("equivalent").to_json(path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_report_is_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    assert result().to_json(tmp_path / "r.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_table_has_a_row_per_site_in_execution_order(tmp_path):
    given = result()
    shuffled = given.model_copy(update={"sites": given.sites[::-1]})
    frame = pd.read_csv(shuffled.to_csv(tmp_path / "r.csv"))
    assert list(frame["order"]) == list(range(len(given.sites)))
    assert list(frame.columns) == list(sites_frame(given).columns)
    row = frame[(frame.entry == "attention.query") & (frame.layer == 2) & (frame.port == "out")].iloc[0]
    assert row.isolated_ratio == 2.5e5
    assert row["shape"] == "254x96"
    assert row.source_mean == 0.013


def test_a_table_without_sites_has_its_columns():
    assert list(sites_frame(result(sites=[])).columns) == list(sites_frame(result()).columns)


@pytest.mark.parametrize("name", ["=1+1", "@cmd", "-2", "+3", "=\n1"])
def test_no_name_becomes_a_formula(tmp_path, name):
    path = result(sites=[site(name, "0", "out", 0, 1.0, 1.0)]).to_csv(tmp_path / "r.csv")
    entry = pd.read_csv(path, dtype=str).entry[0]
    assert entry.startswith(f"'{name[0]}")
    assert "\n" not in entry


def test_a_csv_holds_any_name(tmp_path):
    path = result(sites=[site(f'{HOSTILE},"', "0", "out", 0, 1.0, 1.0)]).to_csv(tmp_path / "r.csv")
    assert pd.read_csv(path).entry[0] == f'{HOSTILE},"'


def test_the_grid_is_in_execution_order_and_fills_columns_outside_the_layers():
    grid = layers_by_sites(result())
    assert grid.layers == ("0", "1", "2", "3", "4", "5")
    assert grid.sites[0] == "embedding out"
    assert grid.sites[1:3] == ("attention.query in", "attention.query out")
    assert len(grid.sites) == 2 + 2 * len(NAMES)
    assert grid.outside == {0, len(grid.sites) - 1}
    assert (grid.free[:, 0] == 1.4).all()
    assert np.unravel_index(np.nanargmax(grid.isolated), grid.isolated.shape) == (2, 2)


def test_a_cell_shows_its_worst_site_and_a_missing_one_shows_nothing():
    experts = [site("experts.up", "0", "out", n, ratio, None) for n, ratio in enumerate([2.0, 90.0, 3.0])]
    other = site("mlp.up", "1", "out", 3, None, None, nonfinite="NaN in target")
    grid = layers_by_sites(result(sites=[*experts, other]))
    np.testing.assert_array_equal(grid.free, [[90.0, np.nan], [np.nan, np.inf]])
    assert np.isnan(grid.isolated).all()


def test_no_layers_give_one_row():
    grid = layers_by_sites(result(sites=sites(layers=0, bad=None)))
    assert grid.layers == ("",)
    assert grid.free.shape == (1, 2)


def test_shrinking_shows_every_single_bad_cell():
    rng = np.random.default_rng(0)
    large = rng.uniform(0, 1, (128, 4096))
    # One bad cell in each of 200 different pixels.
    pixels = rng.choice(64 * 200, 200, replace=False)
    cells = [(int(2 * (p // 200) + rng.integers(2)), int(p % 200 * 4096 // 200 + rng.integers(20))) for p in pixels]
    for row, column in cells:
        large[row, column] = -100
    small = shrink(large, 64, 200)
    assert small.shape == (64, 200)
    assert (small == -100).sum() == 200
    nearest = large[::2][:, (np.arange(200) + 0.5).astype(int) * 4096 // 200]
    assert (nearest == -100).sum() < 100, "drawing every n-th cell would have been as good"


def test_nan_wins_when_shrinking_and_small_arrays_stay():
    large = np.ones((6, 10))
    large[3, 7] = np.nan
    large[3, 6] = 1e9
    assert np.isnan(shrink(large, 3, 5)).sum() == 1
    assert shrink(large, 6, 10) is large
