"""Subtask Induction: find a subnetwork, and put it into another network.

    masks, search = si.discover(losses, si.stack([model]), si.maskable(model), subtask_batches, steps=1000)
    subnetwork = si.Subnetwork.from_model(model, si.unstack(masks, 0))
    result = si.transfer(losses, [si.start(fresh, subnetwork)], task_batches, steps=1000, lr=1e-3)

A model is an ordinary ``nn.Module``, parameters are a dictionary of tensors, a mask is a dictionary of the same names.
"""

from sicore.discovery import discover
from sicore.families import (
    ContinuousSparsification,
    Family,
    GaussianGate,
    GradientTimesWeight,
    HardConcrete,
    Magnitude,
    Score,
    StraightThrough,
)
from sicore.masking import Params, left_out, maskable, matching, parameter_groups
from sicore.seeding import derive, generator, seeded
from sicore.stacks import Losses, looped, stack, state_of, unstack, vmapped
from sicore.subnetwork import Subnetwork
from sicore.training import Resume, Run, Trained, Watch, check_device, train
from sicore.transfer import Start, start, transfer
from sicore.transplant import redrawn

__version__ = "0.1.0"

__all__ = [
    "ContinuousSparsification", "Family", "GaussianGate", "GradientTimesWeight", "HardConcrete", "Losses", "Magnitude",
    "Params", "Resume", "Run", "Score", "Start", "StraightThrough", "Subnetwork", "Trained", "Watch", "check_device",
    "derive", "discover", "generator", "left_out", "looped", "maskable", "matching", "parameter_groups", "redrawn",
    "seeded", "stack", "start", "state_of", "train", "transfer", "unstack", "vmapped",
]  # fmt: skip
