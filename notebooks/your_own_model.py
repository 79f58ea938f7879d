# %% [markdown]
# # Your own JAX model and mapping, in ten minutes
#
# Three files: a loader, a mapping, a config. Nothing in ckptdbg knows your model; it reads the forward pass.
#
# The source is a tiny Llama with random weights, saved as Hugging Face saves it. Put your own checkpoint in its place.

# %%
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "vocab_size": 101,
}
LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained("checkpoint")

# %% [markdown]
# ## 1. The loader
#
# Any JAX function of parameters and inputs will do. `load` gets `path=None` when the mapping is to fill the parameters;
# then only their shapes matter.

# %%
# %%writefile my_model.py
import jax
import jax.numpy as jnp

import ckptdbg


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def rotate(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None, None] * 10000.0 ** (-jnp.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)


def layer(x, p):
    h = norm(x, p["norm1"])
    q, k, v = (jnp.einsum("btm,mhd->bthd", h, p[name]) for name in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tri(x.shape[1]) > 0, scores, -jnp.inf)
    x = x + jnp.einsum("bhqk,bkhd,hdm->bqm", jax.nn.softmax(scores), v, p["o"])
    h = norm(x, p["norm2"])
    return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]


def apply(params, inputs):
    x = params["embedding"][inputs["input_ids"]]
    for p in params["layers"]:
        x = layer(x, p)
    return norm(x, params["norm"]) @ params["head"]


def load(path, layers, embed, heads, mlp, vocab):
    head = (embed, heads, embed // heads)
    shapes = {"norm1": (embed,), "q": head, "k": head, "v": head, "o": (*head[1:], embed), "norm2": (embed,)}
    shapes |= {"gate": (embed, mlp), "up": (embed, mlp), "down": (mlp, embed)}
    params = {"embedding": (vocab, embed), "layers": [shapes] * layers, "norm": (embed,), "head": (embed, vocab)}
    return ckptdbg.JaxModel(apply, jax.tree.map(jnp.zeros, params, is_leaf=lambda node: isinstance(node, tuple)))


# %% [markdown]
# ## 2. The mapping
#
# Which source tensor becomes which parameter, and how. A first try:

# %%
from pathlib import Path

mapping = """
version: 1
variables: {heads: num_attention_heads}
entries:
  - {name: embedding, source: model.embed_tokens.weight, target: embedding}
  - name: norm1
    source: model.layers.{i}.input_layernorm.weight
    target: layers/{i}/norm1
  - name: q
    source: model.layers.{i}.self_attn.q_proj.weight
    target: layers/{i}/q
    ops: [{rearrange: "(h d) m -> m h d", h: heads}]
  - name: k
    source: model.layers.{i}.self_attn.k_proj.weight
    target: layers/{i}/k
    ops: [{rearrange: "(h d) m -> m h d", h: heads}]
  - name: v
    source: model.layers.{i}.self_attn.v_proj.weight
    target: layers/{i}/v
    ops: [{rearrange: "(h d) m -> m h d", h: heads}]
  - name: o
    source: model.layers.{i}.self_attn.o_proj.weight
    target: layers/{i}/o
    ops: [{rearrange: "m (d h) -> h d m", h: heads}]
  - name: gate
    source: model.layers.{i}.mlp.gate_proj.weight
    target: layers/{i}/gate
    ops: [{rearrange: "f m -> m f"}]
  - name: up
    source: model.layers.{i}.mlp.up_proj.weight
    target: layers/{i}/up
    ops: [{rearrange: "f m -> m f"}]
  - name: down
    source: model.layers.{i}.mlp.down_proj.weight
    target: layers/{i}/down
    ops: [{rearrange: "m f -> f m"}]
  - {name: norm, source: model.norm.weight, target: norm}
  - {name: head, source: lm_head.weight, target: head, ops: [{rearrange: "v m -> m v"}]}
"""
Path("mapping.yaml").write_text(mapping)

# %% [markdown]
# ## 3. The config

# %%
config = """
source: {loader: huggingface, path: checkpoint}
target: {loader: my_model.py:load, options: {layers: 3, embed: 48, heads: 4, mlp: 80, vocab: 101}}
mapping: mapping.yaml
probe: {tokens: random, batch: 2, length: 24, seed: 0}
"""
Path("config.yaml").write_text(config)

# %% [markdown]
# ## Compare
#
# An entry was forgotten, and ckptdbg says so before anything runs:

# %%
import ckptdbg as cd

try:
    cd.open("config.yaml").compare()
except cd.CkptdbgError as error:
    print(error)

# %% [markdown]
# Add it, and compare again.

# %%
mapping += '  - {name: norm2, source: "model.layers.{i}.post_attention_layernorm.weight", target: "layers/{i}/norm2"}\n'
Path("mapping.yaml").write_text(mapping)

session = cd.open("config.yaml")
result = session.compare()

# %%
from ckptdbg_widgets import DivergenceMap

DivergenceMap(result)

# %%
result

# %% [markdown]
# The attention's output takes its inputs as `(h d)`; the mapping above says `(d h)`. The sizes fit either way.
# Change the pattern:

# %%
Path("mapping.yaml").write_text(mapping.replace("m (d h) -> h d m", "m (h d) -> h d m"))
result = cd.open("config.yaml").compare()
DivergenceMap(result)

# %%
result

# %% [markdown]
# The same check in a test suite, with models that are in memory already:
#
# ```python
# cd.assert_equivalent(source, target, "mapping.yaml", {"input_ids": ids})
# ```
