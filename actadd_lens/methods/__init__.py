"""Ways of reading an intervention from a model, one file each, each with its paper.

```python
from actadd_lens import methods

vector = methods.caa(model, pairs, paper_layer=13, mark="[/INST]")
```
"""

from typing import TYPE_CHECKING

from actadd_lens.extending import finder
from actadd_lens.methods.actadd import actadd
from actadd_lens.methods.activation_scaling import Task, activation_scaling, evaluate_scaling
from actadd_lens.methods.adapter import Adapter
from actadd_lens.methods.caa import caa, common_norm
from actadd_lens.methods.infer_aligner import InferAligner, infer_aligner
from actadd_lens.methods.instruction import Instruction, instruction
from actadd_lens.methods.kl_then_steer import kl_then_steer
from actadd_lens.methods.mean_centring import mean_centring
from actadd_lens.methods.probe import Probe, probe
from actadd_lens.methods.sadi import Sadi, sadi
from actadd_lens.methods.scaling import ActivationScaling

# Functions bear the names of their modules. Everything is imported here, so that the name is the function's from the
# start, whoever imports what first.
__all__ = [
    "ActivationScaling",
    "Adapter",
    "InferAligner",
    "Instruction",
    "Probe",
    "Sadi",
    "Task",
    "actadd",
    "activation_scaling",
    "caa",
    "common_norm",
    "evaluate_scaling",
    "infer_aligner",
    "instruction",
    "kl_then_steer",
    "mean_centring",
    "probe",
    "sadi",
]

if not TYPE_CHECKING:  # so that a wrong name stays wrong to type checkers
    __getattr__ = finder("methods", __name__)
