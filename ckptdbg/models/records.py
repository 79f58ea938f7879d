"""What a side (one model, in either framework) tells the rest of the program. No framework is imported here.

Everything crosses this border as NumPy arrays in one canonical form, whatever the model's own shapes are:

* an **anchor** is one matrix: its effective operand is ``[features, contraction]`` (a table is ``[embedding,
  vocabulary]``);
* its ``in`` is ``[rows, contraction]``, its ``out`` is ``[rows, features]``, before any bias;
* a row is one token at one use: ``rows`` holds, for every row, the flat index ``batch * length + position`` of its
  token.

A contraction that has batch axes in common with its operand (stacked experts), a grouped matmul and a scanned layer
are split: one anchor per group, per iteration. ``iteration`` and ``group`` say which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]


@dataclass(frozen=True)
class Where:
    """Names for people: never used to decide anything."""

    scope: str = ""
    """Module path (torch) or name stack (JAX), empty where the framework leaves none."""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = _from_here(self.file) if self.file else ""
        if place and self.line is not None:
            place = f"{place}:{self.line}"
        return " ".join(part for part in (self.scope, place) if part)


def _from_here(file: str) -> str:
    """A file of an installed package is named from the package on, one below the working directory from there; of a
    package that lies elsewhere again from the package on."""
    path = Path(file)
    for installed in ("site-packages", "dist-packages"):
        if installed in path.parts:
            return file.rpartition(installed)[2][1:]
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    above = next((folder for folder in path.parents if not (folder / "__init__.py").is_file()), path.parent)
    return file if above == path.parent else str(path.relative_to(above))


@dataclass(frozen=True)
class Anchor:
    """One matrix that meets an activation in a contraction or a lookup, at one use."""

    index: int
    """Position in execution order among the anchors of this side."""
    kind: Literal["contraction", "lookup"]
    op: str
    """The framework's name of the operation, for people (``aten.mm``, ``dot_general``)."""
    parameters: tuple[str, ...]
    """Every parameter that the effective operand is computed from."""
    features: int
    contraction: int
    where: Where = field(default_factory=Where)
    iteration: tuple[int, ...] = ()
    """Indices of the enclosing scans, outermost first."""
    group: int | None = None
    """Index along the axis shared by operand and activation (the expert), where there is one."""
    feeds: frozenset[int] = frozenset()
    """Anchors whose ``out`` reaches this ``in`` without passing through another anchor."""
    met: frozenset[int] = frozenset()
    """Meetings (region parameters) on those ways."""


