# %% [markdown]
# # torchtitan, both directions
#
# torchtitan trains its own Llama 3: weights come from Hugging Face, and go back there. torchtitan's own adapter
# converts a tiny random model both ways here; ckptdbg compares what runs. (`make test-interop` sets up an environment
# that has torchtitan.)

# %%
import shutil
from pathlib import Path

import ckptdbg as cd
from ckptdbg.samples import write_checkpoint
from ckptdbg.samples.pairs import sample_configs

write_checkpoint("llama", "source")
shutil.copytree(sample_configs() / "interop", ".", dirs_exist_ok=True)
print(Path("torchtitan_llama3.yaml").read_text())

# %% [markdown]
# ## From Hugging Face to torchtitan

# %%
from safetensors.torch import load_file, save_file
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from torchtitan_models import configure

sizes = {"layers": 4, "dim": 48, "heads": 6, "kv_heads": 3, "head_dim": 12, "mlp": 112, "vocab": 131}
adapter = Llama3StateDictAdapter(
    configure("llama3", **sizes, norm_epsilon=1e-6, rope_theta=10000.0, max_length=256), None
)


def there(file, adapter=adapter):
    """The source's tensors as torchtitan's, in a file."""
    made = adapter.from_hf(load_file("source/model.safetensors"))
    save_file({name: value.contiguous() for name, value in made.items()}, file)


there("target.safetensors")
result = cd.open("torchtitan_llama3.yaml").compare()

# %%
from ckptdbg_widgets import DivergenceMap

DivergenceMap(result)

# %%
result

# %% [markdown]
# ## And back
#
# Now torchtitan's model is the one trusted. The mapping is the same with its sides exchanged; every pattern in it reads
# backwards as well.

# %%
from ckptdbg.documents import dump_yaml, parse_yaml
from ckptdbg.errors import MappingError

file = Path("mappings/torchtitan_llama3.yaml")
mapping = parse_yaml(file.read_text(), str(file), MappingError)
for entry in mapping["entries"]:
    entry["source"], entry["target"] = entry["target"], entry["source"]
    for op in entry.get("ops", ()):
        op["rearrange"] = " -> ".join(reversed(op["rearrange"].split(" -> ")))
Path("mappings/back.yaml").write_text(dump_yaml(mapping))

forward = parse_yaml(Path("torchtitan_llama3.yaml").read_text(), "", MappingError)
back = {**forward, "source": forward["target"], "mapping": "mappings/back.yaml"}
back["target"] = {"loader": "huggingface", "path": "back"}
Path("back.yaml").write_text(dump_yaml(back))


def home(file, adapter=adapter):
    """torchtitan's tensors as a Hugging Face checkpoint."""
    Path("back").mkdir(exist_ok=True)
    shutil.copy("source/config.json", "back")
    made = adapter.to_hf(load_file(file))
    save_file({name: value.contiguous() for name, value in made.items()}, "back/model.safetensors", {"format": "pt"})


home("target.safetensors")
result = cd.open("back.yaml").compare()
DivergenceMap(result)

# %%
result

# %% [markdown]
# ## What a round trip cannot see
#
# Suppose the adapter forgot the rotary permutation in both directions. There and back again is exact:

# %%
broken = Llama3StateDictAdapter(adapter.model_config, None)
broken._permute = broken._reverse_permute = lambda weight, *_: weight

there("target.safetensors", broken)
home("target.safetensors", broken)
before, after = load_file("source/model.safetensors"), load_file("back/model.safetensors")
max((before[name] - after[name]).abs().max().item() for name in after)

# %% [markdown]
# Neither of the two conversions is right:

# %%
result = cd.open("torchtitan_llama3.yaml").compare()
DivergenceMap(result)

# %%
result

# %%
cd.open("back.yaml").compare().verdict
