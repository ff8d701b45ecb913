"""Actions of a connector: what they take, look up, map, refuse and send; fields and tables they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.authoring.differences import as_written
from engine.authoring.pages import words
from engine.authoring.pages.client import sentence
from engine.authoring.pages.mapping import rows
from engine.authoring.pages.markdown import code, flow, listed, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec import types


def mapping(name: str, action: types.Action) -> str:
    state = "" if action.active else " (off)"
    found = [f"## Action `{name}`{state}"]
    about = [sentence(action.title, action.description)]
    about += ["It is off until a client file says `active: true`."] if not action.active else []
    about += [f"It takes events where {code(flow(action.when))}."] if action.when is not None else []
    if action.after:
        word = "goes on without it" if action.if_rejected == "continue" else "is skipped, too"
        about.append(f"It comes after {listed([code(one) for one in action.after])}; where that is rejected it {word}.")
    found.append(" ".join(text if text.endswith(".") else f"{text}." for text in about if text))
    if action.lookups:
        found.append(table(["look-up", "by", "asked", "kept", "not found"], list(looked_up(action))))
    if action.vars:
        found.append(
            table(
                ["variable", "from", ""],
                [[code(f"vars.{r.target}"), r.source, "; ".join(r.notes)] for r in rows(action.vars)],
            )
        )
    if action.record is not None:
        found.append(
            table(
                ["field", "from", ""],
                [[code(r.target or "(all)"), r.source, "; ".join(r.notes)] for r in rows(action.record)],
            )
        )
    found.append(table(["step", "request", "body", ""], list(requests(action))))
    if action.require:
        found.append("Refused before it is sent:\n\n" + "\n".join(f"- {required(one)}" for one in action.require))
    return "\n\n".join(part for part in found if part)


def looked_up(action: types.Action) -> Iterator[list[str]]:
    for name, lookup in action.lookups.items():
        by = lookup.keys if lookup.keys is not None else lookup.key
        asked = [f"{code(address(source.request))} ({code(title)})" for title, source in lookup.sources.items()]
        if lookup.create is not None:
            when = f" where {code(flow(lookup.create.when))}" if lookup.create.when is not None else ""
            asked.append(f"made by {code(address(lookup.create.request))}{when}")
        asked += [code(address(lookup.request))] if lookup.request is not None else []
        kept = lookup.cache if lookup.cache != "0s" else ""
        absent = {"reject": "dead letter, without an alarm", "skip": "skipped", "continue": "it goes on without"}
        yield [
            code(name),
            code(flow(by)) if by is not None else "once for the client",
            ", then ".join(asked),
            kept,
            absent.get(lookup.when_absent, lookup.when_absent),
        ]


def address(request: types.Request) -> str:
    return f"{request.method} {request.path or request.url or ''}".rstrip()


def requests(action: types.Action) -> Iterator[list[str]]:
    for key, steps in (("", action.steps), ("on failure: ", action.on_failure)):
        for name, step in steps.items():
            request = step.request
            notes = [f"where {code(flow(step.when))}"] if step.when is not None else []
            if step.each is not None:
                notes.append("for each record" if step.each == "records" else f"for each of {code(flow(step.each))}")
            if step.once_per is not None:
                key, within = code(flow(step.once_per.key)), step.once_per.within
                notes.append(f"the same for one {key} is sent once within {within}")
            if step.poll is not None:
                every = (
                    step.poll.every
                    if isinstance(step.poll.every, str)
                    else words.waiting(step.poll.every).removeprefix("for ")
                )
                notes.append(f"again every {every} until {code(flow(step.poll.until))}, at most {step.poll.give_up}")
            notes += [f"keeps {listed([code(kept) for kept in step.save])}"] if step.save else []
            again = {
                "may_double": "without an answer it is sent again, and may double",
                "never": "without an answer it is **not** sent again",
            }
            notes += [again[step.repeat]] if step.repeat in again else []
            notes += [f"at most {request.max_bytes}"] if request.max_bytes else []
            yield [
                key + (code(name) if name != "request" or key else ""),
                code(address(request)),
                body(request),
                "; ".join(notes),
            ]


def body(request: types.Request) -> str:
    for form in ("json", "form", "text", "ndjson", "multipart"):
        value = getattr(request, form, None)
        if value is not None:
            return f"{form.upper() if form == 'json' else form}: {code(flow(as_written(value)))}"
    if request.csv is not None:
        return f"CSV: {code(flow(as_written(request.csv.rows)))}"
    return ""


def required(one: types.Requirement) -> str:
    if one.that is not None:
        reason = f": “{one.reason}”" if one.reason else ""
        return f"unless {code(flow(one.that))}{reason}"
    return f"what does not fit {code(flow(one.schema))}"


def fields(connector: types.Connector) -> str:
    if not connector.fields:
        return ""
    rows_ = [[code(f"fields.{one.target}"), one.source, "; ".join(one.notes)] for one in rows(connector.fields)]
    about = "Values of the event that several places read:"
    key = f"\n\nEvents with the same {code(flow(connector.key))} keep their order." if connector.key is not None else ""
    return f"## Fields\n\n{about}\n\n{table(['name', 'from', ''], rows_)}{key}"


def tables(connector: types.Connector) -> str:
    if not connector.tables:
        return ""
    found = ["## Tables", "A client file can change each entry under `tables`."]
    for name, entries in connector.tables.items():
        if not entries:
            found.append(f"Table {code(name)} is empty until a client fills it.")
            continue
        rows_ = [[code(str(key)), code(flow(value))] for key, value in entries.items()]
        found.append(table([f"table `{name}`", ""], rows_))
    return "\n\n".join(found)
