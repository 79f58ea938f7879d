"""Hand-made results of any size, with the shapes real ones have."""

import numpy as np

from ckptdbg.result import Result

HOSTILE = '<img src=x onerror="document.title=1"></script>'
NAMES = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.gate", "mlp.up", "mlp.down")
BLANK = {"mean": 0.01, "std": 1.2, "min": -4.0, "max": 4.5, "nonfinite": 0}


def site(entry, layer, port, order, free, alone, **more):
    noise = 2e-5

    def figures(ratio):
        return {"error": None if ratio is None else ratio * noise, "noise": noise, "ratio": ratio}

    known = {
        "site": entry if layer is None else f"decoder/layers_{layer}/{entry}",
        "entry": entry,
        "layer": layer,
        "port": port,
        "scope": f"modeling.py:{100 + order}",
        "order": order,
        "shape": [96, 64],
        "source": BLANK,
        "target": BLANK | {"mean": 0.02, "max": 5.0},
        "isolated": None if alone is None else figures(alone),
    }
    return known | figures(free) | more


def result(layers=4, names=NAMES, bad=(1, "attention.key"), alone=True, **changes):
    """``layers`` of ``names`` between an embedding and a head; the ``out`` of ``bad`` is wrong by itself and everything
    after it free running. ``bad=None`` is a healthy conversion."""
    rng = np.random.default_rng(0)
    places = [(None, "embedding", "out")]
    places += [(str(layer), name, port) for layer in range(layers) for name in names for port in ("in", "out")]
    places += [(None, "head", "in"), (None, "head", "out")]
    sites, first = [], None
    for order, (layer, name, port) in enumerate(places):
        here = bad is not None and (layer, name, port) == (str(bad[0]), bad[1], "out")
        if here:
            first = order
        free = float(rng.uniform(1e5, 3e5) if first is not None else rng.uniform(1.2, 2.6))
        sites.append(site(name, layer, port, order, free, (2.5e5 if here else 1.5) if alone else None))
    found = sites[first] if first is not None else None
    keys = ("site", "port", "layer", "entry", "order", "error", "noise", "ratio")
    fields = {
        "verdict": "divergent" if found else "equivalent",
        "first_divergence": None if found is None else {key: found[key] for key in keys},
        "findings": [] if found is None else [finding(found)],
        "sites": sites,
        "not_compared": [],
        "noise": {"method": "jitter", "suspect": 10, "divergent": 30},
        "logits": None,
        "coverage": {"parameters_exercised": 57, "parameters_total": 58},
        "probe": {},
        "environment": {},
        "timings": {},
    }
    return Result.model_validate(fields | changes)


def finding(found, **changes):
    """A layout fault at a site, blamed on another entry than the one that makes it."""
    repair = {
        "entry": "attention.query",
        "change": "add an interleave",
        "ops_before": [{"rearrange": "(h d) m -> m h d"}],
        "ops_after": [{"rearrange": "(h two d) m -> m h (d two)", "two": 2}],
        "verified": True,
        "ratio_before": 2.5e5,
        "ratio_after": 0.7,
    }
    return {
        "kind": "layout",
        "cause": "mapping",
        "effect": "diverges",
        "entries": [{"name": "attention.query", "file": "mappings/llama.yaml", "line": 14}],
        "layers": [] if found["layer"] is None else [found["layer"]],
        "site": f"{found['site']} {found['port']}",
        "ratio": found["ratio"],
        "explanation": "Rows are in half-split order.",
        "evidence": ["exact at the first position"],
        "repair": repair,
    } | changes
