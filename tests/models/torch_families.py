"""Tiny random models of real libraries: every parameter random, every size different, no two alike by chance."""

from __future__ import annotations

import numpy as np
import torch
import transformers as tf
from torch import nn

VOCAB = 61
BATCH, LENGTH, DECODER_LENGTH = 2, 13, 9

_DECODER = {
    "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_EXPERTS = {"num_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 16}


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` between a table and a head; sequence-first inside unless ``batch_first``."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.table = nn.Embedding(VOCAB, 24)
        layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 7)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(input_ids)
        return self.head(self.encoder(hidden if self.batch_first else hidden.transpose(0, 1)))


def _decoder(model: type, config: type, **changes: object) -> nn.Module:
    return model(config(**{**_DECODER, **changes}))


FAMILIES = {
    "llama": lambda: _decoder(tf.LlamaForCausalLM, tf.LlamaConfig),
    "llama-eager": lambda: _decoder(tf.LlamaForCausalLM, tf.LlamaConfig, attn_implementation="eager"),
    "qwen3": lambda: _decoder(tf.Qwen3ForCausalLM, tf.Qwen3Config),
    "qwen3-moe-eager": lambda: _decoder(
        tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig, **_EXPERTS, experts_implementation="eager"
    ),
    "qwen3-moe-grouped": lambda: _decoder(
        tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig, **_EXPERTS, experts_implementation="grouped_mm"
    ),
    "mixtral-eager": lambda: _decoder(
        tf.MixtralForCausalLM, tf.MixtralConfig, num_local_experts=5, experts_implementation="eager"
    ),
    "mixtral-grouped": lambda: _decoder(
        tf.MixtralForCausalLM, tf.MixtralConfig, num_local_experts=5, experts_implementation="grouped_mm"
    ),
    "gemma2": lambda: _decoder(tf.Gemma2ForCausalLM, tf.Gemma2Config, tie_word_embeddings=True),
    "gemma3": lambda: _decoder(tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, tie_word_embeddings=True),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=VOCAB, n_embd=24, n_layer=3, n_head=4, n_positions=50, bos_token_id=1, eos_token_id=2)
    ),
    "bert": lambda: tf.BertModel(
        tf.BertConfig(
            vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4
        )
    ),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=VOCAB, d_model=24, d_kv=10, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0)
    ),
    "encoder-batch-first": lambda: Encoder(True),
    "encoder-sequence-first": lambda: Encoder(False),
}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Norm scales 1 + 0.2 N, biases 0.2 N, matrices N / sqrt(fan in): nothing is one, zero or alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.2 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            scales = parameter.ndim == 1 and bool((parameter == 1).all())
            parameter.copy_(noise + 1 if scales else noise)
    return module.eval()


def make(family: str) -> nn.Module:
    return randomise(FAMILIES[family]())


def inputs_of(family: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens; the second row of the batch is padded at its end where the model takes a mask."""
    ids = np.random.default_rng(seed).integers(3, VOCAB, (BATCH, LENGTH))
    if family.startswith("encoder"):
        return {"input_ids": ids}
    mask = np.ones_like(ids)
    mask[1, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family == "t5":
        inputs["decoder_input_ids"] = ids[:, ::-1][:, :DECODER_LENGTH].copy()
    return inputs


def plain(module: nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the model itself computes, outside of any walk."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            result = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    if isinstance(result, torch.Tensor):
        return result.numpy()
    return (result.logits if hasattr(result, "logits") else result.last_hidden_state).numpy()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """L2 norm of the difference over the L2 norm of ``expected``."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
