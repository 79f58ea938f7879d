"""A torch target whose experts are modules that run only when a token chooses them: few tokens leave some out, and
other tokens choose others."""

from pathlib import Path

import pytest

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

MODEL = """
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM


class Expert(nn.Module):
    def __init__(self, hidden, wide):
        super().__init__()
        self.gate, self.up = nn.Linear(hidden, wide, bias=False), nn.Linear(hidden, wide, bias=False)
        self.down = nn.Linear(wide, hidden, bias=False)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Experts(nn.ModuleList):
    def __init__(self, config):
        shape = config.hidden_size, config.intermediate_size
        super().__init__(Expert(*shape) for _ in range(config.num_local_experts))

    def forward(self, hidden, chosen, weights):
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            token, turn = torch.where(chosen == number)
            if len(token):
                out.index_add_(0, token, expert(hidden[token]) * weights[token, turn, None])
        return out


def load(path):
    from safetensors.torch import load_file

    model = MixtralForCausalLM(MixtralConfig.from_pretrained("source"))
    for layer in model.model.layers:
        layer.mlp.experts = Experts(model.config)
    if path is not None:
        model.load_state_dict(load_file(path))
    return model.eval()
"""
SCRIPT = """
def convert(state):
    made = {}
    for name, tensor in state.items():
        for old, new in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            name = name.replace("block_sparse_moe.experts", "mlp.experts").replace(f".{old}.", f".{new}.")
        made[name.replace("block_sparse_moe.gate", "mlp.gate")] = tensor
    if WRONG:
        gate, up = (f"model.layers.1.mlp.experts.2.{n}.weight" for n in ("gate", "up"))
        made[gate], made[up] = made[up], made[gate]
    return made
"""


def _config(folder: Path, *, wrong: bool, seed: int) -> Path:
    config = build_sample(folder, "mixtral_to_jax")
    (folder / "model.py").write_text(MODEL.replace('"source"', repr(str(folder / "source"))))
    (folder / "convert.py").write_text(SCRIPT.replace("WRONG", str(wrong)))
    config.write_text(
        "source: {loader: huggingface, path: source}\n"
        "target: {loader: model.py:load, path: target.safetensors}\n"
        "mapping: {trace: convert.py:convert, arrays: numpy}\n"
        f"probe: {{tokens: random, batch: 1, length: 4, seed: {seed}}}\n"
    )
    source = open_checkpoint(folder / "source")
    namespace: dict = {}
    exec(SCRIPT.replace("WRONG", str(wrong)), namespace)
    (folder / "target.safetensors").unlink()
    made = namespace["convert"]({name: source.read(name) for name in source.specs})
    write_safetensors(folder / "target.safetensors", list(made.items()))
    return config


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_right_conversion_raises_no_alarm(seed, tmp_path):
    session = open_session(_config(tmp_path, wrong=False, seed=seed))
    result = session.compare()
    assert (result.verdict, result.findings) == ("equivalent", [])
    anchors = {name for anchor in session.target_view.graph.anchors for name in anchor.parameters}
    assert len([n for n in session.target.specs if ".experts." in n and n not in anchors]) >= 3  # some are left out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wrong_expert_is_named_and_mended_where_it_is_chosen(seed, tmp_path):
    """Where the probe leaves it out the report says that it cannot tell."""
    session = open_session(_config(tmp_path, wrong=True, seed=seed))
    result = session.compare()
    gate, up = (f"model.layers.1.mlp.experts.2.{name}.weight" for name in ("gate", "up"))
    chosen = any(gate in anchor.parameters for anchor in session.target_view.graph.anchors)
    assert chosen == (seed == 2)
    if not chosen:
        assert (result.verdict, result.findings) == ("cannot-tell", [])  # they have an entry of their own
        assert {n.name for n in result.not_compared if "its layout is not proved" in n.reason} == {gate, up}
        return
    (finding,) = result.findings
    assert {e.name for e in finding.entries} == {gate, up}
    assert finding.explanation.startswith("The mapping is wrong here and this mends it")
    assert finding.repair is not None
    assert finding.repair.verified
