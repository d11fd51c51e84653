"""The exceptions of actadd_lens: one tree, each also the builtin that people expect.

```text
ActAddError
├── PromptError (ValueError)              a prompt, pad or prompt pair that cannot be used
├── LayerError (ValueError)               a layer that the model does not have
├── CoefficientError (ValueError)         NaN, infinite, or not a number
├── PositionError (ValueError)            rows that do not fit onto the prompt
│   └── AmbiguousPositionError            where the prompt ends is not known from the forward pass alone
├── VectorError (ValueError)              vectors that do not match each other, or not this model
│   └── FingerprintError                  a vector that was read from another model
├── VectorFileError (ValueError)          a file that is not a valid steering vector, adapter, or other requested object
├── SteeringError (RuntimeError)          steering that cannot act as asked: other threads, a hook point that is gone
├── NonFiniteError (ArithmeticError)      numbers that overflowed, so nothing can be read from them
├── SettingError (ValueError)             any other setting out of range
├── WorkerError (RuntimeError)            workers that keep dying, or that would compute other numbers
├── ExtensionError (ImportError)          a name of another package that is missing, defined twice, or does not load
├── ModelError (ValueError)               an object, name or folder that is not a usable model
│   └── ModelDownloadError (OSError)      a model that is not on this machine and could not be fetched
```

Every message says what is wrong with the actual value, what was expected, and what to do.
"""


class ActAddError(Exception):
    """Root of every error that actadd_lens raises on purpose."""

    @classmethod
    def section(cls) -> str:
        """The page and section that explain this kind of error."""
        return f"errors.md#{cls.__name__.lower()}"


class PromptError(ActAddError, ValueError):
    """A prompt, pad or prompt pair that cannot be used."""


class LayerError(ActAddError, ValueError):
    """A layer that the model does not have."""


class CoefficientError(ActAddError, ValueError):
    """An injection coefficient that is NaN, infinite or not a number."""


class PositionError(ActAddError, ValueError):
    """Rows of a steering vector that do not fit onto the prompt."""


class AmbiguousPositionError(PositionError):
    """Where the prompt begins or ends is not known from the forward pass alone, and is not guessed."""


class VectorError(ActAddError, ValueError):
    """Steering vectors that do not match each other, or not this model."""


class FingerprintError(VectorError):
    """A steering vector that was read from another model."""


class VectorFileError(ActAddError, ValueError):
    """A file that does not hold a valid steering vector, adapter, or other requested object."""


class SteeringError(ActAddError, RuntimeError):
    """Steering that cannot act as asked: another thread runs the model, or a hook point is gone."""


class NonFiniteError(ActAddError, ArithmeticError):
    """Numbers that overflowed: NaN or infinite, so that nothing can be read from them."""


class SettingError(ActAddError, ValueError):
    """A setting out of range."""


class WorkerError(ActAddError, RuntimeError):
    """Workers that keep dying, cannot be reached, or would compute different numbers from this process."""


class ExtensionError(ActAddError, ImportError):
    """A method, metric or scorer of another package that is missing, defined twice, or does not load."""


class ModelError(ActAddError, ValueError):
    """An object, name or folder that is not a usable model."""


class ModelDownloadError(ModelError, OSError):
    """A model that is not on this machine and could not be fetched."""