@dataclass(frozen=True)
class Meeting:
    """A region parameter (norm scale, bias, sink) where it meets an activation elementwise."""

    index: int
    op: str
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    """Shape of the effective operand as it is used there."""
    where: Where = field(default_factory=Where)
    iteration: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A discrete selection among activations (a router's top-k)."""

    index: int
    op: str
    options: int
    """How many there were to choose from."""
    chosen: int
    """k"""
    where: Where = field(default_factory=Where)
    iteration: tuple[int, ...] = ()
    feeds: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Cast:
    """A cast of an activation to a lower floating-point type that the model makes by itself."""

    from_dtype: str
    to_dtype: str
    where: Where = field(default_factory=Where)
    before: int = 0
    """Index of the next anchor in execution order (= number of anchors for the tail)."""


@dataclass(frozen=True)
class Opaque:
    """An operation the walk cannot see into, listed as not compared."""

    op: str
    parameters: tuple[str, ...]
    reason: str
    where: Where = field(default_factory=Where)


@dataclass(frozen=True)
class Graph:
    """What one forward pass consists of: found once, by the walk, without names being configured."""

    anchors: tuple[Anchor, ...]
    meetings: tuple[Meeting, ...]
    choices: tuple[Choice, ...] = ()
    casts: tuple[Cast, ...] = ()
    opaque: tuple[Opaque, ...] = ()
    blocks: tuple[str, ...] = ()
    """Names of the module outputs captured beside the anchors, in execution order: for people."""
    block_anchors: tuple[frozenset[int], ...] = ()
    """For each block, the anchors that run inside it. None for a module without a matrix (a norm)."""
    output_feeds: frozenset[int] = frozenset()
    output_met: frozenset[int] = frozenset()
    unused_parameters: tuple[str, ...] = ()
    """Parameters that met no activation in this forward."""


@dataclass(frozen=True)
class Operands:
    """Effective operands of one set of parameter values, float64, nothing rounded on the way."""

    anchors: tuple[Array, ...]
    """``[features, contraction]`` each, in the order of ``Graph.anchors``."""
    meetings: tuple[Array, ...]
    """In the shape of use, in the order of ``Graph.meetings``."""


@dataclass(frozen=True)
class Record:
    """The captured values of one anchor in one run."""

    rows: Array
    """``[rows]`` int64, flat token index of each row; -1 where no token could be told."""
    input: Array | None
    """``[rows, contraction]``; None for a lookup (its ids are int and not compared)."""
    output: Array
    """``[rows, features]``, before any bias."""


@dataclass(frozen=True)
class Choose:
    """The indices one choice took in one run: ``[rows, chosen]`` int64, and the token of each row."""

    rows: Array
    indices: Array
    margin: Array
    """``[rows]`` float64: value of the last chosen minus value of the best rejected option (inf where unknown)."""


@dataclass(frozen=True)
class Trace:
    """One run of one side."""

    records: tuple[Record, ...]
    """In the order of ``Graph.anchors``."""
    output: Array
    """The selected model output, flattened to ``[rows, features]`` with rows in token order where it has (batch,
    length) axes."""
    output_shape: tuple[int, ...]
    blocks: tuple[Array, ...] = ()
    """``[rows, features]`` each, in the order of ``Graph.blocks``."""
    choices: tuple[Choose, ...] = ()
    nonfinite: str | None = None
    """The first place (site or operation, in execution order) where a NaN or inf appeared, for people."""


@dataclass(frozen=True)
class Summary:
    """Statistics of the finite values at one place, accumulated in at least float32; NaN where there are none."""

    mean: float
    std: float
    """Of the population."""
    min: float
    max: float
    nonfinite: int
    """How many values were NaN or infinite."""


@dataclass(frozen=True)
class Statistics:
    """One run of one side of which no array was kept."""

    graph: Graph
    inputs: tuple[Summary | None, ...]
    """In the order of ``graph.anchors``; None for a lookup."""
    outputs: tuple[Summary, ...]
    """Before any bias, in the order of ``graph.anchors``."""
    blocks: tuple[Summary, ...]
    """In the order of ``graph.blocks``."""
    output: Summary
    """Of the selected model output."""

    def to_frame(self) -> pd.DataFrame:
        """One row per port in execution order: site, port (``in``, ``out``, ``block``, ``output``), layer, mean, std,
        min, max, nonfinite."""
        from ckptdbg.report.statistics import statistics_frame

        return statistics_frame(self)

    def __str__(self) -> str:
        """The table, a line per port."""
        from ckptdbg.report.statistics import plain

        return plain(self)


@dataclass(frozen=True)
class Plant:
    """Values to put in the place of an anchor's ``in`` (at that use only) and ``out``; ``None`` leaves that port alone.

    A mask (bool, same shape) says which elements are replaced; ``None`` means all.
    """

    input: Array | None = None
    input_mask: Array | None = None
    output: Array | None = None
    output_mask: Array | None = None


class Side(Protocol):
    """One model. The torch and the JAX side have the same verbs."""

    framework: Literal["torch", "jax"]

    def parameters(self) -> dict[str, TensorSpec]:
        """Names (DESIGN.md, "Parameter names"), shapes and dtypes, without reading data. Tied parameters appear
        under each name."""
        ...

    def read(self, name: str) -> Array:
        """The value of one parameter in its own dtype."""
        ...

    def graph(self, inputs: Mapping[str, Array]) -> Graph:
        """Walk one forward pass and say what it consists of for these inputs. Cached."""
        ...

    def operands(self, values: Mapping[str, Array]) -> Operands:
        """Effective operands that ``values`` would give (names left out keep the model's own), computed in float64
        with the model's casts promoted. ``graph`` must have been called. No activation is computed, nothing is
        recompiled after the first call."""
        ...

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        values: Mapping[str, Array] | None = None,
        promoted: bool = False,
        jitter: int | None = None,
        plants: Mapping[int, Plant] | None = None,
        choices: Sequence[Array] | None = None,
        until: int | None = None,
    ) -> Trace:
        """One forward pass.

        ``values`` replaces parameters by name (their dtype is kept only under ``promoted``, else cast to the model's).
        ``promoted`` computes everything in float64: parameters, constants, and every cast to a lower float inside
        the model. ``jitter`` is a seed: every floating-point constant (tables, eps, scales; not parameters, not
        activations) is multiplied by 1 plus or minus one ulp of its own dtype. ``plants`` is keyed by anchor index.
        ``choices`` pins the indices of every choice, in order, each ``[rows, chosen]`` in this side's own row order.
        ``until`` is the last anchor that is looked at: the pass may end there, with nothing to tell of what follows.
        A run without any of these computes exactly, bit for bit, what the model computes by itself.
        """
        ...

    def statistics(self, inputs: Mapping[str, Array], *, values: Mapping[str, Array] | None = None) -> Statistics:
        """One forward pass of which only statistics are kept: they are computed where the values are, one port at a
        time. ``values`` as in ``run``."""
        ...
