"""The ``flockwatch`` command: finds the verb, runs it, and turns every named error into one message and an exit code.

The agent's own verbs are added here; other packages add theirs by the entry point group ``flockwatch.verbs`` (name =
the verb, object = a function that takes argparse's subparsers), so that ``agent`` never imports them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

from agent.errors import FlockwatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.verbs import Subparsers

PLUGIN_GROUP = "flockwatch.verbs"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong on one line, and where to read on."""

    def error(self, message: str) -> Any:  # noqa: ANN401  # argparse declares NoReturn; exit() never returns
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Args:
        verb: The verb that is called, where it is known: only the package that brings it is then imported. None brings
            in every package, for help and for the documentation's test.
    """
    from agent import data, verbs  # noqa: PLC0415  # the verbs' own imports are what makes the command slow to start

    text = "Watches the houses of a broiler farm: reads sensors over MQTT, warns early, loses nothing."
    parser: argparse.ArgumentParser = _Parser(prog="flockwatch", description=text)
    parser.add_argument("--version", action="version", version=f"flockwatch {importlib.metadata.version('flockwatch')}")
    subparsers: Subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_verbs(subparsers)
    data.add_data(subparsers)
    if verb in subparsers.choices:
        return parser
    others = {entry_point.name: entry_point for entry_point in importlib.metadata.entry_points(group=PLUGIN_GROUP)}
    for name in [verb] if verb in others else sorted(others):  # an unknown verb is told of all that there are
        add: Callable[[Subparsers], None] = others[name].load()
        add(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 fine, 1 the work failed, 2 wrong usage or configuration."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in words if not word.startswith("-")), None)
    try:
        parsed = build_parser(verb if words and words[0] == verb else None).parse_args(words)
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except FlockwatchError as e:
        print(f"flockwatch: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing to say, nobody to say it to
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
