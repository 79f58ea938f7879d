"""Pairs of names and shapes for the tests: context files made here, of real configs and of the sample targets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping import Mapping

ROOT = Path(__file__).parents[2]
TRUE = ROOT / "tests" / "mapping" / "true_mappings"
SHARED = Path(os.environ.get("CKPTDBG_SHARED", ROOT.parent / "shared")) / "context"
FAMILIES = ("llama3", "qwen3", "gemma3")


def public(name):
    """The specs of one of the public pairs of MaxText's conversion agent, and the true mapping."""
    folder = SHARED / name
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"no {folder}: .ci/run has the public context files beside the checkout")
        pytest.skip(f"no {folder}")
    source, target = (open_checkpoint(folder / f"{side}_params.json").specs for side in ("hf", "maxtext"))
    return source, target, Mapping.load(TRUE / f"{name}.yaml")


def generated(name):
    """The same pairs, of fewer layers, made here: Hugging Face's side from transformers' own classes on the meta
    device, MaxText's from its names; with the true mapping and the source's config."""
    source, config = {"llama3": llama, "qwen3": qwen3, "gemma3": gemma3}[name]()
    target = {"llama3": maxtext, "qwen3": maxtext_qwen3, "gemma3": maxtext_gemma3}[name]()
    return source, target, Mapping.load(TRUE / f"{name}.yaml"), config


def on_meta(model, config):
    """Names and shapes of a transformers class, as on disk, and its config."""
    import torch
    import transformers

    with torch.device("meta"):
        made = getattr(transformers, model)(config)
    return {n: TensorSpec(tuple(p.shape), "float32") for n, p in made.state_dict().items()}, config.to_dict()


def llama(layers=3, hidden=4096, heads=32, kv_heads=8, head_dim=128, mlp=14336, vocab=128256):
    from transformers import LlamaConfig

    return on_meta(
        "LlamaForCausalLM",
        LlamaConfig(
            hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
            intermediate_size=mlp, num_hidden_layers=layers, vocab_size=vocab, bos_token_id=None, eos_token_id=None,
        ),
    )  # fmt: skip


def qwen3():
    from transformers import Qwen3Config

    return on_meta(
        "Qwen3ForCausalLM",
        Qwen3Config(
            hidden_size=2560, num_attention_heads=32, num_key_value_heads=8, head_dim=128, intermediate_size=9728,
            num_hidden_layers=3, vocab_size=151936, bos_token_id=None, eos_token_id=None,
        ),
    )  # fmt: skip


def gemma3():
    from transformers import Gemma3Config

    text = {
        "hidden_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
        "intermediate_size": 10240, "num_hidden_layers": 3,
    }  # fmt: skip
    vision = {
        "hidden_size": 1152, "num_attention_heads": 16, "intermediate_size": 4304, "num_hidden_layers": 2,
        "image_size": 896, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    source, config = on_meta(
        "Gemma3ForConditionalGeneration", Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256)
    )
    named = {n.replace("vision_tower.", "vision_tower.vision_model.", 1): spec for n, spec in source.items()}
    return (source if any("vision_model" in n for n in source) else named), config


def specs(shapes):
    """Specs of plain shapes."""
    return {name: TensorSpec(tuple(shape), "float32") for name, shape in shapes.items()}


def in_maxtext(shapes, join="-"):
    """Paths as MaxText's agent writes them, sorted."""
    return specs({f"params{join}{name.replace('/', join)}": shape for name, shape in sorted(shapes.items())})


def decoder(layers, hidden, heads, kv_heads, head_dim, mlp, norms, qk_norm=False):
    """The layers of a decoder as MaxText has them, unscanned; ``norms`` are those of a block."""
    found = {"decoder/decoder_norm/scale": (hidden,)}
    for i in range(layers):
        block = f"decoder/layers_{i}"
        found |= {f"{block}/{norm}/scale": (hidden,) for norm in norms}
        found |= {
            f"{block}/self_attention/query/kernel": (hidden, heads, head_dim),
            f"{block}/self_attention/key/kernel": (hidden, kv_heads, head_dim),
            f"{block}/self_attention/value/kernel": (hidden, kv_heads, head_dim),
            f"{block}/self_attention/out/kernel": (heads, head_dim, hidden),
            f"{block}/mlp/wi_0/kernel": (hidden, mlp),
            f"{block}/mlp/wi_1/kernel": (hidden, mlp),
            f"{block}/mlp/wo/kernel": (mlp, hidden),
        }
        if qk_norm:
            found |= {f"{block}/self_attention/{n}_norm/scale": (head_dim,) for n in ("query", "key")}
    return found


TWO_NORMS = ("pre_self_attention_layer_norm", "post_self_attention_layer_norm")
FOUR_NORMS = ("pre_self_attention_norm", "post_self_attention_norm", "pre_ffw_norm", "post_ffw_norm")


def maxtext(layers=3, hidden=4096, heads=32, kv_heads=8, head_dim=128, mlp=14336, vocab=128256, join="-"):
    found = decoder(layers, hidden, heads, kv_heads, head_dim, mlp, TWO_NORMS)
    ends = {"token_embedder/embedding": (vocab, hidden), "decoder/logits_dense/kernel": (hidden, vocab)}
    return in_maxtext(found | ends, join)


def maxtext_qwen3():
    found = decoder(3, 2560, 32, 8, 128, 9728, TWO_NORMS, qk_norm=True)
    return in_maxtext({**found, "token_embedder/embedding": (151936, 2560)})


def maxtext_gemma3():
    found = decoder(3, 2560, 8, 4, 256, 10240, FOUR_NORMS, qk_norm=True)
    found["token_embedder/embedding"] = (262144, 2560)
    tower, size = "vision_encoder/Gemma3VisionEncoderLayer_0", 1152
    found |= {
        f"{tower}/embedding/kernel": (14, 14, 3, size), f"{tower}/embedding/bias": (size,),
        f"{tower}/pos_embedding": (1, 4096, size),
        f"{tower}/Transformer/encoder_norm/scale": (size,), f"{tower}/Transformer/encoder_norm/bias": (size,),
        "vision_encoder/VisionEmbedder_0/mm_input_projection/w": (size, 2560),
        "vision_encoder/VisionEmbedder_0/mm_soft_embedding_norm/scale": (size,),
    }  # fmt: skip
    for i in range(2):
        block = f"{tower}/Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_0"
        found |= {f"{block}/LayerNorm_{n}/{leaf}": (size,) for n in (0, 1) for leaf in ("scale", "bias")}
        found |= {f"{attention}/{n}/kernel": (size, 16, 72) for n in ("query", "key", "value")}
        found |= {f"{attention}/{n}/bias": (16, 72) for n in ("query", "key", "value")}
        found |= {f"{attention}/out/kernel": (16, 72, size), f"{attention}/out/bias": (size,)}
        found |= {f"{block}/MlpBlockViT_0/Dense_0/kernel": (size, 4304), f"{block}/MlpBlockViT_0/Dense_0/bias": (4304,)}
        found |= {f"{block}/MlpBlockViT_0/Dense_1/kernel": (4304, size), f"{block}/MlpBlockViT_0/Dense_1/bias": (size,)}
    return in_maxtext(found)
