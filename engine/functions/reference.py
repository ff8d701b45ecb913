"""The registry → docs/functions.md; `python -m engine.functions.reference > docs/functions.md` writes it anew."""

from typing import Any

from engine.functions import REGISTRY, THEMES, Function, Parameter, encodings, numbers, texts, times
from engine.functions.values import json_text

_INTRODUCTION = """\
# Functions

<!-- Written by `python -m engine.functions.reference`; a test keeps it current. -->

There is one set of functions for both notations, with the subject first:

```text
${ truncate(event.product.name, `200`) }
Viewed {{ event.product.name | truncate(200) }}
```

- **Absent in, absent out.** An absent subject gives absent. Another absent argument counts as left out where the
  parameter has a default or a `?`, and gives absent where it has none. What a function takes although absent, it says.
- **A wrong type is an error** that rejects the record and says what was got:
  `money: a number is needed, got text "12,5"`.
- **Numbers are exact.** They keep the digits they have and are never printed with an exponent. Halves are rounded up,
  away from zero.
- **Caps.** A text has at most 1 MB, a list or object 100,000 items, a number 40 digits and an exponent of 40. What is
  beyond is an error.
- **A `path`** (in `where`, `find`, `sort`, `unique`, `group`) is a text such as `'id'` or `'product.id'`: keys joined
  by dots, not an expression.
- **Arguments are positional** in both notations.

In the examples every argument is written as a literal: `'text'`, or JSON between backticks.
"""

_NOTES = {
    numbers.__name__: """\
`money` writes an ordinary space where the locale has a no-break space (`R$ 3.499,90`), so that the text equals what
people type.""",
    texts.__name__: """\
What needs a text takes no number: `string` makes a text of it. Patterns are
[RE2](https://github.com/google/re2/wiki/Syntax): linear in time, hence without look-around and back-references;
`\\d` and `\\w` are ASCII, `(?i)` ignores case. A pattern has at most 1,000 characters.""",
    times.__name__: f"""\
A moment is an ISO 8601 text or a number since 1970 (from 10^11 on milliseconds, below it seconds). A text without an
offset is UTC. A date alone is that day in the time zone asked for. A time zone is an IANA name.

Codes of a format: {" ".join(f"`{code}`" for code in times.CODES)}.
`%f` is microseconds, `%j` the day of the year, `%u` the weekday from Monday = 1, `%G` and `%V` the ISO year and week,
`%z` is -0300 and `%:z` -03:00.""",
    encodings.__name__: """\
`html`, `url_part` and `urlencode` take numbers and booleans too and print them as `string` does.""",
}


def reference() -> str:
    """The whole page as Markdown."""
    contents = [f"- {title}: {_links(theme)}" for theme, title in THEMES.items()]
    return "\n\n".join([_INTRODUCTION + "\n" + "\n".join(contents), *map(_theme, THEMES)]) + "\n"


def _theme(theme: str) -> str:
    note = [_NOTES[theme]] if theme in _NOTES else []
    return "\n\n".join([f"## {THEMES[theme]}", *note, *map(_section, _of(theme))])


def _of(theme: str) -> list[Function]:
    return [function for function in REGISTRY.values() if function.theme == theme]


def _links(theme: str) -> str:
    return " ".join(f"[{function.name}](#{function.name})" for function in _of(theme))


def _section(function: Function) -> str:
    signature = f"{function.name}({', '.join(_signature(each) for each in function.parameters)}) → {function.returns}"
    absent = [f"`{each.name}`" for each in function.parameters if each.takes_absent and _must_be_given(each)]
    takes = f" Takes although absent: {', '.join(absent)}." if absent else ""
    examples = "\n".join(f"{each.expression} → {_shown(each.result)}" for each in function.examples)
    return f"### {function.name}\n\n`{signature}`\n\n{function.summary}{takes}\n\n```text\n{examples}\n```"


def _signature(parameter: Parameter) -> str:
    kinds = "whole number" if parameter.whole and len(parameter.kinds) == 1 else " or ".join(sorted(parameter.kinds))
    mark = "…" if parameter.variadic else "" if parameter.required or parameter.default else "?"
    default = f" = {parameter.default}".replace("`", "") if parameter.default else ""
    return f"{parameter.name}{mark}: {kinds}{default}"


def _must_be_given(parameter: Parameter) -> bool:
    return parameter.required or parameter.variadic


def _shown(value: Any) -> str:
    return "absent" if value is None else json_text(value)


if __name__ == "__main__":
    print(reference(), end="")
