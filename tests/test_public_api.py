"""What people can rely on: public names, their parameters and methods, against a listing that is committed."""

from pathlib import Path

from tests.public_api import listing

LISTED = Path(__file__).with_name("public_api.txt")


def test_the_public_names_are_those_of_the_listing() -> None:
    """Renewed by `python -m tests.public_api > tests/public_api.txt`, from the repository's root."""
    listed, found = set(LISTED.read_text(encoding="utf-8").splitlines()), set(listing().splitlines())
    assert sorted(listed - found) == [], (
        "these are gone: give a reason and a remedy in CHANGELOG.md, then renew the listing"
    )
    assert sorted(found - listed) == [], "these are new: renew the listing"
