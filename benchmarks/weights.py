"""What the commands on weights cost against a plain read and a plain copy of the same files, in time and memory.

``python benchmarks/weights.py [--size GB] [--only NAME ...]`` writes a Llama checkpoint in bfloat16 (the sizes of a
Hugging Face config, random weights, a tensor at a time, the largest about a tenth of it), converts it, and measures
``verify``, ``convert`` and ``recover`` beside plain reads and copies, each in a process of its own. Times are CPU
seconds, user and system. Peak memory is the resident set of the process (``ru_maxrss``), an empty one that imports the
same modules taken off. The table is printed and kept in ``benchmarks/out/weights.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tables import OUT, ROOT, table, write_text

HIDDEN, MLP, HEADS, KV_HEADS, DIM, VOCAB = 2048, 5632, 16, 4, 128, 25600
MAPPING = ROOT / "sample_configs" / "mappings" / "llama_to_nnx.yaml"
JOBS = ("nothing", "read", "copy", "verify", "convert", "recover")
BESIDE = {"verify": "read", "convert": "copy", "recover": "read"}


def write_source(folder: Path, gigabytes: float) -> None:
    """A checkpoint of about this size: the layers make up for the small ones' smaller vocabulary."""
    from transformers import LlamaConfig

    from ckptdbg.checkpoint import write_safetensors

    vocab = int(VOCAB * min(gigabytes, 1)) // 64 * 64
    layer = HIDDEN * (2 * HEADS * DIM + 2 * KV_HEADS * DIM + 3 * MLP)
    layers = max(1, round((gigabytes * 5e8 - 2 * vocab * HIDDEN) / layer))
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=DIM,
        vocab_size=vocab,
        num_hidden_layers=layers,
    )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    write_safetensors(folder / "model.safetensors", random_tensors(shapes(layers, vocab)))


def shapes(layers: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as Hugging Face has them."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, HIDDEN)}
    for i in range(layers):
        parts = {
            "self_attn.q_proj": (HEADS * DIM, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * DIM),
            "mlp.gate_proj": (MLP, HIDDEN),
            "mlp.up_proj": (MLP, HIDDEN),
            "mlp.down_proj": (HIDDEN, MLP),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in parts.items()}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (vocab, HIDDEN)}


def random_tensors(wanted: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    """One at a time, in bfloat16; norms around 1."""
    for i, (name, shape) in enumerate(wanted.items()):
        values = np.random.default_rng(i).standard_normal(shape, np.float32) * np.float32(0.02)
        yield name, (values + np.float32("norm" in name)).astype(ml_dtypes.bfloat16)


def sides(folder: Path) -> tuple[Any, Any]:
    """Both checkpoints, opened as the commands do."""
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.weights.checkpoints import as_tensors

    return as_tensors(open_checkpoint(folder / "source")), as_tensors(open_checkpoint(folder / "target.safetensors"))


def convert(folder: Path, out: str) -> None:
    """Through the mapping, in the source's dtype."""
    from ckptdbg.checkpoint import open_checkpoint
    from ckptdbg.mapping import Mapping
    from ckptdbg.weights.checkpoints import as_tensors
    from ckptdbg.weights.convert import forward, write

    source = as_tensors(open_checkpoint(folder / "source"))
    write(forward(Mapping.load(MAPPING), source, None), folder / out, overwrite=True)


def verify(folder: Path) -> None:
    """A healthy conversion."""
    from ckptdbg.mapping import Mapping
    from ckptdbg.weights.verify import verify as check

    source, target = sides(folder)
    assert check(Mapping.load(MAPPING), source, target).good


def recover(folder: Path) -> None:
    """The mapping again, from the values."""
    from ckptdbg.mapping.recovery import recover as explain

    source, target = sides(folder)
    found = explain(source.specs, source.read, target.specs, target.read, source.config)
    assert (found.unexplained, found.odd, found.ambiguous, found.unused) == ((), (), (), ())


def read(folder: Path) -> None:
    """Every byte of both files."""
    for file in (folder / "source" / "model.safetensors", folder / "target.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def measure(job: str, folder: Path, gigabytes: float) -> dict[str, float]:
    """CPU seconds, wall seconds and MB at most of one job in this process."""
    import ckptdbg.mapping.recovery
    import ckptdbg.weights.convert
    import ckptdbg.weights.verify

    _ = ckptdbg
    wall, before = time.perf_counter(), cpu()
    if job == "make":
        write_source(folder / "source", gigabytes)
        convert(folder, "target.safetensors")
    elif job == "copy":
        shutil.copyfile(folder / "source" / "model.safetensors", folder / "copy.safetensors")
    elif job == "convert":
        convert(folder, "again.safetensors")
    elif job != "nothing":
        {"read": read, "verify": verify, "recover": recover}[job](folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": cpu() - before, "wall": time.perf_counter() - wall, "peak": peak}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def child(job: str, folder: Path, gigabytes: float = 0.0) -> dict[str, float]:
    """One job in a process of its own."""
    command = [sys.executable, __file__, "--part", job, str(folder), str(gigabytes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(found: dict[str, dict[str, float]], largest: float) -> Iterator[list[Any]]:
    """A line per job."""
    for job, m in found.items():
        if job == "nothing":
            continue
        beside = found.get(BESIDE.get(job, ""))
        own = m["peak"] - found["nothing"]["peak"]
        ratio = f"{m['cpu'] / beside['cpu']:.1f}x a {BESIDE[job]}" if beside else ""
        yield [job, f"{m['cpu']:.1f} s", ratio, f"{own:.0f} MB", f"{own / largest:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=float, default=1.0, metavar="GB", help="of the source, default 1")
    parser.add_argument("--only", nargs="*", choices=JOBS, help="leave out the other jobs")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        job, place, gigabytes = asked.part
        print(json.dumps(measure(job, Path(place), float(gigabytes))))
        return
    wanted = [job for job in JOBS if job in ("nothing", "read", "copy") or not asked.only or job in asked.only]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child("make", folder, asked.size)  # what this process held would count in its children's peaks
        size = (folder / "source" / "model.safetensors").stat().st_size / 1e6
        largest = max(np.prod(spec.shape) for spec in sides(folder)[0].specs.values()) * 2 / 1e6
        found = {job: child(job, folder) for job in wanted}
    head = ("job", "CPU", "ratio", "peak beyond an idle process", "in largest tensors")
    text = table(head, rows(found, float(largest)))
    print(f"{size:.0f} MB in bfloat16, the largest tensor {largest:.0f} MB\n\n{text}")
    kept = {"size_mb": size, "largest_mb": float(largest), "jobs": found}
    write_text(OUT / "weights.json", json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
