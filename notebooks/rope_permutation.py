# %% [markdown]
# # A missing RoPE permutation
#
# Hugging Face's Llama rotates the first half of every head against the second half. Many JAX models rotate
# neighbouring features instead, so a converter has to reorder the rows of query and key. Forget it and every shape
# still fits, every statistic still agrees, and the model writes fluent nonsense.
#
# Here is such a conversion, a tiny Llama with random weights. Its mapping lacks the permutation.

# %%
import ckptdbg as cd
from ckptdbg.samples import build_sample

session = cd.open(build_sample("llama", "llama_to_nnx", faults=["query-key-not-interleaved"]))
result = session.compare()

# %%
from ckptdbg_widgets import DivergenceMap

DivergenceMap(result)

# %% [markdown]
# **Free running** shows where the two models first part; whatever comes after is wrong too. **Each piece alone** feeds
# every piece of the target the source's own values: one column is left, in every layer. What goes into the attention's
# output projection is wrong although `query` and `key` themselves are what the mapping says.

# %%
result

# %% [markdown]
# ## What the usual checks see
#
# Mean, deviation and extremes do not change when rows change places. The worst of these differences:

# %%
import numpy as np

source = session.source.read("model.layers.0.self_attn.k_proj.weight")
target = session.target.read("decoder/layers_0/self_attention/key/kernel")
max(abs(float(f(source) - f(target))) for f in (np.mean, np.std, np.min, np.max))

# %% [markdown]
# And the figure that torchtitan's script prints divides by the vocabulary as well as by the tokens:

# %%
print(f"as printed there: {result.logits.kl_torchtitan:.4f}   per token: {result.logits.kl_mean_nats:.2f} nats")

# %% [markdown]
# ## Why it is a rotation
#
# Go to the first divergence, as in a debugger, and look at the values there.

# %%
session.continue_()

# %%
here = session.show()
here

# %% [markdown]
# Position 0 is not rotated, so there a wrong order of rotary pairs cannot matter. Two sequences, largest difference at
# their first five positions:

# %%
np.abs(here.difference).max(axis=1).reshape(session.inputs["input_ids"].shape)[:, :5].round(6)

# %% [markdown]
# The rows of the two sequences' first tokens, 0:0 and 1:0, are dark in the right-hand picture:

# %%
from ckptdbg_widgets import ActivationHeatmap

ActivationHeatmap(here.source, here.target, title="what goes into the output projection", row_labels=here.tokens)

# %% [markdown]
# ## Is it that, and nothing else?
#
# Put the source's own values in at this place, in every layer, and let the target run on. The output recovers, so no
# second fault hides behind this one.

# %%
session.plant(layers=True)

# %% [markdown]
# ## Mend it
#
# The repair above is *verified*: the whole model ran with it, on these tokens and on others. Write the mended
# mapping...

# %%
import difflib
from pathlib import Path

session.diagnosis.write(Path("llama/mappings/mended.yaml"))
before, after = (Path(f"llama/mappings/{name}.yaml").read_text().splitlines() for name in ("llama_to_nnx", "mended"))
print("\n".join(line for line in difflib.unified_diff(before, after, n=2, lineterm="")))

# %% [markdown]
# ... and convert with it: without a path of its own the target is filled by the mapping.

# %%
text = Path("llama/config.yaml").read_text()
text = text.replace("llama_to_nnx.yaml", "mended.yaml").replace("  path: target.safetensors\n", "")
Path("llama/mended.yaml").write_text(text)

mended = cd.open("llama/mended.yaml").compare()
DivergenceMap(mended)

# %%
mended
