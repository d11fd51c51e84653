"""Takes a report into these pages: `python docs/results_page.py FOLDER docs/results/NAME [--verdicts]`.

FOLDER is that of `actadd reproduce --out`. A file `about.txt` beside the page is put below its title.
"""

import argparse
import re
import shutil
from pathlib import Path

PICTURE = re.compile(r"!\[.*?\]\((.+?)\)")


def main() -> None:
    """Write the page, and copy the pictures that it shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="folder of a reproduction")
    parser.add_argument("page", type=Path, help="folder of the page")
    parser.add_argument("--verdicts", action="store_true", help="the verdicts alone, without the experiments")
    options = parser.parse_args()
    title, _, text = (options.report / "report.md").read_text(encoding="utf-8").partition("\n")
    if options.verdicts:
        text = re.sub(r"\[([\w-]+)\]\(#[\w-]+\)", r"\1", text[: text.index('<a id="')])
    about = (options.page / "about.txt").read_text(encoding="utf-8").strip()
    (options.page / "report.md").write_text(f"{title}\n\n{about}\n\n{text.strip()}\n", encoding="utf-8")
    for stale in options.page.glob("*.png"):
        stale.unlink()
    for name in sorted(set(PICTURE.findall(text))):
        shutil.copy(options.report / name, options.page / name)


if __name__ == "__main__":
    main()
