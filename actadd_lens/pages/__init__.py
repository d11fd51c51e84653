"""Pages: one HTML file of a result, to be mailed or put on the web. They take results and run no model."""

from actadd_lens.pages.sweeps import sweep_page
from actadd_lens.pages.tracing import trace_page

__all__ = ["sweep_page", "trace_page"]
