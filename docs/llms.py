"""`make docs` writes site/llms.txt: each page with its first sentence, for readers that are programs.

The form is that of llmstxt.org: a title, a summary, and links by section of the navigation.
"""

import re
import sys
from pathlib import Path

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def entries(navigation: str) -> list[tuple[str, str | None]]:
    """Lines of mkdocs.yml's navigation: title and page, or None for a section."""
    found = []
    for line in navigation.splitlines():
        told = re.match(r"^( *)- (?:\"(.*?)\"|([^:]+?))(?:: ?(\S+\.(?:md|ipynb))?)?$", line)
        if told:
            title, page = told[2] or told[3], told[4]
            is_page = title.endswith(".md")
            found.append((title, title if is_page else page))
    return found


def first_sentence(page: Path) -> str:
    """The first sentence of a page's first paragraph, without its links; empty for notebooks."""
    if page.suffix != ".md" or not page.is_file():
        return ""
    for part in page.read_text(encoding="utf-8").split("\n\n"):
        text = " ".join(part.split())
        if text and not text.startswith(("#", "<", "|", "```", "!", ":::", "-", "Continues from")):
            return re.split(r"(?<=[.?!:]) ", _LINK.sub(r"\1", text))[0].rstrip(":")
    return ""


def llms_text(root: Path) -> str:
    """The file's text."""
    settings = (root / "mkdocs.yml").read_text(encoding="utf-8")
    lines = ["# actadd_lens", "", f"> {first_sentence(root / 'docs' / 'index.md')}", ""]
    for title, page in entries(settings.split("\nnav:\n")[1]):
        if page is None:
            lines += ["", f"## {title}", ""]
        else:
            told = first_sentence(root / "docs" / page)
            address = re.sub(r"(index)?\.(md|ipynb)$", lambda end: "" if end[1] else "/", page)
            lines.append(f"- [{title}]({address})" + (f": {told}" if told else ""))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1], "llms.txt").write_text(llms_text(Path(__file__).parents[1]), encoding="utf-8")
