"""How deliveries are collected, held back and tried again; what a waiting caller is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.authoring.pages import words
from engine.authoring.pages.markdown import code, flow, link, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec import types


def sending(connector: types.Connector, language: str) -> str:
    found = ["## Batches, limits, tries"]
    rows_ = []
    for name, action in connector.actions.items():
        if action.batch is None:
            rows_.append([code(name), "each event by itself", "", "", ""])
            continue
        batch = action.batch
        most = [str(batch.max.records)] if batch.max.records else []
        most += [str(batch.max.bytes)] if batch.max.bytes else []
        more = [f"apart by {code(flow(batch.group_by))}"] if batch.group_by is not None else []
        if batch.fold is not None:
            which = "the latest counts" if batch.fold.keep == "last" else "merged, the later value wins"
            more.append(f"one record for each {code(flow(batch.fold.by))}, {which}")
        wait = f"up to {batch.wait}" if batch.wait != "0s" else ""
        wait = f"{batch.window}, all of it together" if batch.window is not None else wait
        rows_.append(
            [
                code(name),
                f"{batch.records} record{'' if batch.records == 1 else 's'}, {batch.bytes}",
                wait,
                ", ".join(most),
                "; ".join(more),
            ]
        )
    found.append(table(["action", "in one request", "waits for more", "the vendor's most", ""], rows_))
    limits = list(limited(connector))
    if limits:
        found.append(table(["limit", "of", "what"], limits))
    retry = connector.http.retry
    up_to = f", up to {retry.max}" if retry.max else ""
    found.append(
        f"A delivery is tried at most {retry.attempts} times, after {retry.initial}, then {retry.factor} times as long "
        f"each time{up_to}. While the vendor is down no try is counted, and nothing is given up before "
        f"{retry.give_up_after}. A reply may take {connector.http.timeout}."
        + (f" See {link('outcomes', language, '10-outcomes')}." if language else "")
    )
    receive = connector.receive
    if receive.id is not None and receive.dedupe != "0s":
        found.append(f"The same {code(flow(receive.id))} within {receive.dedupe} is accepted once.")
    if receive.mode == "direct":
        answer = receive.answer
        told = [
            [name, str(getattr(answer, name))]
            for name in ("delivered", "retry", "defer", "throttle", "reject", "skip", "pause")
        ]
        found.append(f"The caller waits, for {answer.within} at most and {answer.tries} tries, and is told:")
        found.append(table(["outcome", "status"], told))
    return "\n\n".join(found)


def limited(connector: types.Connector) -> Iterator[list[str]]:
    for name, limit in connector.http.limits.items():
        yield [code(name), "all requests", words.limit(limit)]
    for title, auth in (connector.auths or {"": connector.auth}).items():
        for name, limit in auth.limits.items():
            yield [code(name), f"log-in {title}".strip(), words.limit(limit)]
    for action, spec in connector.actions.items():
        for name, limit in spec.limits.items():
            yield [code(name), code(action), words.limit(limit)]
        for step, each in spec.steps.items():
            for name, limit in each.request.limits.items():
                yield [code(name), code(action) if step == "request" else f"{code(action)}, {step}", words.limit(limit)]
