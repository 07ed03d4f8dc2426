"""Commands on the pages: README.md, CONTRIBUTING.md and docs/ name none, and no option of one, that there is not."""

import re
import shlex
from pathlib import Path

import click
import pytest

from live4d_ophyd.commands.main import live4d

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: of the Makefile
TARGETS = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M))


def command_lines(page):
    """Lines of the page's ``sh`` blocks as words, without comments and settings of variables."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z0-9_]+=", words[0]):
                words.pop(0)
            if words:
                yield words


def options_of(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_commands_and_their_options_exist(page):
    for words in command_lines(page):
        if words[0] == "make":
            assert set(words[1:]) <= TARGETS, words
        if words[0] != "live4d":
            continue
        command, context = live4d, click.Context(live4d)
        rest = words[1:]
        while isinstance(command, click.Group) and rest:
            found = command.get_command(context, rest[0])
            assert found is not None, words
            command, rest = found, rest[1:]
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= options_of(command) | {"--help"}, words


def test_options_that_do_not_exist_are_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\nlive4d doctor --dcu http://dcu\n```\n")
    with pytest.raises(AssertionError):
        test_its_commands_and_their_options_exist(page)
