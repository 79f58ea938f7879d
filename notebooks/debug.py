# %% [markdown]
# # Debug a conversion
#
# Two models, the same tokens, layer by layer. `config` is the path of a config; with `None` a tiny conversion with two
# planted faults is made on the spot.

# %% tags=["parameters"]
config = None

# %% [markdown]
# ## Load and compare

# %%
import ckptdbg as cd
from ckptdbg.samples import DEMO_FAULTS, build_sample

session = cd.open(config or build_sample("ckptdbg-demo", faults=DEMO_FAULTS))

# %%
result = session.compare()
result

# %% [markdown]
# ## Look
#
# Click into the map, or press `f` there for the first divergence; arrow keys step, `n` and `p` go to the next and the
# previous one. What is chosen in one window is shown by the others.

# %%
session.debug()

# %% [markdown]
# ## Step
#
# The same from cells, with one cursor for both. Where it stands, in both models' code, and what is there:

# %%
session.where()

# %%
session.show()

# %% [markdown]
# `session.step()`, `next()`, `back()` and `continue_()` move it. If the source's own values stood here, what would
# recover?

# %%
session.plant() if result.first_divergence else None

# %% [markdown]
# ## Try
#
# What would the last of the proposed repairs do? `session.try_("attention.query", "scale: 2")` tries an op of your own,
# `session.apply()` goes on under what was tried, `session.undo()` takes it back, `session.write("mended.yaml")` writes
# the mapping with everything applied.

# %%
repairs = [number for number, finding in enumerate(result.findings, 1) if finding.repair]
session.try_(repairs[-1]) if repairs else None

# %% [markdown]
# ## Keep
#
# One page that opens without a kernel and stays interactive:

# %%
from ckptdbg_widgets import export

export(result, "ckptdbg-report.html", comparison=session.comparison, mapping=session.mapping)
