"""Ways of reading an intervention from a model, one file each, each with its paper.

```python
from actadd_lens import methods

vector = methods.caa(model, pairs, paper_layer=13, mark="[/INST]")
```
"""

from actadd_lens.methods.actadd import actadd
from actadd_lens.methods.caa import caa, common_norm

# Functions bear the names of their modules. Everything is imported here, so that the name is the function's from the
# start, whoever imports what first.
__all__ = [
    "actadd",
    "caa",
    "common_norm",
]
