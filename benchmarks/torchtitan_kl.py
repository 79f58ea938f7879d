"""What torchtitan's conversion test prints, beside nats per token.

That test averages ``F.kl_div(..., reduction="mean")`` of the last token's logits over 100 prompts of 8 random tokens,
for its conversion from Hugging Face, back, and for both without the rotary permutation of q and k. "mean" divides by
the vocabulary too. Here a random Llama of four layers with Llama 3's vocabulary and rotary base takes the place of the
8B model, converted by torchtitan's own adapter.

    .venv-interop/bin/python benchmarks/torchtitan_kl.py
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROMPTS, LENGTH, VOCABULARY = 100, 8, 128256
SIZES = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 448,
    "vocab_size": VOCABULARY,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
LAYERS, EPSILON = 4, 1e-6


def make_models() -> tuple[Any, Callable[[], Any], Any]:
    """A random Hugging Face Llama, torchtitan's model of the same sizes, and its configuration."""
    import transformers

    from ckptdbg.models.loaders.function import find_function
    from ckptdbg.samples.checkpoints import write_checkpoint
    from ckptdbg.samples.pairs import sample_configs

    configure = find_function("torchtitan_models.py:configure", sample_configs() / "interop")
    config = configure(
        "llama3",
        layers=LAYERS,
        dim=SIZES["hidden_size"],
        heads=SIZES["num_attention_heads"],
        kv_heads=SIZES["num_key_value_heads"],
        head_dim=SIZES["head_dim"],
        mlp=SIZES["intermediate_size"],
        vocab=VOCABULARY,
        norm_epsilon=EPSILON,
        rope_theta=500000.0,
        max_length=64,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint("llama", Path(folder) / "source", num_hidden_layers=LAYERS, **SIZES)
        source = transformers.LlamaForCausalLM.from_pretrained(path)
    return source, config.build, config


def make_adapter(config: Any, permute: bool) -> Any:
    """torchtitan's state dict adapter; without ``permute`` q and k keep their rows."""
    from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

    adapter = Llama3StateDictAdapter(config, None)
    if not permute:
        adapter._permute = adapter._reverse_permute = lambda weight, *_: weight
    return adapter


def conversions(dtype: str) -> Iterator[tuple[str, Any, Any]]:
    """Name, baseline logits and converted logits ``[prompts, length, vocabulary]`` of the four tests."""
    import torch

    source, build, config = make_models()
    tokens = torch.randint(0, VOCABULARY, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))
    weights = {name: value.clone() for name, value in source.state_dict().items()}

    def cast(model: Any) -> Any:
        for parameter in model.parameters():  # not model.to(): it would cast the complex rotary table to real numbers
            parameter.data = parameter.data.to(getattr(torch, dtype))
        return model.eval()

    @torch.no_grad()
    def titan(state: dict[str, Any]) -> Any:
        model = build()
        model.load_state_dict(state)
        return cast(model)(tokens)

    @torch.no_grad()
    def hugging_face(state: dict[str, Any]) -> Any:
        source.load_state_dict(state)
        return cast(source)(tokens).logits

    baseline = hugging_face(weights)
    native = make_adapter(config, True).from_hf(dict(weights))
    titan_baseline = titan(native)
    for suffix, permute in (("", True), ("_no_perm", False)):
        adapter = make_adapter(config, permute)
        yield f"from_hf{suffix}", baseline, titan(adapter.from_hf(dict(weights)))
        yield f"to_hf{suffix}", titan_baseline, hugging_face(adapter.to_hf(dict(native)))


def figures(baseline: Any, converted: Any) -> tuple[float, float, float]:
    """torchtitan's number, nats per token, and the share of tokens with the same arg-max."""
    import torch
    import torch.nn.functional as F

    printed, nats, same = [], [], []
    for p, q in zip(baseline, converted, strict=True):  # a prompt at a time: in float64 all of them take gigabytes
        printed.append(F.kl_div(F.log_softmax(p[-1:], -1), F.softmax(q[-1:], -1), reduction="mean"))
        log_p, log_q = (F.log_softmax(x.double(), dim=-1) for x in (p, q))
        nats.append(F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1))
        same.append(log_p.argmax(-1) == log_q.argmax(-1))
    return tuple(float(torch.stack(found).double().mean()) for found in (printed, nats, same))


def main() -> None:
    """Print the table, once per precision."""
    if find_spec("torchtitan") is None:
        print("torchtitan is not installed in this environment; the top of this file says how to run it")
        return
    import transformers

    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides")  # it does: that is what is shown here
    print("| precision | test | torchtitan prints | nats per token | same arg-max |")
    print("| --- | --- | --- | --- | --- |")
    for dtype in ("float32", "bfloat16"):
        for name, baseline, converted in conversions(dtype):
            printed, nats, same = figures(baseline, converted)
            print(f"| {dtype} | {name} | {printed:.2e} | {nats:.2e} | {same:.1%} |", flush=True)


if __name__ == "__main__":
    main()
