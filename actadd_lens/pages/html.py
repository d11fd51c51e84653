"""One HTML file with everything in it: style, script and data; it asks nothing of any server."""

import html
import json
import math
import os
import string
from importlib import resources
from pathlib import Path
from typing import Any

from actadd_lens.errors import SettingError

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src $connect; img-src data:">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
$body
<script type="application/json" id="data">$data</script>
<script>
$script
</script>
</body>
</html>
"""  # noqa: E501


def part(package: str, name: str) -> str:
    """A file of a room, as text."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def one_file(*, title: str, body: str, script: str, data: Any = None, talks: bool = False) -> str:
    """A page as one text.

    Args:
        title: What the browser's tab says.
        body: The body's HTML.
        script: JavaScript that draws; what `common.js` holds is there already.
        data: What it draws, as plain values; numbers that are none become null.
        talks: Whether the page may talk to the server that it came from; else to none.
    """
    return string.Template(_PAGE).substitute(
        title=html.escape(title),
        style=part("actadd_lens.pages", "style.css"),
        body=body,
        script=part("actadd_lens.pages", "common.js") + script,
        data=_embedded(data),
        connect="'self'" if talks else "'none'",
    )


def _embedded(data: Any) -> str:
    """JSON that no text in it can break out of."""
    told = json.dumps(plain(data), ensure_ascii=False, allow_nan=False)
    return told.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028")


def plain(value: Any) -> Any:
    """Values as JSON has them: arrays as lists, and null for what is not a number."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a page to a file.

    Raises:
        SettingError: It cannot be written there.
    """
    place = Path(path)
    try:
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"The page cannot be written to {place} ({error}): give another file.") from error
    return place
