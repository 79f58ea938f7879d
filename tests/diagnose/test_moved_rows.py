"""A table of positions that the target reads from another start: its rows are moved for the rest of the diagnosis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptdbg.diagnose.definitions.readings import Rows
from ckptdbg.result import Result
from ckptdbg.samples.build import build_sample
from ckptdbg.session import Session, open_session

TABLE = "embeddings/position/embedding"
START = "the target uses rows {} to {} of " + TABLE + " where the source uses {} to {}"


def _sample(folder: Path) -> Path:
    """BERT, whose target looks up row p + 1 for position p."""
    return build_sample(folder, "bert_to_jax", ("position-offset",), num_hidden_layers=2)


def _change(config: Path, function) -> None:
    path = config.parent / "target.safetensors"
    tensors = load_file(path)
    tensors[TABLE] = np.ascontiguousarray(function(tensors[TABLE]))
    save_file(tensors, path)


def _compared(config: Path) -> tuple[Session, Result]:
    session = open_session(config)
    return session, session.compare()


def _element(table):
    table[5, 3] *= 1.5
    return table


def test_a_wrong_element_of_the_table_is_found_beside_it(tmp_path):
    config = _sample(tmp_path / "sample")
    _change(config, _element)
    _, result = _compared(config)
    tensor, definition = result.findings
    assert (tensor.kind, definition.kind) == ("tensor", "definition")
    assert "1 of 8640 elements differ, at (5, 3)" in tensor.explanation
    assert tensor.repair is not None
    assert tensor.repair.verified
    assert START.format(1, 48, 0, 47) in definition.explanation


def test_rows_are_moved_in_what_a_mended_entry_makes(tmp_path):
    """The table is scaled by the mapping as it is not in the source: the edit makes it again, the rows move after."""
    config = _sample(tmp_path / "sample")
    _change(config, lambda table: table * 2)
    path = config.parent / "mappings" / "bert_to_jax.yaml"
    entry = f"  target: {TABLE}\n"
    path.write_text(path.read_text().replace(entry, f"{entry}  ops: [{{scale: 2}}]\n"))
    session, result = _compared(config)
    definition, layout = sorted(result.findings, key=lambda f: f.kind)
    assert START.format(1, 48, 0, 47) in definition.explanation
    assert layout.repair is not None
    assert layout.repair.verified
    assert layout.repair.entry == "embedding.position"
    bound = session.diagnosis.mapping.bind(session.model_config, session.source_specs, session.target.specs)
    made = {name: value for name, value, _ in bound.values(session.read_source)}
    np.testing.assert_allclose(made[TABLE] * 2, load_file(config.parent / "target.safetensors")[TABLE], rtol=1e-6)


@pytest.mark.parametrize(
    ("ops", "function", "first", "last"),
    [
        ("- slice: 0\n    start: 2\n    stop: 160", lambda table: table[2:], 3, 50),
        (f"- take: 0\n    indices: {list(range(159, -1, -1))}", lambda table: table[::-1], 111, 158),
    ],
    ids=["cut by the mapping", "turned by the mapping"],
)
def test_rows_that_the_mapping_counts_otherwise_are_left_where_they_are(
    ops, function, first, last, tmp_path, monkeypatch
):
    moved = []
    monkeypatch.setattr(Rows, "undone", lambda _, table: moved.append(table) or np.array(table))
    config = _sample(tmp_path / "sample")
    _change(config, function)
    path = config.parent / "mappings" / "bert_to_jax.yaml"
    entry = f"  target: {TABLE}\n"
    path.write_text(path.read_text().replace(entry, f"{entry}  ops:\n  {ops}\n"))
    _, result = _compared(config)
    assert result.verdict == "definition-differs"
    assert not moved
    (finding,) = result.findings
    assert f"of {TABLE} the target uses what rows {first} to {last} of the source's table became" in finding.explanation
