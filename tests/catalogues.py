"""`python -m tests.catalogues`: brings the catalogues of messages to what the program says (`make languages`).

The messages are taken out of the program's own text, ``agent/locale/flockwatch.pot`` and every ``flockwatch.po`` are
brought to them, and what is translated is compiled. The same program and translations give the same bytes, so that a
test can tell whether this was forgotten.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from agent.languages import CATALOGUES, DOMAIN, ENGLISH, LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
TEMPLATE = CATALOGUES / f"{DOMAIN}.pot"
_KEYWORDS = {"msg": None, "say_many": (1, 2)}


def folder_of(tag: str) -> Path:
    """Return where the catalogue of a language lies."""
    return CATALOGUES / tag.replace("-", "_") / "LC_MESSAGES"


@cache
def template() -> Catalog:
    """Return all messages of the program, each with the files that say it."""
    found = Catalog(project="flockwatch", charset="utf-8", fuzzy=False)
    for file in sorted((ROOT / "agent").rglob("*.py")):
        if any(f"{keyword}(" in file.read_text(encoding="utf-8") for keyword in _KEYWORDS):
            for _, message, _, _ in extract_from_file("python", file, keywords=_KEYWORDS):
                found.add(message, locations=[(file.relative_to(ROOT).as_posix(), 0)])
    return found


@cache
def translated(tag: str) -> Catalog:
    """Return the catalogue of a language as it is to be: what is translated stays, what nobody says any more goes."""
    with (folder_of(tag) / f"{DOMAIN}.po").open("rb") as file:
        catalogue = read_po(file, locale=tag.replace("-", "_"), domain=DOMAIN)
    catalogue.update(template(), no_fuzzy_matching=True, update_creation_date=False)
    catalogue.obsolete.clear()
    return catalogue


def messages_of(tag: str) -> dict[str, list[str]]:
    """Return what each message is in a language, by its English text: one form, or those of a plural."""
    found = template() if tag == ENGLISH else translated(tag)
    return {forms_of(m.id)[0]: forms_of(m.id if tag == ENGLISH else m.string) for m in found if m.id}


def forms_of(text: str | Sequence[str] | None) -> list[str]:
    """Return one form, or those of a plural."""
    return [text] if isinstance(text, str) else list(text or ())


def files() -> dict[Path, bytes]:
    """Return every file that is made here, with what is to stand in it."""
    made = {TEMPLATE: _po(template())}
    for tag in LANGUAGES.keys() - {ENGLISH}:
        catalogue, compiled = translated(tag), io.BytesIO()
        write_mo(compiled, catalogue)
        made[folder_of(tag) / f"{DOMAIN}.po"] = _po(catalogue)
        made[folder_of(tag) / f"{DOMAIN}.mo"] = compiled.getvalue()
    return made


def _po(catalogue: Catalog) -> bytes:
    text = io.BytesIO()
    write_po(text, catalogue, width=120, include_lineno=False, omit_header=catalogue.locale is None)
    return text.getvalue()


if __name__ == "__main__":
    for path, content in sorted(files().items()):
        path.write_bytes(content)
        print(path.relative_to(ROOT))
