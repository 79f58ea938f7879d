# %% [markdown]
# # No parameter at fault
#
# Sometimes every tensor is right and so is every layout, and the models still part: one of them computes something
# else. Here the target's rotary base is 500000 where the source has 10000. No mapping can mend that, and a tool that
# proposes one is guessing.

# %%
import ckptdbg as cd
from ckptdbg.samples import build_sample

session = cd.open(build_sample("llama", "llama_to_nnx", faults=["rope-theta"]))
result = session.compare()

# %%
from ckptdbg_widgets import DivergenceMap

DivergenceMap(result)

# %%
result

# %% [markdown]
# The verdict is not *divergent*: nothing was converted wrongly. The finding names the option on both sides, and it was
# proved by running: given the target's value, the source agrees with the target. What it rests on:

# %%
print(*result.findings[0].evidence, sep="\n")

# %% [markdown]
# ## What it looks like
#
# Go to the first divergence and look at the difference over positions: nothing at position 0, where nothing is rotated;
# then it grows with the angle between the two rotations. One line for each sequence:

# %%
import matplotlib.pyplot as plt
import numpy as np

session.continue_()
here = session.show()
by_position = np.linalg.norm(here.difference, axis=1).reshape(session.inputs["input_ids"].shape)
plt.figure(figsize=(8, 2.6))
plt.plot(by_position.T)
plt.xlabel("position")
plt.ylabel("size of the difference")
plt.title(here.name)
plt.show()

# %% [markdown]
# ## Mend the model
#
# The option is the target's, not the mapping's.

# %%
from pathlib import Path

text = Path("llama/config.yaml").read_text()
Path("llama/mended.yaml").write_text(text.replace("rope_theta: 500000.0", "rope_theta: 10000.0"))

cd.open("llama/mended.yaml").compare()
