"""What fine-tuning is made of: data, token masks, recipes, checkpoints and the training loop."""

from basinscope.finetuning.record import held_out
from basinscope.finetuning.run import DivergedError, FineTune, finetune

__all__ = [
    "DivergedError",
    "FineTune",
    "finetune",
    "held_out",
]
