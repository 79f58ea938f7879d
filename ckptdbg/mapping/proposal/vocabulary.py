"""What the words in tensor names mean: general words of the field, as data. Everything that the proposal knows of names
stands in this file; no model's name does."""

from __future__ import annotations

# How much sharing a concept says. What a tensor does tells most, where it stands less; a word that is in no table
# counts by itself, a little.
WEIGHTS: dict[str, float] = {
    "query": 4, "key": 4, "value": 4, "out": 4, "gate": 4, "up": 4, "down": 4, "router": 4, "head": 4, "embedding": 4,
    "norm": 4, "bias": 4, "position": 3, "type": 3, "attention": 2, "cross": 3, "mlp": 1.5, "moe": 2, "shared": 3,
    "vision": 3, "audio": 3, "text": 0.5, "encoder": 0.5, "decoder": 0.5, "token": 1, "before": 1, "after": 1,
    "final": 1, "pooler": 4, "patch": 1,
}  # fmt: skip
OTHER_WORD = 0.5

# In the order in which several of them are usually joined in one tensor.
ROLES = ("query", "key", "value", "out", "gate", "up", "down")

# Words of one part of a name, as a phrase, and what they say. The longest phrase wins. An empty list is a word that
# says nothing.
PHRASES: dict[str, tuple[str, ...]] = {
    # attention
    "attention": ("attention",), "attn": ("attention",), "self attention": ("attention",), "self attn": ("attention",),
    "multi head attention": ("attention",), "multi head dot product attention": ("attention",), "mha": ("attention",),
    "cross attention": ("attention", "cross"), "cross attn": ("attention", "cross"),
    "encoder attn": ("attention", "cross"), "enc dec attention": ("attention", "cross"),
    "query": ("query",), "q": ("query",), "wq": ("query",), "q proj": ("query",), "q einsum": ("query",),
    "key": ("key",), "k": ("key",), "wk": ("key",), "k proj": ("key",), "k einsum": ("key",),
    "value": ("value",), "v": ("value",), "wv": ("value",), "v proj": ("value",), "v einsum": ("value",),
    "out": ("out",), "o": ("out",), "wo": ("out",), "o proj": ("out",), "out proj": ("out",), "output": ("out",),
    "c proj": ("out",), "proj": ("out",), "attn vec": ("attention", "out"),
    "qkv": ("query", "key", "value"), "wqkv": ("query", "key", "value"), "qkv proj": ("query", "key", "value"),
    "query key value": ("query", "key", "value"), "c attn": ("attention", "query", "key", "value"),
    "in proj": ("query", "key", "value"), "qkv einsum": ("query", "key", "value"),
    "kv": ("key", "value"), "kv proj": ("key", "value"), "kv einsum": ("key", "value"), "wkv": ("key", "value"),
    # feed forward
    "mlp": ("mlp",), "ffn": ("mlp",), "ffw": ("mlp",), "ff": ("mlp",), "feed forward": ("mlp",),
    "feedforward": ("mlp",), "gate": ("gate",), "gate proj": ("gate",), "wi 0": ("gate",), "w 1": ("gate",),
    "up": ("up",), "up proj": ("up",), "wi 1": ("up",), "w 3": ("up",), "wi": ("up",), "fc": ("up",), "fc 1": ("up",),
    "c fc": ("up",), "intermediate": ("up",), "dense h to 4 h": ("up",),
    "down": ("down",), "down proj": ("down",), "w 2": ("down",), "fc 2": ("down",), "dense 4 h to h": ("down",),
    "gate up": ("gate", "up"), "gate up proj": ("gate", "up"), "gating": ("gate", "up"), "w 13": ("gate", "up"),
    # experts
    "moe": ("moe",), "moe block": ("moe",), "block sparse moe": ("moe",), "sparse moe": ("moe",), "experts": ("moe",),
    "expert": ("moe",), "router": ("router",), "shared expert": ("moe", "shared"), "shared experts": ("moe", "shared"),
    # norms
    "norm": ("norm",), "ln": ("norm",), "layernorm": ("norm",), "layer norm": ("norm",), "rmsnorm": ("norm",),
    "rms norm": ("norm",), "ln f": ("norm", "final"), "final": ("final",),
    "input": ("before",), "pre": ("before",), "before": ("before",), "post": ("after",), "after": ("after",),
    # embeddings and head
    "embedding": ("embedding",), "embeddings": ("embedding",), "embedder": ("embedding",), "embed": ("embedding",),
    "emb": ("embedding",), "wte": ("embedding", "token"), "wpe": ("embedding", "position"),
    "word": ("token",), "token": ("token",), "tokens": ("token",), "tok": ("token",), "token type": ("type",),
    "type": ("type",), "position": ("position",), "positions": ("position",), "pos": ("position",), "patch": ("patch",),
    "lm head": ("head",), "logits dense": ("head",), "logits": ("head",), "unembed": ("head",), "embed out": ("head",),
    "head": ("head",), "pooler": ("pooler",),
    # where in the model
    "vision": ("vision",), "visual": ("vision",), "vi t": ("vision",), "image": ("vision",), "audio": ("audio",),
    "language model": ("text",), "text": ("text",), "encoder": ("encoder",), "decoder": ("decoder",),
    # what holds the numbers
    "bias": ("bias",), "beta": ("bias",), "b": ("bias",),
    "weight": (), "kernel": (), "w": (), "scale": (), "gamma": (), "model": (), "params": (), "transformer": (),
    "module": (), "self": (), "dense": (), "linear": (), "einsum": (), "projection": (), "block": (), "layers": (),
    "layer": (), "h": (), "blocks": (), "encoderblock": (), "tower": (),
}  # fmt: skip

# A part that is this word and no more chooses among experts, where there are any.
ROUTERS = ("gate",)

# Words before a number that counts, and what it counts.
CONTAINERS: dict[str, str] = {
    "layers": "layer", "layer": "layer", "h": "layer", "blocks": "layer", "block": "layer", "encoderblock": "layer",
    "decoderblock": "layer", "experts": "expert", "expert": "expert", "stages": "stage", "stage": "stage",
}  # fmt: skip

# Last words of weights that are kept as [in, out]; others are [out, in].
INPUTS_FIRST = ("kernel",)

# Source tensors that are tables a model computes by itself.
TABLES = ("inv_freq", "position_ids", "masked_bias")

# The sizes that ops name, and the keys of configs that hold them.
SIZES: dict[str, tuple[str, ...]] = {
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "num_query_groups"),
    "head_dim": ("head_dim", "d_kv", "attention_head_dim"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
}
# What an attention scale is made of, besides the size of a head.
ATTENTION_SCALES = ("query_pre_attn_scalar",)
