"""Checks the built site: every link, picture and anchor inside it leads somewhere. `python docs/check_links.py SITE`.

Links to other hosts are not followed; but a page that *loads* something from one is an error, for the site works
without a network.
"""

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}
HARMLESS = {"canonical", "next", "prev", "edit"}


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down links and anchors."""
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        for name in ("href", "src"):
            if name in found and found.get("rel", "") not in HARMLESS:
                self.links.append((found[name], (tag, name) in LOADED))


@cache
def page(path: Path) -> Page:
    """A page, read once."""
    return Page(path)


def problem(site: Path, path: Path, link: str, loaded: bool) -> str | None:
    """What is wrong with a link of a page; None where nothing is."""
    parts = urlsplit(link)
    if parts.scheme in ("data", "mailto", "javascript"):
        return None
    if parts.scheme or parts.netloc:
        return "is loaded from another host" if loaded else None
    start = site if parts.path.startswith("/") else path.parent
    target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "leads nowhere"
    wanted = unquote(parts.fragment)
    if wanted and target.suffix == ".html" and not wanted.startswith("__") and wanted not in page(target).anchors:
        return "has no such anchor"
    return None


def main() -> int:
    """Check all pages; returns the exit code."""
    site = Path(sys.argv[1]).resolve()
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    broken = [
        f"{path.relative_to(site)}: {link} {wrong}"
        for path in pages
        for link, loaded in page(path).links
        if (wrong := problem(site, path, link, loaded))
    ]
    print(
        "\n".join(
            [*broken, f"{len(pages)} pages, {sum(len(page(path).links) for path in pages)} links, {len(broken)} broken"]
        )
    )
    return bool(broken) or not pages


if __name__ == "__main__":
    sys.exit(main())
