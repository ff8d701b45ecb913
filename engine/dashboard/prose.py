"""Markdown of ours, and of notes that people wrote -> HTML: no raw HTML, no image, links only to other sites."""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from engine.dashboard.rendering import seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_CHARS = 400_000
_NODE = re.compile(r"(\w+)[(\[{/>]+\"([^\"]*)\"")
_EDGE = re.compile(r"\s*(\w+) (-->|-\.->|-\. first \.->) (\w+)")
_SITE = re.compile(r"https?://[^\s/]+")


def prose(text: str, *, below: int = 0) -> Markup:
    """The text as HTML; its headings go down by `below` levels."""
    lines = seen(text.replace("\r\n", "\n"), MAX_CHARS)
    return Markup(_reader().render(lines, {"below": below, "title": "", "tables": {}}))


@cache
def _reader() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML

    class Pages(RendererHTML):
        """As the other pages write tables, code and headings."""

        def heading_open(self, tokens: Sequence[Token], at: int, _options: Any, env: Any) -> str:
            env["title"] = tokens[at + 1].content
            return f"<{_level(tokens[at], env)}>"

        def heading_close(self, tokens: Sequence[Token], at: int, _options: Any, env: Any) -> str:
            return f"</{_level(tokens[at], env)}>\n"

        def table_open(self, _tokens: Sequence[Token], _at: int, _options: Any, env: Any) -> str:
            title = html.escape(env["title"].replace("`", "") or "Table")
            env["tables"][title] = nth = env["tables"].get(title, 0) + 1
            title = f"{title} {nth}" if nth > 1 else title  # regions are told apart by their names
            region = f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">'
            return f'{region}<table class="plain prose"><caption class="off">{title}</caption>\n'

        def table_close(self, *_: Any) -> str:
            return "</table></div>\n"

        def th_open(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            return '<th scope="col">' if tokens[at + 1].content else "<td>"  # a column of names has no head

        def th_close(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            return "</th>" if tokens[at - 1].content else "</td>"

        def td_open(self, *_: Any) -> str:
            return "<td>"

        def text(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            return html.escape(tokens[at].content).replace("&lt;br&gt;", "<br>")  # our own tables have lines in cells

        def fence(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            if tokens[at].info.strip() == "mermaid" and (drawn := way(tokens[at].content)):
                return drawn
            return f'<pre tabindex="0">{html.escape(tokens[at].content)}</pre>\n'

        def code_block(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            return f'<pre tabindex="0">{html.escape(tokens[at].content)}</pre>\n'

        def link_open(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            to = str(tokens[at].attrGet("href") or "")
            tokens[_close(tokens, at)].meta["open"] = bool(_SITE.match(to))
            return f'<a href="{html.escape(to)}" rel="noopener noreferrer">' if _SITE.match(to) else ""

        def link_close(self, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
            return "</a>" if tokens[at].meta.get("open") else ""

    reader = MarkdownIt("commonmark", {"html": False}, renderer_cls=Pages)
    return reader.enable("table").disable(["image", "html_block", "html_inline"])


def _level(token: Token, env: Any) -> str:
    return f"h{min(int(token.tag[1]) + env['below'], 6)}"


def _close(tokens: Sequence[Token], at: int) -> int:
    """Where the link ends: links hold no link."""
    return next(other for other in range(at, len(tokens)) if tokens[other].type == "link_close")


def way(chart: str) -> str:
    """A flow chart, as `connect docs` draws it, as a list; empty where it is another chart."""
    labels: dict[str, str] = {}
    follows: dict[str, list[str]] = {}
    reaches: dict[str, list[str]] = {}
    for line in chart.splitlines():
        for name, label in _NODE.findall(line):
            labels[name] = _plain(label)
        if edge := _EDGE.match(line):
            first, how, second = edge.groups()
            (follows if how == "-->" else reaches if how == "-.->" else {}).setdefault(first, []).append(second)
    if "door" not in labels:
        return ""
    actions = [node for node in follows.get("door", []) if node in labels]
    inner = "".join(f"<li>{''.join(_chain(node, labels, follows, reaches))}</li>" for node in actions)
    return f'<ol class="way"><li>{labels["door"]}<ul>{inner}</ul></li></ol>\n'


def _chain(
    node: str, labels: dict[str, str], follows: dict[str, list[str]], reaches: dict[str, list[str]]
) -> Iterator[str]:
    yield labels[node]
    yield "<ol>"
    done = {node}
    while (following := next((each for each in follows.get(node, []) if each not in done), None)) is not None:
        node = following
        done.add(node)
        hosts = ", ".join(labels[host] for host in reaches.get(node, []) if host in labels)
        yield f"<li>{labels.get(node, '')}{f' → {hosts}' if hosts else ''}</li>"
    yield "</ol>"


def _plain(label: str) -> str:
    """The text of a box, for HTML."""
    lines = [re.sub(r"#(\d{1,7});", _character, line) for line in label.split("<br/>")]
    return html.escape(seen("; ".join(lines), 500))


def _character(found: re.Match[str]) -> str:
    """What the number stands for; as it is written, where that is no character."""
    number = int(found[1])
    return chr(number) if number < 0xD800 or 0xE000 <= number <= 0x10FFFF else found[0]
