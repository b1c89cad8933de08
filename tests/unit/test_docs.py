"""What a reader looks for is in the docs, and what is only ours is not in the repository."""

from __future__ import annotations

import argparse
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from agent.cli import build_parser
from agent.commands import (
    Acknowledge,
    Command,
    Confirm,
    Drill,
    End,
    Place,
    Record,
    Reject,
    Service,
    Shelve,
    State,
    Thin,
    Unshelve,
)
from agent.config import Config
from agent.domain import About, HouseState, Quality, Reason, TimeQuality, WarningState
from agent.explain import CAUSES
from agent.rules import KINDS
from agent.signals import CATALOGUE
from agent.store import LAKE_COLUMNS
from models_onnx.farm.faults import FAULTS
from models_onnx.farm.params import HELD_OUT_FAULTS
from sync.cloud import S3_OPTIONS

ROOT = Path(__file__).parents[2]


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _is_said(word: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_-]){re.escape(word)}(?![A-Za-z0-9_])", text) is not None


def _missing(words: object, *files: str) -> set[str]:
    text = "\n".join(text_of(file) for file in files)
    assert isinstance(words, (set, frozenset, dict, list, tuple))
    return {str(word) for word in words if not _is_said(str(word), text)}


def _verbs(parser: argparse.ArgumentParser, prefix: str = "") -> dict[str, str | None]:
    """Return every verb, and every verb of a verb, with what its help says."""
    found: dict[str, str | None] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, sub in action.choices.items():
                found[f"{prefix}{name}"] = helps.get(name)
                found |= _verbs(sub, f"{prefix}{name} ")
    return found


def test_every_verb_is_in_the_readme() -> None:
    verbs = _verbs(build_parser())
    assert not {verb for verb in verbs if not _is_said(f"flockwatch {verb.split()[0]}", text_of("README.md"))}
    row = {verb.split()[0]: "" for verb in verbs} | {
        line.split("`")[1].removeprefix("flockwatch "): line
        for line in text_of("README.md").splitlines()
        if line.startswith("| `flockwatch ")
    }
    assert not {verb for verb in verbs if " " in verb and not _is_said(verb.split()[1], row[verb.split()[0]])}


def test_the_readme_names_no_verb_that_is_not_there() -> None:
    named = re.findall(r"^\| `flockwatch ([a-z]+)`", text_of("README.md"), re.MULTILINE)
    assert set(named) == {verb for verb in _verbs(build_parser()) if " " not in verb}


def test_every_verb_says_what_it_does() -> None:
    assert not {verb for verb, said in _verbs(build_parser()).items() if not said}


def test_every_section_of_the_configuration_stands_in_the_shipped_file() -> None:
    assert not {name for name in Config.model_fields if f"[{name}" not in text_of("agent.toml")}


def test_every_option_of_the_object_store_stands_in_the_shipped_file() -> None:
    assert not _missing(S3_OPTIONS, "agent.toml")


def test_every_simulated_fault_stands_in_the_docs_with_what_it_does() -> None:
    rows = [f"| `{k.name}` | {k.does} | {k.hours:g} | {k.severity:g} |" for k in FAULTS.values()]
    lines = text_of("docs/simulator.md").splitlines()
    assert not [row for row in rows if row not in lines]
    assert not _missing(HELD_OUT_FAULTS, "docs/simulator.md")


def test_every_signal_stands_in_the_docs_with_its_unit() -> None:
    for signal in CATALOGUE.values():
        row = next(
            (line for line in text_of("docs/mqtt.md").splitlines() if f"`{signal.name}`" in line and "|" in line), ""
        )
        assert row.split("|")[-3].strip() == (signal.unit or ""), signal.name
        assert row.split("|")[-2].strip() == signal.kind.value, signal.name


def test_every_topic_stands_in_the_docs() -> None:
    topics = {source.topic for source in Config().source} | {
        "{prefix}/{site}/{house}/warning/{rule}",
        "{prefix}/{site}/{house}/severity",
        "{prefix}/{site}/{house}/prediction/{target}",
        "{prefix}/{site}/health",
        "{prefix}/{site}/{house}/warning/{rule}/command",
        "{prefix}/{site}/{house}/flock/command",
        "{prefix}/{site}/{house}/drill/command",
        "{prefix}/{site}/{house}/receipt/{controller}",
        "{prefix}/{site}/{house}/summary",
        "/response",
    }
    assert not {topic for topic in topics if f"`{topic}`" not in text_of("docs/mqtt.md")}


def test_every_key_of_a_warning_stands_in_the_docs() -> None:
    keys = {name for name, _ in LAKE_COLUMNS["warnings"]} - {"at", "before", "by", "why", "seq"}
    assert not {key for key in keys if f"`{key}`" not in text_of("docs/mqtt.md")}


