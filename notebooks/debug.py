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
# Arrow keys walk over the sites, `n` and `p` over the divergences, `f` goes to the first.

# %%
from ckptdbg_widgets import DivergenceMap

DivergenceMap(result)

# %% [markdown]
# ## Step
#
# To the next divergence: where it is, in both models' code, and what is there.

# %%
session.continue_()

# %%
session.show()

# %% [markdown]
# ## Try
#
# If the source's own values stood here, what would recover? And what would the proposed repair do?

# %%
session.plant() if result.first_divergence else None

# %%
repairs = [number for number, finding in enumerate(result.findings, 1) if finding.repair]
session.try_(repairs[-1]) if repairs else None

# %% [markdown]
# `session.apply()` goes on under what was tried, `session.undo()` takes it back, `session.write("mended.yaml")` writes
# the mapping with everything applied.
#
# ## Keep

# %%
result.to_html("ckptdbg-report.html")
