"""penzai's Llama, made from a Hugging Face checkpoint by penzai itself. Written for penzai 0.2.5.

penzai reads fields that transformers 5 has renamed; they are put back on the config before it looks.
"""

from __future__ import annotations

from pathlib import Path

import transformers
from jax import Array
from penzai import pz
from penzai.models.transformer.variants.llamalike_common import llamalike_from_huggingface_model

from ckptdbg import JaxModel


def load(path: Path, *, layer_stack: bool = False) -> JaxModel:
    """The model of the Hugging Face folder ``path``; ``layer_stack`` scans over its blocks.

    Parameters are named by penzai's labels, their axes in the order that penzai keeps them. The output is logits
    ``[batch, length, vocabulary]``.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    model.config.rope_theta = model.config.rope_parameters["rope_theta"]
    penzai_model = llamalike_from_huggingface_model(model, use_layer_stack=layer_stack)
    unbound, variables = pz.unbind_params(penzai_model, freeze=True)
    axes = {variable.label: tuple(variable.value.named_shape) for variable in variables}

    def apply(params: dict[str, Array], inputs: dict[str, Array]) -> Array:
        bound = [
            pz.ParameterValue(value=pz.nx.wrap(value).tag(*axes[label]), label=label) for label, value in params.items()
        ]
        tokens = pz.nx.wrap(inputs["input_ids"]).tag("batch", "seq")
        positions = pz.nx.arange("seq", inputs["input_ids"].shape[1])
        logits = pz.bind_variables(unbound, bound)(tokens, token_positions=positions)
        return logits.unwrap("batch", "seq", "vocabulary")

    return JaxModel(apply, {variable.label: variable.value.unwrap(*axes[variable.label]) for variable in variables})
