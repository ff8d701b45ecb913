"""The way of an event through a connector as a Mermaid flow chart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.authoring.pages.markdown import flow as written

if TYPE_CHECKING:
    from engine.spec import types

MOST = 60  # characters of an expression in a box


def chart(connector: types.Connector) -> str:
    """Event → actions → look-ups → batch → steps → hosts."""
    lines = ["flowchart TD"]
    how = "while the caller waits" if connector.receive.mode == "direct" else "stored, then answered"
    lines += [f'  event(["an event"]) --> door["{label(f"POST /{connector.name}", how)}"]']
    hosts = {host: f"host{at}" for at, host in enumerate(connector.hosts)}
    for at, (name, action) in enumerate(connector.actions.items()):
        lines += of_action(f"a{at}", name, action, connector, hosts)
        lines += [f"  a{list(connector.actions).index(one)} -. first .-> a{at}" for one in action.after]
    lines += [f'  {node}[("{label(host)}")]' for host, node in hosts.items()]
    return "\n".join(lines)


def of_action(
    node: str, name: str, action: types.Action, connector: types.Connector, hosts: dict[str, str]
) -> list[str]:
    state = [] if action.active else ["off until a client switches it on"]
    when = [] if action.when is None else [f"when {short(action.when)}"]
    last = node
    lines = [f'  door --> {node}["{label(name, *state, *when)}"]']

    def add(title: str, box: str) -> None:
        nonlocal last
        lines.append(f"  {last} --> {title}{box}")
        last = title

    for at, (title, lookup) in enumerate(action.lookups.items()):
        names = [source for source in lookup.sources if source != "request"]
        told = [f"in {', then '.join(names)}"] if names else []
        told += ["made where it is not there"] if lookup.create is not None else []
        told += [f"kept for {lookup.cache}"] if lookup.cache != "0s" else []
        told += [{"reject": "not found: dead letter", "skip": "not found: skipped"}.get(lookup.when_absent, "")]
        add(f"{node}l{at}", f'{{{{"{label(f"look-up {title}", *told)}"}}}}')
    if action.batch is not None:
        batch = action.batch
        told = [f"at most {batch.records} record{'' if batch.records == 1 else 's'}, {batch.bytes}"]
        told += [f"waits up to {batch.wait}"] if batch.wait != "0s" and batch.window is None else []
        told += [f"of {batch.window} together"] if batch.window is not None else []
        told += [f"apart by {short(batch.group_by)}"] if batch.group_by is not None else []
        told += [f"one record for each {short(batch.fold.by)}"] if batch.fold is not None else []
        add(f"{node}b", f'[/"{label("batch", *told)}"/]')
    leads_to: dict[str, list[str]] = {}
    for at, (title, step) in enumerate(action.steps.items()):
        request = step.request
        told = [
            f"{title}:" if title != "request" else "",
            f"{request.method} {short(request.path or request.url or '')}",
        ]
        told += [f"when {short(step.when)}"] if step.when is not None else []
        told += ["for each record"] if step.each == "records" else []
        told += [f"again until {short(step.poll.until)}"] if step.poll is not None else []
        add(f"{node}s{at}", f'["{label(*told)}"]')
        leads_to[last] = reached(request, action, connector, hosts)
    steps = list(leads_to)
    for one, following in zip(steps, [*steps[1:], ""], strict=True):  # of steps to one host only the last leads there
        lines += [f"  {one} -.-> {host}" for host in leads_to[one] if host not in leads_to.get(following, ())]
    return lines


def reached(
    request: types.Request, action: types.Action, connector: types.Connector, hosts: dict[str, str]
) -> list[str]:
    """The hosts of a request as far as its address names them; else all of them."""
    auths = connector.auths or {"": connector.auth}
    named = request.auth or action.auth
    bases = [auth.base_url for name, auth in auths.items() if named in (None, name) and auth.base_url]
    addresses = [request.url] if request.url else bases or [connector.http.base_url]
    found = [node for host, node in hosts.items() if any(fits(host, address) for address in addresses)]
    return found or list(hosts.values())


def fits(host: str, address: str) -> bool:
    """Does an address, whose parts may be holes, lead to this host?"""
    written_ = re.match(r"https://((?:\{\{.*?\}\}|[^/?:{])+)", address)
    if written_ is None:
        return False
    name = re.sub(r"\{\{.*?\}\}", "*", written_[1])
    return name == host or (host.startswith("*.") and name.endswith(host[1:]))


def short(value: object) -> str:
    text = " ".join((value if isinstance(value, str) else written(value)).split())
    if whole := re.fullmatch(r"\$\{ ?(.*?) ?\}", text):
        text = whole[1]
    return text if len(text) <= MOST else f"{text[: MOST - 1]}…"


def label(*lines: str) -> str:
    """Lines of a box, with all that Mermaid or HTML would read as its own written out."""
    return "<br/>".join(escaped(line) for line in lines if line)


def escaped(text: str) -> str:
    return re.sub(r"[\"#&<>`\\]", lambda found: f"#{ord(found[0])};", text)
