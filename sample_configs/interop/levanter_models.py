"""levanter's Llama, read from a Hugging Face checkpoint by levanter itself. Written for levanter 1.2.

levanter runs its blocks in a scan with rematerialisation. It needs transformers 4.57: where the source needs
another version, capture the source there and compare with ``--source-trace`` here.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import haliax as hax
import jax
import transformers
from haliax.state_dict import from_torch_compatible_state_dict
from levanter.layers.attention import AttentionMask
from levanter.models.llama import LlamaConfig, LlamaLMHeadModel
from safetensors.numpy import load_file

from ckptdbg import JaxModel


def load(path: Path, *, rope_theta: float | None = None) -> JaxModel:
    """The model of the Hugging Face folder ``path``; logits ``[batch, length, vocabulary]``.

    Parameters are named by their place in levanter's module, axes as it keeps them, layers stacked first.
    ``rope_theta`` replaces what the folder's ``config.json`` says.
    """
    told = json.loads((path / "config.json").read_text(encoding="utf-8"))
    rope = told.pop("rope_parameters", {})  # as transformers 5 writes it
    told["rope_theta"] = rope_theta or rope.get("rope_theta", told.get("rope_theta"))
    hf_config = transformers.LlamaConfig(**told)
    config = dataclasses.replace(LlamaConfig.from_hf_config(hf_config), head_dim=hf_config.head_dim)
    vocabulary = hax.Axis("vocab", hf_config.vocab_size)
    empty = eqx.filter_eval_shape(LlamaLMHeadModel.init, vocabulary, config, key=jax.random.PRNGKey(0))
    model = from_torch_compatible_state_dict(empty, load_file(path / "model.safetensors"))
    arrays, static = eqx.partition(model, eqx.is_array)
    leaves, structure = jax.tree_util.tree_flatten_with_path(arrays)
    names = [_name(keys) for keys, _ in leaves]

    def apply(params: dict[str, jax.Array], inputs: dict[str, jax.Array]) -> jax.Array:
        bound = eqx.combine(jax.tree.unflatten(structure, [params[name] for name in names]), static)
        tokens = hax.named(inputs["input_ids"], ("batch", "position"))
        return bound(tokens, attn_mask=AttentionMask.causal()).rearrange(("batch", "position", "vocab")).array

    return JaxModel(apply, dict(zip(names, (leaf for _, leaf in leaves), strict=True)))


def _name(keys: tuple[object, ...]) -> str:
    """Attribute names joined by ``/``; what haliax puts inside a named array has none."""
    return "/".join(key.name for key in keys if isinstance(key, jax.tree_util.GetAttrKey))
