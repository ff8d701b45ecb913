"""Paths that expressions read -> those that name nothing: settings, secrets, tables, look-ups, steps, event fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.notations.emitting import Problem
from engine.spec.check.events import path_fault
from engine.spec.check.rules import all_auths
from engine.spec.findings import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from engine.notations.emitting import Use
    from engine.spec.types import Action, Connector

_MEMBERS = {
    "consent": ("code", "state", "redirect_uri", "code_verifier", "code_challenge", "reply"),
    "response": ("status", "headers", "body", "text", "content_type", "rows", "files", "cookies"),
    "client": ("name", "title"),
    "delivery": ("id", "attempt"),
    "batch": ("records", "keys", "group", "size"),
}
_FINISHED = ("method", "url", "host", "path", "query", "headers", "body")  # as signers see a request


class Names:
    """
    What there is to be read in one connector.

    `gone` are names that stood in parts which could not be used: nothing is said of them again.
    """

    def __init__(self, connector: Connector, schema: Any, gone: Collection[str] = ()) -> None:
        self.connector, self.schema, self.gone = connector, schema, frozenset(gone)

    def unknown(self, uses: Iterable[Use]) -> Iterator[Problem]:
        for use in dict.fromkeys(uses):
            if len(use.path) > 1 and (problem := self.fault(use)) is not None:
                yield problem

    def fault(self, use: Use) -> Problem | None:
        root, name = use.path[:2]
        connector, place = self.connector, use.place
        match root:
            case "event":
                return path_fault(self.schema, use.path, place) if self.schema is not None else None
            case "settings":
                where = "the connector's settings.properties"
                return self.missing(use, "unknown-setting", connector.settings.properties, where)
            case "secrets":
                return self.missing(use, "unknown-secret", connector.secrets, "the connector's secrets")
            case "derived":
                return self.missing(use, "unknown-derived", connector.derive, "the connector's derive")
            case "tables":
                return self.missing(use, "unknown-table", connector.tables, "the connector's tables")
            case "fields":
                return self.missing(use, "unknown-field", connector.fields, "the connector's fields")
            case "token":
                return self.token(use)
            case "steps" if place[0] in ("auth", "auths"):
                return self.log_in_step(use)
            case "sign":
                return self.signer(use)
            case "request" if place[0] in ("auth", "auths"):
                return self.missing(use, "unknown-name", _FINISHED, "`request`")
            case _ if root in _MEMBERS:
                return self.missing(use, "unknown-name", _MEMBERS[root], f"`{root}`")
        action = connector.actions.get(str(place[1])) if place[0] == "actions" and len(place) > 2 else None
        return self.of_action(use, action, name) if action is not None else None

    def token(self, use: Use) -> Problem | None:
        saved: dict[str, Any] = {}
        for at, auth in all_auths(self.connector):
            if auth.token is None or (use.place[0] == "auths" and use.place[:2] != at):
                continue
            token = auth.token
            others = [token.renew.save if token.renew else {}, token.consent.save if token.consent else {}]
            for save in (token.save, *others, *(step.save for step in token.discover.values())):
                if _computed(save):
                    return None
                saved |= save
        return self.missing(use, "unknown-token", saved, "what the log-in saves (`token: {save: …}`)")

    def signer(self, use: Use) -> Problem | None:
        """One of the auth's own; inside of another only one that is written before it."""
        place = use.place[: 2 if use.place[0] == "auths" else 1]
        auth = next((auth for at, auth in all_auths(self.connector) if at == place), None)
        known = list(auth.sign) if auth is not None else []
        inside = use.place[len(place) :]
        name = use.path[1]
        if inside[:1] == ("sign",) and inside[1] in known and name in known[known.index(str(inside[1])) :]:
            says = f"sign.{name} is not there yet: signers are run in the order they are written"
            return Problem(use.place, "unknown-signer", says, f"put {name} before {inside[1]}")
        return self.missing(use, "unknown-signer", known, "what the auth signs (`sign:`)")

    def log_in_step(self, use: Use) -> Problem | None:
        place = use.place[: 2 if use.place[0] == "auths" else 1]
        auth = next((auth for at, auth in all_auths(self.connector) if at == place), None)
        steps = auth.token.steps if auth is not None and auth.token is not None else {}
        return self.missing(use, "unknown-step", steps, "the steps of the log-in")

    def of_action(self, use: Use, action: Action, name: str) -> Problem | None:
        match use.path[0]:
            case "lookups":
                return self.lookup(use, action, name)
            case "vars" if use.place[2] == "vars":
                says = f"vars.{name} is not there yet: vars are made together and can't read each other"
                return Problem(use.place, "unknown-var", says, "write its expression again, or name it under `fields:`")
            case "vars":
                return self.missing(use, "unknown-var", action.vars, "the action's vars")
            case "steps":
                return self.step(use, action, name)
            case "record":
                record = _inside(action.record)
                if record is None or _computed(record):
                    return None
                return self.missing(use, "unknown-record-field", record, "the action's record")
        return None

    def lookup(self, use: Use, action: Action, name: str) -> Problem | None:
        known = list(action.lookups)
        if use.place[2] != "lookups" or use.place[3] not in known:
            return self.missing(use, "unknown-lookup", known, "the action's lookups")
        here = str(use.place[3])
        if name in known and known.index(name) >= known.index(here):
            says = f"lookups.{name} is not there yet: look-ups are asked in the order they are written"
            return Problem(use.place, "unknown-lookup", says, f"put {name} before {here}" if name != here else "")
        return self.missing(use, "unknown-lookup", known, "the action's lookups")

    def step(self, use: Use, action: Action, name: str) -> Problem | None:
        known = list(action.steps)
        if use.place[2] == "on_failure" or use.place[2] not in ("steps", *_STEP_KEYS):
            before = known
        else:
            here = str(use.place[3]) if use.place[2] == "steps" else known[0]
            at = known.index(here) if here in known else len(known)
            before = known[: at + 1] if at < len(known) and action.steps[here].poll is not None else known[:at]
            if name in known[at:] and name not in before:
                says = f"steps.{name} is not there yet: its step does not come before this one"
                return Problem(use.place, "unknown-step", says, f"before it come {', '.join(before) or 'none'}")
        if (problem := self.missing(use, "unknown-step", before, "the action's steps")) is not None:
            return problem
        if len(use.path) > 2 and name in action.steps and not _computed(saved := action.steps[name].save):
            key = use.path[2]
            if key not in saved and key not in self.gone:
                says = f"steps.{name}.{key}: the step does not save {key}"
                hint = did_you_mean(key, saved) or f"write {key} under its `save:`"
                return Problem(use.place, "unknown-step", says, hint)
        return None

    def missing(self, use: Use, rule: str, known: Collection[str], where: str) -> Problem | None:
        root, name = use.path[:2]
        if name in known or name in self.gone:
            return None
        hint = did_you_mean(name, known) or (f"there are {', '.join(list(known)[:12])}" if known else "there are none")
        return Problem(use.place, rule, f"{root}.{name}: {name} is not among {where}", hint)


_STEP_KEYS = ("request", "save", "results", "poll", "replies", "args")


def _computed(tree: Any) -> bool:
    """Has it keys that are not known before it is run?"""
    return not isinstance(tree, dict) or any(key.startswith("$") and not key.startswith("$$") for key in tree)


def _inside(tree: Any) -> Any:
    """A definition used with arguments, without the wrapping."""
    while isinstance(tree, dict) and list(tree) == ["$with"] and isinstance(tree["$with"], dict):
        tree = tree["$with"].get("do")
    return tree
