"""One of several processes that save a sharded model together: ``dcp_ranks.py RANK RANKS FOLDER``.

Trained for a step, so that there is optimizer state; saved as torchtitan does it (the model's tensors at the root),
nested under ``model``, and as single DTensors. What was saved is saved whole beside it, by ``torch.save``.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


def full(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def save(folder, name, state, tensors):
    dcp.save(state, checkpoint_id=folder / name)
    whole = {key: full(value) for key, value in tensors.items()}
    if dist.get_rank() == 0:
        torch.save(whole, folder / f"{name}.pt")


def main(rank, ranks, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, dtype=torch.bfloat16))  # odd: the ranks get unequal shares
    mesh = init_device_mesh("cpu", (2, 2) if ranks == 4 else (2,), mesh_dim_names=("fsdp", "tp")[: ranks // 2])
    if ranks == 4:
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(model, mesh=mesh["fsdp"])
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = get_model_state_dict(model)
    trained = get_optimizer_state_dict(model, optimizer)
    step = {"step": torch.tensor(7, dtype=torch.int32), "seen": 12}
    save(folder, "titan", {**tensors, "optimizer": trained, "train_state": step}, tensors)
    save(folder, "nested", {"model": tensors, "optim": trained}, {f"model.{n}": t for n, t in tensors.items()})
    if ranks == 2:
        values = {"rows": torch.randn(5, 3), "columns": torch.randn(4, 7).half(), "all": torch.randn(3, 2)}
        places = {"rows": Shard(0), "columns": Shard(1), "all": Replicate()}
        parts = {name: distribute_tensor(value, mesh, [places[name]]) for name, value in values.items()}
        parts |= {
            "few": distribute_tensor(torch.randn(1, 4), mesh, [Shard(0)]),
            "plain": torch.arange(6.0).reshape(2, 3),
        }
        save(folder, "mixed", parts, parts)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
