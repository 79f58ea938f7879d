"""What tracing a conversion of a large checkpoint costs, in time and memory, in both directions.

``python benchmarks/tracing.py [--quick] [--check]`` prints a Markdown table and writes it to ``benchmarks/out``. The
shapes are those of models built on the meta device; every line is measured in a process of its own. With ``--check``
every target is also made by the script's own ops and by the mapping, from random weights that are drawn when they are
read, and the two are compared bit for bit: without it, no weights exist at all.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import conversions
import numpy as np
from ml_dtypes import bfloat16
from tables import OUT, table, write_text

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.tracing import trace_programs
from ckptdbg.models.loaders.conversion import Conversion

Specs = dict[str, TensorSpec]
CASES = (
    ("llama", "to_titan"),
    ("llama", "from_titan"),
    ("llama", "to_maxtext"),
    ("llama", "from_maxtext"),
    ("moe", "to_maxtext"),
    ("moe", "from_maxtext"),
)
NAMES = {"llama": "Llama 3 8B", "moe": "Qwen 3 MoE 30B"}


def llama() -> tuple[Specs, dict[str, Any]]:
    """Llama 3 8B: 291 tensors."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        head_dim=128,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    return {n: TensorSpec(tuple(v.shape), "bfloat16") for n, v in model.state_dict().items()}, config.to_dict()


def moe() -> tuple[Specs, dict[str, Any]]:
    """Qwen 3 MoE 30B as its checkpoint holds it, every expert a tensor of its own: 18771 tensors (without the norms of
    heads)."""
    layers, hidden, wide, experts, heads, kv_heads, dim, vocab = 48, 2048, 768, 128, 32, 4, 128, 151936
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (vocab, hidden),
        "model.norm": (hidden,),
        "lm_head": (vocab, hidden),
    }
    for i in range(layers):
        rows = {"q": (heads * dim, hidden), "k": (kv_heads * dim, hidden), "v": (kv_heads * dim, hidden)}
        shapes |= {f"model.layers.{i}.self_attn.{n}_proj": shape for n, shape in rows.items()}
        shapes |= {f"model.layers.{i}.self_attn.o_proj": (hidden, heads * dim)}
        shapes |= {f"model.layers.{i}.{norm}": (hidden,) for norm in conversions.NORMS}
        shapes |= {f"model.layers.{i}.mlp.gate": (experts, hidden)}
        for e in range(experts):
            expert = {"gate": (wide, hidden), "up": (wide, hidden), "down": (hidden, wide)}
            shapes |= {f"model.layers.{i}.mlp.experts.{e}.{n}_proj": shape for n, shape in expert.items()}
    config = {"num_hidden_layers": layers, "num_experts": experts, "head_dim": dim, "hidden_size": hidden}
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return {f"{n}.weight": TensorSpec(shape, "bfloat16") for n, shape in shapes.items()}, config


def measure(model: str, function: str, check: bool = False) -> dict[str, Any]:
    """Trace one script in this process. ``from_`` scripts start from what their ``to_`` scripts make."""
    specs, config = llama() if model == "llama" else moe()
    if function.startswith("from_"):
        forward = _conversion(function.replace("from_", "to_"), config)
        specs = {name: program.spec for name, program in forward.record(specs).items()}
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, (time.perf_counter(), time.process_time())
    programs = _conversion(function, config).record(specs)
    recorded = time.process_time() - started[1]
    traced = trace_programs(programs, specs, config, function, _drawn(specs) if check else None)
    return {
        "model": model,
        "function": function,
        "elements": sum(math.prod(s.shape) for s in specs.values()),
        "sources": len(specs),
        "targets": len(programs),
        "distinct": len({p.key for p in programs.values()}),
        "entries": len(traced.mapping.entries),
        "untraced": len(traced.untraced),
        "recorded_s": recorded,
        "cpu_s": time.process_time() - started[1],
        "wall_s": time.perf_counter() - started[0],
        "before_kib": before,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "checked": check,
    }


def _conversion(name: str, config: dict[str, Any]) -> Conversion:
    return Conversion(getattr(conversions, name), name, {"config": config}, "torch")


def _drawn(specs: Specs) -> Callable[[str], Any]:
    """Random bfloat16 weights, a new array each time and the same values: of every sign, between 2**-8 and 2."""
    seeds = {name: i for i, name in enumerate(specs)}

    def read(name: str) -> Any:
        generator = np.random.default_rng(seeds[name])
        bits = generator.integers(0, 2**16, specs[name].shape, dtype=np.uint16)
        bits &= 0x83FF
        bits |= 0x3C00
        return bits.view(bfloat16)

    return read


def _row(r: dict[str, Any]) -> list[str]:
    return [
        f"{NAMES[r['model']]}, {r['function']}",
        f"{r['elements'] / 1e9:.1f} B",
        f"{r['sources']} to {r['targets']}",
        str(r["distinct"]),
        str(r["entries"]),
        str(r["untraced"]),
        f"{r['recorded_s']:.1f} s",
        f"{r['cpu_s']:.1f} s",
        f"{r['wall_s']:.1f} s",
        f"{r['before_kib'] / 2**20:.2f} GiB",
        f"{r['peak_kib'] / 2**20:.2f} GiB",
        "every target, bit for bit" if r["checked"] else "no weights",
    ]


def main() -> None:
    """Every case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the Llama only")
    parser.add_argument("--check", action="store_true", help="also make every target of the Llama, both ways")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "FUNCTION", "CHECK"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        model, function, check = asked.one
        print(json.dumps(measure(model, function, check == "True")))
        return
    rows = []
    for model, function in CASES:
        if not (asked.quick and model == "moe"):
            check = asked.check and model == "llama"
            command = [sys.executable, __file__, "--one", model, function, str(check)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(_row(json.loads(done.stdout)))
            print(rows[-1], file=sys.stderr)
    head = ["conversion", "elements", "tensors", "distinct", "entries", "left", "recording", "CPU", "wall"]
    text = table([*head, "before", "peak", "checked on"], rows)
    print(text)
    write_text(OUT / "tracing.md", text)


if __name__ == "__main__":
    main()
