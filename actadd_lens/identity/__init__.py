"""Hashes that distinguish tensors, functions and models by their whole contents."""

from actadd_lens.identity.digests import Digester, digest
from actadd_lens.identity.model_state import COLLECTORS, callers_hooks, model_key, surroundings
from actadd_lens.identity.tensors import tensor_digest

__all__ = ["COLLECTORS", "Digester", "callers_hooks", "digest", "model_key", "surroundings", "tensor_digest"]
