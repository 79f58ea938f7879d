"""MaxText's own conversion loops, and the shapes of its tensors, without what importing its scripts takes.

``utils.py`` imports the whole of MaxText; the functions that do the work need NumPy and JAX alone. They are taken from
the installed file as they are.
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import maxtext
import numpy as np
from maxtext.checkpoint_conversion.utils import tensor_handling

FOLDER = Path(maxtext.__file__).parent / "checkpoint_conversion"


def functions_of(file: str, names: set[str], **given: Any) -> SimpleNamespace:
    """Some functions at the top of one of MaxText's files, with no imports but those ``given``."""
    tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"))
    future = ast.parse("from __future__ import annotations").body
    tree.body = [*future, *(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names)]
    space = dict(given)
    exec(compile(tree, file, "exec"), space)
    return SimpleNamespace(**space)


def _quiet() -> SimpleNamespace:
    return SimpleNamespace(log=lambda *_: None)


_HANDLING = {name: getattr(tensor_handling, name) for name in ("nesting_depth", "stacked_axes")}


def to_hf(key: Any, weight: Any, names: Any, hooks: Any, shapes: Any, settings: Any) -> list[tuple[str, Any]]:
    """What MaxText's ``to_huggingface.py`` makes of one tensor, or of the several of one key."""
    gathered = SimpleNamespace(process_allgather=lambda x: x)
    names_of = {"process_maxtext_param", "_process", "convert_jax_weight_to_numpy", "apply_hook_fns"}
    given = {"jax": jax, "np": np, "max_logging": _quiet(), "multihost_utils": gathered, **_HANDLING}
    own = functions_of("utils/utils.py", names_of, **given)
    return own.process_maxtext_param(key, weight, names, hooks, shapes, settings)


def from_hf(key: Any, sources: Any, get: Any, hook: Any, shape: Any, settings: Any) -> Any:
    """What MaxText makes of Hugging Face tensors."""
    return tensor_handling.get_hf_loading_function(sources, get, hook, shape, settings, key)()


def shapes_of(config: Any, keys: Any, layers: int | None, vocab: int) -> dict[str, tuple[int, ...]]:
    """Shapes of MaxText's decoders by the ends of their keys; ``layers`` of them stacked on axis 1 where scanned."""
    hidden, heads, kv_heads, dim = (
        config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    experts = config.get("num_experts") or config.get("num_local_experts") or 1
    mlp = config.get("moe_intermediate_size") or config["intermediate_size"]
    ends = {
        "token_embedder-embedding": (vocab, hidden),
        "logits_dense-kernel": (hidden, config["vocab_size"]),
        "query-kernel": (hidden, heads, dim),
        "key-kernel": (hidden, kv_heads, dim),
        "value-kernel": (hidden, kv_heads, dim),
        "out-kernel": (heads, dim, hidden),
        "query_norm-scale": (dim,),
        "key_norm-scale": (dim,),
        "gate-kernel": (hidden, experts),
        "wi_0-kernel": (hidden, config["intermediate_size"]),
        "wi_1-kernel": (hidden, config["intermediate_size"]),
        "wo-kernel": (config["intermediate_size"], hidden),
        "wi_0": (experts, hidden, mlp),
        "wi_1": (experts, hidden, mlp),
        "wo": (experts, mlp, hidden),
        "-scale": (hidden,),
    }
    found = {}
    for key in keys:
        shape = next(shape for end, shape in ends.items() if key.endswith(end))
        scanned = layers is not None and "-layers" in key
        found[key] = (*shape[:1], layers, *shape[1:]) if scanned else shape
    return found
