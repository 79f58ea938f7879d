"""Conversions recorded on tensors without values: the same mapping as from probes, at any size."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scripts
import torch
from ml_dtypes import bfloat16

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError, MappingError
from ckptdbg.mapping.tracing import trace, trace_programs
from ckptdbg.mapping.tracing.memory import afford
from ckptdbg.mapping.tracing.spread import Spread
from ckptdbg.models.loaders.conversion import load_conversion
from ckptdbg.models.torch_side.recording import Unrecordable
from ckptdbg.models.torch_side.thin import perform, reshape, thinned

FILE = Path(__file__).with_name("scripts.py")
CONFIG = {"head_dim": 20, "hidden_size": 70}


def conversion(name):
    return load_conversion(f"{FILE.name}:{name}", FILE.parent, arrays="torch", options={}, config=CONFIG)


def specs_of(name, dtype="float32"):
    return {n: TensorSpec(shape, dtype) for n, shape in scripts.SHAPES[name].items()}


def tensors_of(specs, seed=5):
    generator = np.random.default_rng(seed)
    named = {"float32": np.float32, "bfloat16": bfloat16}
    return {n: generator.standard_normal(s.shape).astype(named[s.dtype]) for n, s in specs.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", scripts.SHAPES)
def test_a_script_gives_the_same_mapping_recorded_as_run(name, dtype):
    specs, tensors = specs_of(name, dtype), tensors_of(specs_of(name, dtype))
    run = conversion(name)(tensors)
    by_probes = trace(run, specs, CONFIG, name, tensors)
    recorded = trace_programs(conversion(name).record(specs), specs, CONFIG, name, tensors.__getitem__)
    assert recorded.mapping.text.splitlines()[1:] == by_probes.mapping.text.splitlines()[1:]
    assert recorded.specs == by_probes.specs
    assert {u.target for u in recorded.untraced} == scripts.LEFT.get(name, set())
    wanted = run({n: a.copy() for n, a in tensors.items()})
    for traced in (by_probes, recorded):
        bound = traced.mapping.bind(CONFIG, specs, traced.specs)
        made = {n: value for n, value, _ in bound.values(lambda n: tensors[n])}
        assert {n for n, v in made.items() if v.tobytes() != wanted[n].tobytes()} == set()
        assert set(made) == set(wanted) - {u.target for u in traced.untraced if not u.sources}


@pytest.mark.parametrize("name", scripts.SHAPES)
def test_what_is_recorded_makes_the_script_s_tensors_whole_and_slice_by_slice(name):
    specs, tensors = specs_of(name), tensors_of(specs_of(name))
    wanted = conversion(name)(tensors)({n: a.copy() for n, a in tensors.items()})
    for target, program in conversion(name).record(specs).items():
        made = program.run(tensors.__getitem__)
        assert made.tobytes() == wanted[target].tobytes(), target
        for axis, size in enumerate(made.shape):
            for index in {0, size - 1}:
                part = program.slice(axis, index).run(tensors.__getitem__)
                assert part.tobytes() == np.ascontiguousarray(made.take(index, axis)).tobytes(), (target, axis)


def test_a_stack_is_seen_through_what_lies_over_it():
    programs = conversion("stacked").record(specs_of("stacked"))
    assert programs["written"].stacked == 0
    assert programs["stacked"].stacked == 1
    assert [len(programs["stacked"].slice(1, i).sources) for i in range(scripts.LAYERS)] == [scripts.EXPERTS] * 3


def test_programs_that_do_the_same_share_a_key_and_others_do_not():
    programs = conversion("unstacked").record(specs_of("unstacked"))
    assert len({p.key for p in programs.values()}) == 1
    assert len({p.selected for p in programs.values()}) == len(programs)
    assert len({p.key for p in conversion("rows_moved").record(specs_of("rows_moved")).values()}) == 3


@pytest.mark.parametrize(
    ("name", "error", "problem"),
    [
        ("takes_a_value", Unrecordable, "looks at values"),
        ("leaves_torch", Unrecordable, r"takes a tensor's values \(numpy\)"),
        ("looks_at_memory", Unrecordable, r"takes a tensor's values \(data_ptr\)"),
        ("draws", MappingError, "draws random numbers"),
        ("draws_elsewhere", MappingError, "gives another q when it is run again"),
        ("stacked", LoaderError, r"scripts\.py:\d+: the conversion raised KeyError on torch arrays"),
    ],
)
def test_what_cannot_be_recorded_is_said(name, error, problem):
    specs = {n: TensorSpec((8, 6), "float32") for n in ("q.weight", "k.weight")}
    with pytest.raises(error, match=problem):
        conversion(name).record(specs)


def test_the_checkpoints_own_values_have_the_last_word():
    """A clamp does nothing to random values; on the checkpoint it cuts one element."""
    specs = {"w": TensorSpec((6, 5), "float32"), "v": TensorSpec((6, 5), "float32")}
    tensors = tensors_of(specs)
    tensors["w"][2, 3] = 500.0

    def convert(state):
        return [(n, t.clamp(-100, 100).T) for n, t in state.items()]

    from ckptdbg.models.torch_side.programs import recorded

    programs = recorded(convert, specs)
    assert trace_programs(programs, specs).untraced == ()
    traced = trace_programs(programs, specs, read=tensors.__getitem__)
    (left,) = traced.untraced
    assert (left.target, left.sources) == ("w", ("w",))
    assert "makes other values (1 of 30 elements)" in left.reason
    made = {n: v for n, v, _ in traced.mapping.bind({}, specs, traced.specs).values(tensors.__getitem__)}
    assert made["w"][3, 2] == 100.0


OPS = {
    "reshape": lambda t: [t.reshape(12, 10), t.reshape(3, 4, 10), t.reshape(-1), t.reshape(4, 3, 5, 2)],
    "moved": lambda t: [t.permute(2, 0, 1), t.transpose(0, 2)[1:], t.flip(0), t.roll(2, 1), t[:, 1]],
    "joined": lambda t: [torch.cat([t, t * 2], 1), torch.stack([t, t], 2), t.repeat(2, 1, 1)],
    "reduced": lambda t: [t.sum(1), t.mean((0, 2)), t.amax(2, keepdim=True), t.cumsum(0), t.softmax(1)],
    "taken": lambda t: [t[torch.tensor([2, 0])], t.index_select(2, torch.tensor([4, 1])), t.sort(0).values],
    "made": lambda t: [torch.full_like(t, 2.0) + t, torch.zeros(3, 4, 10) + t, t.new_ones(4, 1) * t],
}


@pytest.mark.parametrize("varies", [(), (0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("what", OPS)
def test_an_op_on_a_thin_tensor_is_the_op(what, varies):
    """Whatever the axes are along which it varies."""
    shape = (3, 4, 10)
    base = np.random.default_rng(0).standard_normal([n if a in varies else 1 for a, n in enumerate(shape)])
    specs = {"t": TensorSpec(shape, "float64")}
    from ckptdbg.models.torch_side.programs import recorded

    programs = recorded(lambda state: [(str(i), t) for i, t in enumerate(OPS[what](state["t"]))], specs)
    for program in programs.values():
        thin = program.spread(lambda _: Spread(base, shape), exact=False)
        assert np.allclose(thin.all(), program.run(lambda _: np.broadcast_to(base, shape).copy()), rtol=1e-12)
        assert thin.shape == program.spec.shape


def test_a_thin_tensor_stays_thin():
    line, other = (torch.arange(a, a + 4096.0)[:, None].expand(4096, 14336) for a in (0, 1))
    for made in (
        reshape(line.T, (32, 448, 4096)),
        perform(torch.ops.aten.mul.Tensor, (line, 2.0), {}, [(4096, 14336)])[0],
        perform(torch.ops.aten.cat.default, ([line, line], 1), {}, [(4096, 28672)])[0],
        perform(torch.ops.aten.cat.default, ([line, other], 0), {}, [(8192, 14336)])[0],
    ):
        assert thinned(made).numel() <= 8192


def test_memory_is_asked_for_before_it_is_taken():
    afford(1000, "it is small", "convert.py:convert")
    with pytest.raises(MappingError) as caught:
        afford(10**15, "it is written for numpy arrays", "convert.py:convert")
    assert "running on probes takes about 120000000.0 GB of memory (it is written for numpy arrays)" in str(
        caught.value
    )
    assert "write it for torch tensors (arrays: torch)" in str(caught.value)


LARGE = """
import sys
sys.path.insert(0, {folder!r})
from tracing import measure
print(measure("llama", "to_maxtext")["entries"], measure("llama", "from_maxtext")["entries"])
"""


def test_eight_billion_parameters_are_traced_in_little_memory():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    done = subprocess.run(
        [sys.executable, "-c", LARGE.format(folder=folder)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["12", "12"], done.stderr[-2000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB
