# %% [markdown]
# # A norm fault in a Gemma
#
# Gemma stores its norm scales around zero and multiplies by `1 + w`. Some implementations keep that, others store the
# scale itself, and then the converter must add the one. Gemma 2 has four norms in every layer; here one of them was
# forgotten.

# %%
import ckptdbg as cd
from ckptdbg.samples import build_sample

session = cd.open(build_sample("gemma", "gemma2_to_jax", faults=["norm-plus-one-missing"]))
result = session.compare()

# %%
from ckptdbg_widgets import DivergenceMap

DivergenceMap(result)

# %% [markdown]
# On the left everything after the first norm is wrong. On the right each piece got the source's own values, and only
# what reads the norm's output stands out: the inputs of query and of key and value.

# %%
result

# %% [markdown]
# ## The numbers behind it
#
# The norm before attention in layer 0, as it is stored on both sides. The mapping copies it; the source's model adds
# one where it is used, the target's does not.

# %%
import pandas as pd

sides = {
    "source": session.source.read("model.layers.0.input_layernorm.weight"),
    "target": session.target.read("layer_0/pre_attention_norm/scale"),
}
pd.DataFrame({name: pd.Series(value).describe() for name, value in sides.items()}).loc[["mean", "std", "min", "max"]]

# %% [markdown]
# ## Try a correction
#
# As a person would type it, for the entry that the finding names. The whole target runs with it, and nothing is
# changed yet:

# %%
session.try_("attention.norm", "add: 1")

# %%
session.apply()
session.write("gemma/mappings/mended.yaml")

# %% [markdown]
# Convert again with what was written: without a path of its own the target is filled by the mapping.

# %%
from pathlib import Path

text = Path("gemma/config.yaml").read_text()
text = text.replace("gemma2_to_jax.yaml", "mended.yaml").replace("  path: target.safetensors\n", "")
Path("gemma/mended.yaml").write_text(text)

cd.open("gemma/mended.yaml").compare()
