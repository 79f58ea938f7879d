"""The same faults are found whether the mapping is a file, a function that is traced, or recovered from both
checkpoints."""

import pytest

from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import ConfigError
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

SCRIPT = '''
from ckptdbg.checkpoint import MemoryCheckpoint, open_checkpoint
from ckptdbg.mapping import Mapping

def convert(state, config):
    """What the mapping file does, as code that is not read but run."""
    made = open_checkpoint("{target}").specs
    bound = Mapping.load("{mapping}").bind(config, MemoryCheckpoint(state).specs, made)
    return {{name: value for name, value, _ in bound.values(lambda name: state[name])}}
'''


def with_origin(config, origin):
    """The config with its mapping file as it is, as a function, or left to be recovered."""
    if origin == "file":
        return open_session(config)
    folder, document = config.parent, parse_yaml(config.read_text(), str(config), ConfigError)
    script = SCRIPT.format(target=folder / "target.safetensors", mapping=folder / document["mapping"])
    (folder / "convert.py").write_text(script)
    traced = {"trace": "convert.py:convert", "arrays": "numpy"}
    document["mapping"] = traced if origin == "trace" else {"recover": True}
    other = folder / f"{origin}.yaml"
    other.write_text(dump_yaml(document))
    return open_session(other)


def told(session):
    """Of every finding what it is, where, and which target tensors its entries make."""
    made = {}
    for entry in session.mapping.entries:
        made.setdefault(entry.name, set()).update(entry.targets)
    return sorted(
        (f.kind, f.cause, f.effect, f.site or "", f.layers, sorted(t for e in f.entries for t in made[e.name]))
        for f in session.compare().findings
    )


def family(names):
    """Target tensors whatever their layer."""
    return {".".join(part for part in name.split(".") if not part.isdigit()) for name in names}


OF_MAPPING_OR_CODE = (
    "qkv-not-interleaved",
    "gate-up-order",
    "norm-plus-one",
    "rope-theta",
    "norm-epsilon",
    "attention-scale",
    "none",
)
OF_TENSORS = ("down-element", "layers-swapped")
QUICK = ("recover", "rope-theta")
EVERY = [
    *(("trace", fault) for fault in (*OF_MAPPING_OR_CODE, *OF_TENSORS)),
    *(("recover", fault) for fault in OF_MAPPING_OR_CODE),
]
CASES = [case if case == QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in EVERY]


@pytest.mark.parametrize(("origin", "fault"), CASES)
def test_the_findings_are_those_of_the_mapping_file(origin, fault, tmp_path):
    config = build_sample(tmp_path, "llama_to_torch", () if fault == "none" else (fault,))
    expected, found = told(with_origin(config, "file")), told(with_origin(config, origin))
    assert bool(expected) == (fault != "none")
    assert [item[:5] for item in found] == [item[:5] for item in expected]
    assert [family(item[5]) for item in found] == [family(item[5]) for item in expected]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["down-transposed", "hidden-permuted"])
def test_a_fault_of_the_checkpoint_is_one_of_the_recovered_mapping(fault, tmp_path):
    """Recovered from a faulty checkpoint, the mapping says what was done: the runs show whether that was wrong."""
    session = with_origin(build_sample(tmp_path, "llama_square_to_nnx", (fault,)), "recover")
    assert session.differences == []
    result = session.compare()
    if fault == "hidden-permuted":  # a symmetry: a mapping that has it too is as good as any
        assert (result.verdict, result.findings) == ("equivalent", [])
        return
    assert {(f.kind, f.cause) for f in result.findings} == {("layout", "mapping")}
    assert all(f.repair is not None and f.repair.verified for f in result.findings)
