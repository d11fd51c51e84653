"""Pages: results as self-contained HTML files, to be mailed or put on the web. They run no model."""

from actadd_lens.pages.sweeps import sweep_page
from actadd_lens.pages.tracing import trace_page

__all__ = ["sweep_page", "trace_page"]
