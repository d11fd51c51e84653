"""What the site takes from outside docs/: the notebooks and the changelog. Links to them are written as on disk."""

from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

OUTSIDE = ("notebooks/*.ipynb", "CHANGELOG.md")


@event_priority(100)  # type: ignore[untyped-decorator]  # before mkdocs-jupyter looks for notebooks
def on_files(files: Any, config: Any) -> Any:
    """Take the outside files in, where they stand in the repository."""
    root = Path(config.config_file_path).parent
    for pattern in OUTSIDE:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            files.append(File(name, str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """On disk the notebooks stand beside docs/, on the site inside it."""
    return markdown.replace("../notebooks/", "notebooks/").replace("../CHANGELOG.md", "CHANGELOG.md")
