"""A config whose mapping is a conversion function: traced, compared, and the function's mistake named and mended."""

import sys
import textwrap

import pytest
from typer.testing import CliRunner

from ckptdbg.checkpoint import open_checkpoint, write_safetensors
from ckptdbg.cli.app import app
from ckptdbg.obtain import trace_asked
from ckptdbg.samples.build import build_sample
from ckptdbg.session import open_session

SCRIPT = '''
def convert(state, config):
    """Hugging Face Llama to MaxText's names."""
    hidden, dim = config["hidden_size"], config["head_dim"]

    def heads(weight, count, rotary):
        weight = weight.reshape(count, 2, dim // 2, hidden)
        weight = weight.transpose(0, 2, 1, 3) if rotary else weight
        return weight.reshape(count, dim, hidden).transpose(2, 0, 1)

    out = {"token_embedder/embedding": state["model.embed_tokens.weight"]}
    out["decoder/decoder_norm/scale"] = state["model.norm.weight"]
    out["decoder/logits_dense/kernel"] = state["lm_head.weight"].T
    for i in range(config["num_hidden_layers"]):
        source, target = f"model.layers.{i}.", f"decoder/layers_{i}/"
        attention, mlp = target + "self_attention/", target + "mlp/"
        kv_heads, all_heads = config["num_key_value_heads"], config["num_attention_heads"]
        out[attention + "query/kernel"] = heads(state[source + "self_attn.q_proj.weight"], all_heads, True) * dim**-0.5
        out[attention + "key/kernel"] = heads(state[source + "self_attn.k_proj.weight"], kv_heads, KEY)
        out[attention + "value/kernel"] = heads(state[source + "self_attn.v_proj.weight"], kv_heads, False)
        out[attention + "out/kernel"] = state[source + "self_attn.o_proj.weight"].T.reshape(all_heads, dim, hidden)
        out[target + "pre_self_attention_layer_norm/scale"] = state[source + "input_layernorm.weight"]
        out[target + "post_self_attention_layer_norm/scale"] = state[source + "post_attention_layernorm.weight"]
        out[mlp + "wi_0/kernel"] = state[source + "mlp.gate_proj.weight"].T
        out[mlp + "wi_1/kernel"] = state[source + "mlp.up_proj.weight"].T
        out[mlp + "wo/kernel"] = state[source + "mlp.down_proj.weight"].T
    return out
'''


def converted(folder, key_rotary):
    """The sample with its target written by a script, and the script in the mapping's place."""
    config = build_sample(folder, "llama_to_nnx")
    (folder / "convert.py").write_text(textwrap.dedent(SCRIPT).replace("KEY", str(key_rotary)))
    text = config.read_text().replace(
        "mapping: mappings/llama_to_nnx.yaml", "mapping: {trace: convert.py:convert, arrays: numpy}"
    )
    config.write_text(text)
    session = open_session(config)
    source = open_checkpoint(session.config.source.path)
    traced = trace_asked(session.config, source.specs, source.read, source.config, lambda: session.target)
    (folder / "target.safetensors").unlink()
    write_safetensors(
        folder / "target.safetensors",
        [(n, v) for n, v, _ in traced.mapping.bind(source.config, source.specs, traced.specs).values(source.read)],
    )
    return open_session(config)


@pytest.mark.parametrize("key_rotary", [True, False])
def test_a_conversion_function_is_compared_as_a_mapping_is(tmp_path, key_rotary):
    session = converted(tmp_path, key_rotary)
    result = session.compare()
    if key_rotary:
        assert (result.verdict, result.findings) == ("equivalent", [])
        return
    (finding,) = result.findings
    assert result.verdict == "divergent"
    (entry,) = finding.entries
    assert session.mapping.entry_of_target["decoder/layers_0/self_attention/key/kernel"].name == entry.name
    assert entry.file == "convert.py:convert"
    assert finding.repair is not None
    assert finding.repair.verified


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_script_written_down_is_judged_against_it(tmp_path, monkeypatch):
    converted(tmp_path, key_rotary=False)
    monkeypatch.chdir(tmp_path)
    written = run("mapping", "trace", "config.yaml", "-o", "traced.yaml")
    assert written.exit_code == 0, written.output
    assert "39 of 39 tensors in 12 entries" in written.output
    again = run("mapping", "trace", "config.yaml", "-o", "traced.yaml")
    assert again.exit_code == 2
    assert "there is a file here already" in again.output
    sides = ("--source", "source", "--target", "target.safetensors")
    assert run("mapping", "diff", "mappings/llama_to_nnx.yaml", "mappings/llama_to_nnx.yaml", *sides).exit_code == 0
    found = run("mapping", "diff", "mappings/llama_to_nnx.yaml", "traced.yaml", *sides)
    assert found.exit_code == 1
    assert "layout   decoder/layers_0/self_attention/key/kernel: of the same source tensors" in found.output
    assert "35 of 39 tensors are the same; 100.0% names right, 89.7% layouts right, 89.7% values right" in found.output


def test_a_large_checkpoint_is_traced_from_recorded_ops(tmp_path, monkeypatch):
    """What counts as large is lowered; the script is run on no array then."""
    converted(tmp_path, key_rotary=True)
    script = (tmp_path / "convert.py").read_text().replace(".transpose(0, 2, 1, 3)", ".permute(0, 2, 1, 3)")
    (tmp_path / "convert.py").write_text(script.replace(".transpose(2, 0, 1)", ".permute(2, 0, 1)"))
    config = tmp_path / "config.yaml"
    written = config.read_text()
    config.write_text(written.replace("arrays: numpy", "arrays: torch"))
    small = run("mapping", "trace", config)
    monkeypatch.setattr("ckptdbg.obtain.FEW_ELEMENTS", 1000)
    monkeypatch.setattr(sys.modules["ckptdbg.mapping.tracing.trace"], "read_origins", None)
    large = run("mapping", "trace", config)
    assert (large.exit_code, large.stdout) == (0, small.stdout)
    config.write_text(written.replace(", arrays: numpy", ""))
    unsaid = run("mapping", "trace", config)
    assert unsaid.exit_code == 2
    assert "say which kind it is written for: mapping: {trace: ..., arrays: torch}" in unsaid.output.replace("\n", " ")
    config.write_text(written)
    monkeypatch.setattr("ckptdbg.mapping.tracing.memory.free_memory", lambda: 10**6)
    refused = run("mapping", "trace", config)
    assert refused.exit_code == 2
    assert "(it is written for numpy arrays); found 0.0 GB free; write it for torch tensors" in refused.output
    sides = ("--source", tmp_path / "source", "--target", tmp_path / "target.safetensors")
    files = [tmp_path / "mappings" / "llama_to_nnx.yaml"] * 2
    assert "running on probes takes about" in run("mapping", "diff", *files, *sides).output


def test_a_mapping_recovered_from_both_checkpoints_is_compared(tmp_path):
    config = build_sample(tmp_path, "llama_to_scan", faults=("key-not-interleaved",))
    config.write_text(config.read_text().replace("mapping: mappings/llama_to_scan.yaml", "mapping: {recover: true}"))
    session = open_session(config)
    (finding,) = session.compare().findings
    key = session.mapping.entry_of_target["decoder/layers/self_attention/key/kernel"]
    assert [e.name for e in finding.entries] == [key.name]
    assert finding.repair is not None
    assert finding.repair.verified
    found = run("mapping", "recover", tmp_path / "source", tmp_path / "target.safetensors", "-o", tmp_path / "m.yaml")
    assert found.exit_code == 0, found.output
    assert "12 of 12 tensors in 12 entries" in found.output
