"""`python -m tests.catalogues`: brings the catalogues of messages to what the program says (`make languages`).

The messages are taken out of the program's own text, ``agent/locale/flockwatch.pot`` and every ``flockwatch.po`` are
brought to them, and what is translated is compiled. The same program and translations give the same bytes, so that a
test can tell whether this was forgotten.
"""

from __future__ import annotations

import io
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from agent.languages import CATALOGUES, DOMAIN, ENGLISH, LANGUAGES

ROOT = Path(__file__).parents[1]
TEMPLATE = CATALOGUES / f"{DOMAIN}.pot"
_KEYWORDS = {"msg": None, "say_many": (1, 2)}


def folder_of(tag: str) -> Path:
    """Return where the catalogue of a language lies."""
    return CATALOGUES / tag.replace("-", "_") / "LC_MESSAGES"


def template() -> Catalog:
    """Return all messages of the program, each with the files that say it."""
    found = Catalog(project="flockwatch", charset="utf-8", fuzzy=False)
    said = extract_from_dir(str(ROOT / "agent"), method_map=[("**.py", "python")], keywords=_KEYWORDS)
    for file, _, message, comments, _ in sorted(said, key=lambda row: (row[0], row[1])):
        found.add(message, locations=[(f"agent/{file}", 0)], auto_comments=comments)
    return found


def translated(tag: str, messages: Catalog) -> Catalog:
    """Return the catalogue of a language as it is to be: what is translated stays, what nobody says any more goes."""
    with (folder_of(tag) / f"{DOMAIN}.po").open("rb") as file:
        catalogue = read_po(file, locale=tag.replace("-", "_"), domain=DOMAIN)
    catalogue.update(messages, no_fuzzy_matching=True, update_creation_date=False)
    catalogue.obsolete.clear()
    return catalogue


def files() -> dict[Path, bytes]:
    """Return every file that is made here, with what is to stand in it."""
    messages = template()
    made = {TEMPLATE: _po(messages)}
    for tag in LANGUAGES.keys() - {ENGLISH}:
        catalogue, compiled = translated(tag, messages), io.BytesIO()
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
