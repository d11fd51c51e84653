"""The playground: a page in the browser, and the session that runs the model for it. `actadd play` opens it.

`settings`, `methods`, `readings` and `session` know no browser; `server` answers requests with what they return;
`page.html` and `page.js` draw. What the page can do is what a session can do.
"""

from actadd_lens.play.session import Session

__all__ = ["Session"]
