"""What a capture costs over the plain forward pass, in time and memory.

``python benchmarks/capture.py [--quick]`` prints a Markdown table and writes it to ``build/capture.md``. Every line is
measured in processes of its own: one for the times (CPU time, plain and captured passes taking turns) and one each for
the peak memory. ``values`` keeps every anchor's values, in and out; ``statistics`` only their mean, std, min, max and
the number of non-finite ones. Compile is the first pass: the walk, tracing and compilation included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tables import ROOT, table, write_text

from ckptdbg.models.records import Side, Statistics, Trace

BATCH, LENGTH, VOCAB = 2, 128, 8000
CASES = {"torch, 6 layers": ("torch", 6), "JAX, 8 layers": ("jax", 8), "JAX, 24 layers": ("jax", 24)}
KINDS = ("values", "statistics")
Pass = Callable[[], Any]


def torch_passes(layers: int) -> tuple[Pass, Side, int]:
    """A Hugging Face Llama of 27 million parameters at 6 layers: plain pass, side, parameters."""
    import torch
    import transformers

    from ckptdbg.models.torch_side import TorchSide

    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=VOCAB,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.from_numpy(tokens())

    def plain() -> Any:
        with torch.no_grad():
            return model(input_ids=ids).logits.numpy()

    return plain, TorchSide(model), sum(p.numel() for p in model.parameters())


def jax_passes(layers: int) -> tuple[Pass, Side, int]:
    """The NNX sample Llama, unrolled."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from ckptdbg.models.jax_side import JaxSide
    from ckptdbg.samples.targets.nnx_llama import Definition, Llama

    model = Llama(Definition(layers, embed=256, heads=8, kv_heads=4, head_dim=32, mlp=688, vocab=VOCAB))
    rng = np.random.default_rng(1)
    graph, state = nnx.split(model)
    state = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape) * 0.05, jnp.float32), state)
    model = nnx.merge(graph, state)

    @jax.jit
    def forward(state: Any, ids: Any) -> Any:
        return nnx.merge(graph, state)(ids)

    def plain() -> Any:
        with jax.default_matmul_precision("highest"):
            return np.asarray(forward(state, tokens()))

    size = sum(x.size for x in jax.tree.leaves(state))
    return plain, JaxSide(model), size


def tokens() -> Any:
    return np.random.default_rng(0).integers(0, VOCAB, (BATCH, LENGTH))


def passes(case: str, kind: str) -> tuple[Pass, Pass, int]:
    """Plain pass, captured pass, parameters."""
    framework, layers = CASES[case]
    plain, side, size = {"torch": torch_passes, "jax": jax_passes}[framework](layers)
    capture = {"values": side.run, "statistics": side.statistics}[kind]
    return plain, lambda: capture({"input_ids": tokens()}), size


def timed(function: Pass) -> float:
    """CPU seconds of this process: other load on the machine does not count."""
    started = time.process_time()
    function()
    return time.process_time() - started


def measure_times(case: str, kind: str, rounds: int) -> dict[str, Any]:
    """First passes, and medians of later ones that take turns. Both give one output."""
    plain, captured, size = passes(case, kind)
    first = timed(plain), timed(captured)
    check(plain(), captured())
    pairs = [(timed(plain), timed(captured)) for _ in range(rounds)]
    steady = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return {"size": size, "first": first, "steady": steady, "ratio": statistics.median(c / p for p, c in pairs)}


def check(output: Any, captured: Trace | Statistics) -> None:
    """The captured output is the plain one."""
    if isinstance(captured, Statistics):
        found = [captured.output.mean, captured.output.std, captured.output.min, captured.output.max]
        np.testing.assert_allclose(found, [output.mean(), output.std(), output.min(), output.max()], atol=1e-5)
    else:
        np.testing.assert_allclose(output.reshape(captured.output.shape), captured.output, atol=1e-5, rtol=1e-5)


def measure_memory(case: str, kind: str, which: int) -> float:
    """Peak resident memory in MB of a process that loads the model and makes two passes, plain (0) or captured."""
    plain, captured, _ = passes(case, kind)
    chosen = captured if which else plain
    chosen()
    chosen()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(*arguments: Any) -> Any:
    """Run a part of this program in a process of its own."""
    command = [sys.executable, __file__, "--part", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def row(case: str, kind: str, rounds: int) -> list[Any]:
    """One line of the table."""
    times = child(case, kind, "times", rounds)
    plain, captured = child(case, kind, "memory", 0), child(case, kind, "memory", 1)
    (first_plain, first), (steady_plain, steady) = times["first"], times["steady"]
    return [
        case,
        kind,
        f"{times['size'] / 1e6:.0f}M",
        f"{1e3 * first_plain:.0f} ms",
        f"{1e3 * first:.0f} ms",
        f"{first / first_plain:.2f}x",
        f"{1e3 * steady_plain:.1f} ms",
        f"{1e3 * steady:.1f} ms",
        f"{times['ratio']:.2f}x",
        f"{plain:.0f} MB",
        f"{captured:.0f} MB",
    ]


HEAD = ("model", "kept", "parameters", "first plain", "first captured", "ratio")
HEAD += ("steady plain", "steady captured", "ratio", "peak plain", "peak captured")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of fifteen")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        case, kind, what, number = asked.part
        print(json.dumps({"times": measure_times, "memory": measure_memory}[what](case, kind, int(number))))
        return
    text = table(HEAD, [row(case, kind, 3 if asked.quick else 15) for case in CASES for kind in KINDS])
    print(f"batch {BATCH}, length {LENGTH}, float32\n\n{text}")
    write_text(ROOT / "build" / "capture.md", text)


if __name__ == "__main__":
    main()