@pytest.mark.parametrize(
    "command", [Acknowledge, Shelve, Unshelve, Confirm, Reject, Place, Record, Thin, State, Service, End, Drill]
)
def test_every_command_stands_in_the_docs_with_all_that_it_takes(command: type[Command]) -> None:
    (action,) = command.model_fields["action"].annotation.__args__  # type: ignore[union-attr]  # a Literal of one word
    said = [line for line in text_of("docs/mqtt.md").splitlines() if f'"action": "{action}"' in line]
    assert said
    assert not {f for f in command.model_fields if f not in {"id", "by", "flock"} and not _is_said(f, said[0])}


def test_every_word_of_a_state_stands_in_the_docs() -> None:
    assert not _missing([state.value for state in HouseState], "docs/mqtt.md")
    assert not _missing([about.value for about in About], "docs/mqtt.md")
    assert not _missing([state.value for state in WarningState], "ARCHITECTURE.md")
    assert not _missing([quality.name.lower() for quality in (*Quality, *TimeQuality)], "docs/lake.md")


def test_every_reason_of_a_change_stands_in_the_docs() -> None:
    assert not {reason.value for reason in Reason if f"`{reason.value}`" not in text_of("docs/warnings.md")}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_rule_stands_in_the_docs_with_its_defaults(name: str) -> None:
    kind = KINDS[name]
    states = ", ".join(sorted(state.value for state in kind.states))
    limits = ", ".join(f"{signal} {limit:g}" for signal, limit in kind.limits.items()) or f"{kind.threshold:g}"
    row = (
        f"| `{name}` | {kind.what} | {limits} {kind.threshold_is} | {int(kind.severity)} "
        f"| {kind.on_delay_s} s | {kind.off_delay_s} s | {kind.deadband:g} | {kind.first_day} | {states} |"
    )
    assert row in text_of("docs/warnings.md").splitlines()


def test_every_cause_stands_in_the_docs_with_its_words() -> None:
    text = text_of("docs/warnings.md")
    assert [cause for cause, (words, _) in CAUSES.items() if f"| `{cause}` | {words} |" not in text] == []


@pytest.mark.parametrize("stream", LAKE_COLUMNS)
def test_every_column_of_the_lake_stands_in_the_docs(stream: str) -> None:
    section = text_of("docs/lake.md").partition(f"**{stream}**")[2].partition("\n**")[0]
    assert not {name for name, _ in LAKE_COLUMNS[stream] if not _is_said(name, section)}


def test_every_module_has_its_floor_in_the_architecture() -> None:
    modules = {file.stem for folder in ("agent", "sync") for file in (ROOT / folder).glob("*.py")} - {"__init__"}
    assert not {name for name in modules if f"`{name}`" not in text_of("ARCHITECTURE.md")}


def test_every_link_of_the_docs_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = {
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    }
    assert not broken


def test_every_file_that_the_docs_name_is_there() -> None:
    """Paths of this repository, written in backquotes, exist."""
    named = {
        path
        for name in (
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "docs/mqtt.md",
            "docs/dialects.md",
            "docs/install.md",
        )
        for path in re.findall(r"`((?:agent|sync|models_onnx|packaging|tests|docs)/[a-zA-Z0-9_./-]+)`", text_of(name))
    }
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}


def _tracked() -> list[Path]:
    """Return the files that git knows or would add; all files where this is no git checkout."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return [file for file in ROOT.rglob("*") if file.is_file() and ".venv" not in file.parts]
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_path_and_no_address_of_a_registry_is_in_the_repository() -> None:
    """The repository says the same wherever it lies, and installs from whatever mirror the machine uses."""
    # put together here, so that this file is clean too
    words = ["pypi" + ".org", "python" + "hosted.org", "debian" + ".org/debian", "npm" + "js.org", "--index" + "-url"]
    leaks = re.compile(
        "|".join([*map(re.escape, words), rf"{re.escape(str(ROOT))}\b", r"/home/[a-z]+/", "/" + "work/"])
    )
    found = set()
    for file in _tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found |= {f"{file.relative_to(ROOT)}: {hit.group()}" for hit in leaks.finditer(text)}
    assert not found


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_of_a_lock_has_one_version_and_hashes(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^\s*#.*\n", "", text_of(lock)))
    assert entries
    assert not {
        entry for entry in entries if not re.match(r"[a-z0-9-]+==[^ ]+( ; [^\\]+)? \\\n +--hash=sha256:", entry)
    }


def test_the_gateways_lock_is_part_of_the_developers_lock() -> None:
    """What is tested is what is installed."""
    pins = [
        set(re.findall(r"(?m)^[a-z0-9-]+==[^ ]+", text_of(lock)))
        for lock in ("requirements.txt", "requirements-dev.txt")
    ]
    assert pins[0] <= pins[1]
