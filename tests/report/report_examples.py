"""Hand-made results of every verdict, with the shapes real ones have."""

import math

import numpy as np

from ckptdbg.report.entries import EntryView, Step
from ckptdbg.report.pictures import Pictures
from ckptdbg.result import Result

HOSTILE = '<script>alert("x")</script>'
NAMES = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.gate", "mlp.up", "mlp.down")


def stats(mean=0.013, std=1.27):
    return {"mean": mean, "std": std, "min": mean - 4 * std, "max": mean + 4 * std, "nonfinite": 0}


def site(entry, layer, port, order, ratio, alone, **more):
    return {
        "site": f"decoder/layers_{layer}/{entry}" if layer is not None else entry,
        "entry": entry,
        "layer": layer,
        "port": port,
        "scope": f"modeling.py:{100 + order}",
        "order": order,
        "shape": [254, 96],
        "source": stats(),
        "target": stats(0.017, 1.31),
        "error": None if ratio is None else ratio * 2e-5,
        "noise": 2e-5,
        "ratio": ratio,
        "isolated": None if alone is None else {"error": alone * 2e-5, "noise": 2e-5, "ratio": alone},
    } | more


def sites(layers=6, bad=(2, "attention.query"), ratio=2.5e5):
    rng = np.random.default_rng(0)
    found, order, parted = [site("embedding", None, "out", 0, 1.4, 1.2)], 1, False
    for layer in range(layers):
        for name in NAMES:
            for port in ("in", "out"):
                here = bad is not None and (layer, name, port) == (*bad, "out")
                parted |= here
                free = ratio * rng.uniform(0.2, 1) if parted else rng.uniform(1.2, 2.6)
                alone = ratio if here else rng.uniform(1.1, 2.1)
                found.append(site(name, str(layer), port, order, free, alone))
                order += 1
    return [*found, site("head", None, "out", order, 0.3 * ratio if parted else 1.9, 1.4)]


def result(verdict="divergent", **changes):
    entry = {"name": "attention.query", "file": "mappings/llama.yaml", "line": 14}
    finding = {
        "kind": "layout",
        "cause": "mapping",
        "effect": "diverges",
        "entries": [entry],
        "layers": ["2", "3", "4", "5"],
        "site": "attention.query out",
        "ratio": 2.5e5,
        "explanation": "Rows of q are in half-split order where the target rotates interleaved pairs.",
        "evidence": ["token 0 agrees: positions matter", "every tensor equals mapping(source)"],
        "excluded": ["transpose", "scale by 1/sqrt(head_dim)"],
        "repair": {
            "entry": "attention.query",
            "ops_before": [{"rearrange": "(h d) m -> m h d"}],
            "ops_after": [{"rearrange": "(h two d) m -> m h (d two)", "two": 2}],
            "verified": True,
            "also": ["the same on attention.key"],
            "ratio_before": 2.5e5,
            "ratio_after": 1.9,
        },
    }
    first = {
        "site": "decoder/layers_2/attention.query",
        "port": "out",
        "layer": "2",
        "entry": "attention.query",
        "order": 30,
        "error": 5.0,
        "noise": 2e-5,
        "ratio": 2.5e5,
    }
    faulty = verdict in ("divergent", "definition-differs")
    fields = {
        "verdict": verdict,
        "first_divergence": first if faulty else None,
        "findings": [finding] if faulty else [],
        "sites": sites(bad=(2, "attention.query") if faulty else None),
        "not_compared": [{"name": "decoder/rotary", "side": "target", "reason": "an opaque kernel"}],
        "noise": {"method": "promoted float64 and one-ulp jitter", "suspect": 10, "divergent": 30},
        "logits": {
            "kl_mean_nats": 0.731,
            "kl_max_nats": 4.25,
            "kl_torchtitan": 6.1e-6,
            "top1_agreement": 0.41,
            "topk_overlap": 0.52,
            "max_abs": 3.2,
        },
        "coverage": {"parameters_exercised": 57, "parameters_total": 58, "unexercised": ["decoder/unused"]},
        "probe": {"tokens": "random", "batch": 2, "length": 127, "seed": 0},
        "environment": {"python": "3.11", "torch": "2.13", "jax": "0.10"},
        "timings": {"compare": 3.2},
    }
    return Result.model_validate(fields | changes)


def pictures(rows=127, columns=192):
    rng = np.random.default_rng(1)
    source = rng.standard_normal((rows, columns))
    target = source.copy()
    target[:, 24:64] = source[:, 24:64][:, ::-1]
    return Pictures("attention.query out, layer 2, sequence 0", source, target, target - source)


def entry_view():
    lines = (
        "- name: attention.query",
        "  source: model.layers.{layer}.self_attn.q_proj.weight",
        "  target: decoder/layers_{layer}/attention/query/kernel",
        "  ops:",
        '    - rearrange: "(h d) m -> m h d"',
        "      h: heads",
    )
    steps = (Step("q_proj.weight", (192, 96)), Step("rearrange (h d) m -> m h d", (96, 6, 32)))
    return EntryView("attention.query", "mappings/llama.yaml", 14, lines, steps)


NONFINITE = (math.nan, math.inf, -math.inf)
