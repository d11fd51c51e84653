"""Activation addition on TransformerLens: steer a language model, and see what the steering does.

```python
import actadd_lens as al

model = al.load_model()
love = al.compute_steering_vector(model, ("Love", "Hate"), layer=3)
al.complete(model, "I hate you because", 5 * love, n=3)
```

The public names are listed in `__init__.pyi`. Each loads what it needs on first use, so the import itself is quick and
loads neither torch nor TransformerLens.
"""

import lazy_loader

from actadd_lens.moved import tell_of_moves

__version__ = "0.2.0"

tell_of_moves()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
