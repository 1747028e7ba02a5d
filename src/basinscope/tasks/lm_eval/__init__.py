"""Any task of lm-eval as ``lm-eval:NAME``: its documents, prompts, filters and metrics, our engine.

Gao et al., "The Language Model Evaluation Harness" (the package lm-eval, extra ``lm-eval``). A
task is built once, without a model; answers of our engine go through the task's own filters and
``process_results``, so that an item's outcome is lm-eval's metric of that document. Words::

    lm-eval:NAME                        a task, group or tag of lm-eval's
    lm-eval:FOLDER/  lm-eval:DIR/X.yaml  the user's own YAML: all tasks of a folder, or one file's
    lm-eval:DIR/NAME                    one task or group of a folder
    ...@METRIC                          default: the first metric that is 0 or 1 for each document
    ...@filter=NAME                     default: the first
    ...@shots=N                         worked examples; default: the task's own, else none

A group's items are those of all its tasks, with ids ``task/document``.
"""

from basinscope.tasks.lm_eval.build import load
from basinscope.tasks.lm_eval.configs import PREFIX
from basinscope.tasks.lm_eval.documents import LmEval

__all__ = ["PREFIX", "LmEval", "load"]
