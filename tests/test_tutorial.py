"""What a newcomer types works and prints what the page says, and both languages of a page say the same."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from pages import FENCE, ROOT, Block, blocks

COLUMNS = "80"
RUN = ["README.md", "docs/tutorial.md"]
PAIRS = {"README.md": "README.pt-BR.md", "docs/tutorial.md": "docs/tutorial.pt-BR.md"}
NAMED = {"GIT_AUTHOR_NAME": "Ana", "GIT_AUTHOR_EMAIL": "ana@example.com"}
NAMED |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in NAMED.items()}


class Shell:
    """One shell that a reader types into, at home in an empty folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.directory = home, home
        self.ports = {"8080": free_port(), "8090": free_port()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONNECT_", "GIT_"))}
        self.bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=home,
            env={**kept, **NAMED, "HOME": str(home), "PATH": path, "COLUMNS": COLUMNS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def here(self, text: str) -> str:
        """The text with free ports in the place of the usual ones."""
        for usual, free in self.ports.items():
            text = text.replace(usual, free)
        return text

    def type(self, command: str) -> str:
        """What comes, without the code it ends with: a finding is code 1."""
        assert self.bash.stdin is not None
        assert self.bash.stdout is not None
        self.bash.stdin.write(f"{self.here(command)}\nprintf '\\nin=%s\\n' \"$PWD\"\n")
        self.bash.stdin.flush()
        lines: list[str] = []
        while not (line := self.bash.stdout.readline()).startswith("in="):
            assert line, f"the shell ended in {command}"
            lines.append(line)
        self.directory = Path(line.strip().removeprefix("in="))
        return "".join(lines)

    def background(self, command: str, expected: str) -> None:
        """A command in a terminal of its own, which goes on."""
        name = command.split()[1]
        out = self.home / f"out-{name}"
        port = {"sandbox": 8090, "serve": 8080}[name]
        self.type(f"{command} --port {port} > {out} 2> {out}.err &")
        until = time.monotonic() + 15
        while time.monotonic() < until and not alike(self.here(expected), out.read_text() if out.exists() else ""):
            time.sleep(0.05)
        assert_alike(self.here(expected), out.read_text())

    def close(self) -> None:
        self.type("kill $(jobs -p); wait")
        assert self.bash.stdin is not None
        self.bash.stdin.close()
        self.bash.wait(10)
        assert self.bash.stdout is not None
        self.bash.stdout.close()


def trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def alike(expected: str, shown: str) -> bool:
    lines = trimmed(expected).removesuffix("\n…")
    rest = r"(?s:\n.*)" if lines != trimmed(expected) else ""  # a last line of … stands for all that follows
    return re.fullmatch(re.escape(lines).replace("…", ".*?") + rest, trimmed(shown)) is not None


def assert_alike(expected: str, shown: str) -> None:
    if not alike(expected, shown):
        assert trimmed(shown) == trimmed(expected)


def exchanges(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def free_port() -> str:
    """With the next one, for the admin side; below those that the system gives to others meanwhile."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
                return str(port)
        except OSError:
            continue


def changed(text: str, diff: str) -> str:
    """The text after a change as a diff shows it: each part, begun by @@, stands in it once."""
    for hunk in filter(None, re.split(r"^@@.*\n", diff, flags=re.MULTILINE)):
        lines = [(line[:1], line[1:]) for line in hunk.splitlines(keepends=True)]
        assert {sign for sign, _ in lines} <= {" ", "+", "-", "\n"}, hunk
        old = "".join(line or sign for sign, line in lines if sign != "+")
        assert text.count(old) == 1, f"it stands {text.count(old)} times in the file:\n{old}"
        text = text.replace(old, "".join(line or sign for sign, line in lines if sign != "-"))
    return text


def typed(shell: Shell, command: str, expected: str) -> str:
    """What a command prints; one that waits first is typed until it prints what is expected: machines differ."""
    until = time.monotonic() + (20 if command.startswith("sleep") else 0)
    while not alike(expected, shown := shell.type(command)) and time.monotonic() < until:
        pass
    return shown


def do(shell: Shell, block: Block) -> int:
    """What a reader does with a block: type it, write it to a file, change a file; how many commands were compared."""
    word, _, name = block.kind.partition("=")
    file = shell.directory / name
    match (block.language, word):
        case ("console", "setup"):  # what the tests themselves stand on
            pass
        case ("console", "background"):
            for command, expected in exchanges(block.text):
                shell.background(command, expected)
            return len(list(exchanges(block.text)))
        case ("console", ""):
            for command, expected in exchanges(block.text):
                assert_alike(shell.here(expected), typed(shell, command, shell.here(expected)))
            return len(list(exchanges(block.text)))
        case ("yaml", ""):  # only to look at; test_docs.py compiles it
            pass
        case ("diff", "file"):
            file.write_text(changed(file.read_text(encoding="utf-8"), block.text), encoding="utf-8")
        case (_, "file"):
            file.write_text(block.text, encoding="utf-8")
        case other:
            raise AssertionError(f"{block.id}: nobody knows what to do with {other}")
    return 0


@pytest.mark.parametrize("page", RUN)
def test_what_a_reader_types_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    console = [block for block in blocks(ROOT / page) if (block.language, block.kind != "setup") == ("console", True)]
    try:
        compared = sum(do(shell, block) for block in blocks(ROOT / page))
        assert compared == sum(f"\n{block.text}".count("\n$ ") for block in console) > 0
    finally:
        shell.close()
        for log in tmp_path.glob("out-*.err"):
            print(log.name, log.read_text(encoding="utf-8"))  # shown where the test fails


def outline(page: Path) -> list[str]:
    """The levels of the headings and the kinds of what stands between, in order; bare of words."""
    text = FENCE.sub("block\n", page.read_text(encoding="utf-8"))
    kinds = [re.match(r"#+ |\|(?= )|- |\d+\. |block$|", line) for line in text.splitlines()]
    return [kind for kind, _ in groupby(found[0].strip() for found in kinds if found and found[0])]


def links(page: Path) -> list[str]:
    """Where the links of a page lead, of both languages the English page; headings are translated."""
    text = FENCE.sub("", page.read_text(encoding="utf-8")).partition("\n\n")[2].partition("\n\n")[2]
    return [re.sub(r"\.pt-BR\.md|\.md#.*", ".md", link) for link in re.findall(r"\]\(([^)\s]+)\)", text)]


@pytest.mark.parametrize("page", PAIRS)
def test_both_languages_of_a_page_have_the_same_commands_and_files(page: str) -> None:
    english, portuguese = blocks(ROOT / page), blocks(ROOT / PAIRS[page])
    assert [block[2:] for block in portuguese] == [block[2:] for block in english]


@pytest.mark.parametrize("page", PAIRS)
def test_both_languages_of_a_page_have_the_same_parts_and_links(page: str) -> None:
    english, portuguese = ROOT / page, ROOT / PAIRS[page]
    assert outline(portuguese) == outline(english)
    assert links(portuguese) == links(english)


@pytest.mark.parametrize("page", PAIRS)
def test_each_page_leads_to_its_other_language_at_the_top(page: str) -> None:
    for one, other in ((page, PAIRS[page]), (PAIRS[page], page)):
        top = (ROOT / one).read_text(encoding="utf-8").split("\n\n")[1]
        assert f"]({Path(other).name})" in top


@pytest.mark.parametrize("page", ["README.md", "README.pt-BR.md"])
def test_the_readme_lists_every_command_in_the_order_of_help(page: str) -> None:
    command = [sys.executable, "-m", "engine.cli", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert re.findall(r"^\| `connect ([a-z]+)` \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE) == there


def test_a_change_that_is_shown_as_a_diff_is_made_once_and_only_where_it_stands() -> None:
    assert (
        changed("a: 1\nb: 2\n\nc: 3\n", "@@ one\n-a: 1\n+a: 2\n@@ two\n b: 2\n \n-c: 3\n+d: 4\n")
        == "a: 2\nb: 2\n\nd: 4\n"
    )
    with pytest.raises(AssertionError, match="stands 0 times"):
        changed("a: 1\n", "-a: 3\n+a: 2\n")
    with pytest.raises(AssertionError, match="stands 2 times"):
        changed("a: 1\na: 1\n", "-a: 1\n+a: 2\n")


def test_a_page_s_ellipsis_stands_for_a_part_of_a_line_and_at_the_end_for_the_rest() -> None:
    assert alike("id …", "id 17\n")
    assert not alike("id …", "id 17\nmore\n")
    assert alike("a\n…\n", "a\nb\nc\n")
    assert not alike("a\n", "a\nb\n")
