"""What a report takes from a mapping and from a comparison."""

from types import SimpleNamespace

import numpy as np
import pytest
from report_examples import result

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping import Mapping
from ckptdbg.report.entries import Step, entry_views, view_of
from ckptdbg.report.pictures import pictures_of
from ckptdbg.result import EntryRef

TEXT = """\
version: 1
variables:
  heads: num_heads
entries:
  - name: embedding
    source: embed.weight
    target: embed/table
  # the query
  - name: attention.query
    source: layers.{layer}.q.weight
    target: layers_{layer}/query
    ops:
      - rearrange: "(h d) m -> m h d"
        h: heads

      - scale: 0.5

ignore: {source: [], target: []}
"""


@pytest.fixture
def mapping(tmp_path):
    file = tmp_path / "mapping.yaml"
    file.write_text(TEXT)
    source = {"embed.weight": TensorSpec((11, 8), "float32")}
    target = {"embed/table": TensorSpec((11, 8), "float32")}
    for layer in range(4):
        source[f"layers.{layer}.q.weight"] = TensorSpec((6, 8), "float32")
        target[f"layers_{layer}/query"] = TensorSpec((8, 3, 2), "float32")
    return Mapping.load(file).bind({"num_heads": 3}, source, target)


def test_an_entry_is_shown_as_it_stands_in_its_file(mapping):
    (view,) = entry_views(result(), mapping)
    assert (view.name, view.line) == ("attention.query", 9)
    assert view.lines == tuple(TEXT.splitlines()[8:16])


def test_the_ops_are_shown_with_shapes_in_a_layer_under_suspicion(mapping):
    (view,) = entry_views(result(), mapping)
    assert view.steps[0] == Step("layers.2.q.weight", (6, 8)), "the first layer of the finding is 2"
    assert [step.shape for step in view.steps[1:]] == [(8, 3, 2), (8, 3, 2)]
    assert "(h d) m -> m h d" in view.steps[1].text


def test_a_mapping_whose_file_is_gone_still_shows_its_ops(mapping):
    open(mapping.file, "w").close()
    (view,) = entry_views(result(), mapping)
    assert view.lines == ()
    assert len(view.steps) == 3


def test_an_entry_that_no_mapping_has_is_left_out(mapping):
    strange = result().findings[0].model_copy(update={"entries": [EntryRef(name="no such entry")]})
    assert entry_views(result(findings=[strange]), mapping) == []
    assert view_of(EntryRef(name="no such entry"), entry_views(result(), mapping)) is None


def test_the_values_shown_are_those_of_the_first_divergence():
    rng = np.random.default_rng(0)
    places = [
        SimpleNamespace(
            source=rng.standard_normal((5, 3)),
            target=rng.standard_normal((5, 3)),
            free=SimpleNamespace(divergent=i >= 30),
        )
        for i in range(32)
    ]
    output = SimpleNamespace(source=rng.standard_normal((5, 7)), target=rng.standard_normal((5, 7)))
    comparison = SimpleNamespace(sites=places, output=output)
    given = result()
    shown = pictures_of(comparison, given)
    np.testing.assert_array_equal(shown.difference, places[30].target - places[30].source)
    assert "layer 2" in shown.title
    last = given.first_divergence.model_copy(update={"port": "output", "layer": None, "order": 32})
    np.testing.assert_array_equal(pictures_of(comparison, result(first_divergence=last)).source, output.source)
    assert pictures_of(comparison, result("equivalent")) is None
