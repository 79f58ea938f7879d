"""What a diagnosis costs over the comparison that it follows.

``python benchmarks/diagnosis.py [--layers 24]`` prints a Markdown table and writes it to ``build/diagnosis.md``. One
fault is planted in a sample conversion of so many layers; each line is measured in a process of its own. Seconds are
CPU time with one thread for torch, so that what else the machine does matters less; the wall-clock ratio stands
beside it. The comparison holds what is done once: reading layouts, compiling the JAX model, running both. Compiled are
the XLA programs of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from tables import ROOT, table, write_text

CASES = (
    ("llama_to_nnx", "query-not-interleaved"),
    ("llama_to_nnx", "gate-up-swapped"),
    ("llama_to_scan", "query-not-interleaved"),
)


def measure(pair: str, fault: str, layers: int) -> dict[str, Any]:
    """Compare and diagnose one conversion in this process."""
    import jax

    from ckptdbg.samples.build import build_sample
    from ckptdbg.session import open_session

    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(build_sample(folder, pair, (fault,), num_hidden_layers=layers))
        stages: list[str] = []
        session.progress = stages.append
        spans = {}
        for part in ("comparison", "diagnosis"):
            cpu, wall, programs = time.process_time(), time.perf_counter(), len(compiled)
            getattr(session, part)
            spans[part] = (time.process_time() - cpu, time.perf_counter() - wall, len(compiled) - programs)
        verified = [f.repair is not None and f.repair.verified for f in session.diagnosis.findings]
    compare, diagnose = spans["comparison"], spans["diagnosis"]
    return {
        "compare": compare[0],
        "diagnose": diagnose[0],
        "ratio": diagnose[0] / compare[0],
        "wall": diagnose[1] / compare[1],
        "runs": sum(stage.startswith("trying repairs, run") for stage in stages),
        "compiled": [compare[2], diagnose[2]],
        "verified": bool(verified) and all(verified),
    }


def row(pair: str, fault: str, layers: int) -> list[Any]:
    command = [sys.executable, __file__, "--layers", str(layers), "--part", pair, fault]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        f"{pair}, {layers} layers",
        fault,
        f"{found['compare']:.1f} s",
        f"{found['diagnose']:.1f} s",
        f"{found['ratio']:.2f}x",
        f"{found['wall']:.2f}x",
        found["runs"],
        " + ".join(map(str, found["compiled"])),
        "yes" if found["verified"] else "no",
    ]


HEAD = (
    "conversion",
    "fault",
    "compare",
    "diagnose",
    "ratio",
    "wall ratio",
    "runs of candidates",
    "compiled",
    "verified",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        pair, fault = asked.part
        print(json.dumps(measure(pair, fault, asked.layers)))
        return
    text = table(HEAD, [row(*case, asked.layers) for case in CASES])
    print(text)
    write_text(ROOT / "build" / "diagnosis.md", text)


if __name__ == "__main__":
    main()
