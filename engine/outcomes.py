"""(batch, reply) -> exactly one outcome for each record, in the batch's order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue, TooMuch
from engine.http import NoReply, Reply
from engine.notations import semantics
from engine.records import Outcome, OutcomeKind
from engine.retrying import retry_after, wait_of
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.expressions import Compiler, Path
    from engine.spec import types

DELIVERED = Outcome(OutcomeKind.DELIVERED)
_POSITION = re.compile(r"-?[0-9]{1,9}\Z")
_encode = msgspec.json.Encoder(decimal_format="number").encode
LONGEST = 20_000  # characters of a vendor's message; `Wire.shown` masks it and cuts it further


def holds_back(outcome: Outcome) -> bool:
    """Is nothing more to be sent for now, whatever it is?"""
    return outcome.kind in (OutcomeKind.THROTTLE, OutcomeKind.PAUSE) or outcome.outage


def probed(outcome: Outcome) -> Outcome:
    """A retry that is no delivery's own: the lane waits, and after so many tries in a row a person looks."""
    return msgspec.structs.replace(outcome, outage=True, count=True, otherwise=OutcomeKind.PAUSE)


class Rule:
    """One compiled outcome rule."""

    def __init__(self, compiler: Compiler, spec: types.OutcomeRule, names: frozenset[str], place: Path) -> None:
        self.spec = spec
        self.kind = OutcomeKind(spec.then)
        self.status = units.statuses(spec.status) if spec.status is not None else None
        self.code = units.codes(spec.code) if spec.code is not None else None
        self.message = text_test(spec.message) if spec.message is not None else None
        self.content_type = text_test(spec.content_type) if spec.content_type is not None else None
        self.headers = {name.lower(): text_test(test) for name, test in (spec.header or {}).items()}
        self.when = compiler.condition(spec.when, names, (*place, "when")) if spec.when is not None else None
        self.wait = wait_of(compiler, spec.wait, names, (*place, "wait"))
        compiler.made(self, place)

    def holds(self, scope: Mapping[str, Any], reply: Reply | None, code: Any, message: Any) -> bool:
        """All conditions that are written hold (AND)."""
        if self.status is not None and (reply is None or not self.status(reply.status)):
            return False
        if self.code is not None and not self.code(code):
            return False
        if self.message is not None and not self.message(message):
            return False
        if self.content_type is not None and (reply is None or not self.content_type(reply.content_type)):
            return False
        for name, test in self.headers.items():
            if reply is None or not test(reply.headers.get(name)):
                return False
        return self.when is None or self.when(scope)

    def outcome(
        self, scope: Mapping[str, Any], reply: Reply | None, code: Any, message: Any, *, whole: bool = False
    ) -> Outcome:
        """`whole`: the rule judges the request, not one record of it."""
        spec = self.spec
        reason = spec.why or describe(reply, code, message)
        if spec.why and (detail := describe(reply, code, message)):
            reason = f"{spec.why} ({detail})"
        wait = self.wait(scope) if self.wait is not None else None
        if (
            wait is None
            and reply is not None
            and self.kind in (OutcomeKind.THROTTLE, OutcomeKind.RETRY, OutcomeKind.DEFER)
        ):
            wait = retry_after(reply, scope)
        # The vendor is down, whoever wrote it in words: no delivery's fault. Of single records it has decided, though.
        answered = reply is None or reply.status < 500
        down = whole and self.kind is OutcomeKind.RETRY and not answered and spec.attempts is None
        return Outcome(
            kind=self.kind,
            reason=reason,
            code=as_code(code),
            wait_s=wait,
            count=not down,
            outage=down,
            attempts=spec.attempts,
            otherwise=OutcomeKind(spec.else_ or "reject"),
            forget=spec.forget,
            restart=spec.from_,
            scope=spec.scope,
            expected=spec.expected,
            everyone=spec.all,
        )


def rules_of(
    compiler: Compiler, specs: Sequence[types.OutcomeRule], names: frozenset[str], place: Path
) -> tuple[Rule, ...]:
    """The same ones for every client of a connector, and for every request that they stand above."""
    if not specs:
        return ()

    def make() -> tuple[Rule, ...]:
        return tuple([Rule(compiler, spec, names, (*place, index)) for index, spec in enumerate(specs)])

    return compiler.kept(("rules", _encode(specs), names, place), make)


def text_test(spec: Any) -> Callable[[Any], bool]:
    """`{contains | matches}`, a text (a part of it, without case), or a list of texts."""
    import re2

    if isinstance(spec, dict):
        tests: list[Callable[[str], bool]] = []
        if "contains" in spec:
            parts = [
                str(part).lower()
                for part in (spec["contains"] if isinstance(spec["contains"], list) else [spec["contains"]])
            ]
            tests.append(lambda text: any(part in text.lower() for part in parts))
        if "matches" in spec:
            pattern = re2.compile(spec["matches"])
            tests.append(lambda text: pattern.search(text) is not None)
        return lambda value: value is not None and all(test(as_text(value)) for test in tests)
    wanted = [str(part).lower() for part in (spec if isinstance(spec, list) else [spec])]
    return lambda value: value is not None and any(part in as_text(value).lower() for part in wanted)


def as_text(value: Any) -> str:
    try:
        return semantics.plain(value)
    except BadValue:
        return ""


def as_code(code: Any) -> str:
    return "" if code is None else as_text(code)[:LONGEST]


def describe(reply: Reply | None, code: Any, message: Any) -> str:
    """`HTTP 400 INVALID_FIELD: No such column`, whatever there is of it."""
    status = f"HTTP {reply.status}" if reply is not None and code is None and message is None else ""
    parts = [as_text(part)[:LONGEST].strip() for part in (code, message) if part is not None and as_text(part).strip()]
    return status or ": ".join(dict.fromkeys(parts)) or (f"HTTP {reply.status}" if reply is not None else "")


class Level:
    """The `replies` of one place: step, action, auth or connector."""

    def __init__(self, compiler: Compiler, spec: types.Replies | None, names: frozenset[str], place: Path) -> None:
        self.code = compiler.value(spec.code, names, (*place, "code")) if spec and spec.code is not None else None
        self.message = (
            compiler.value(spec.message, names, (*place, "message")) if spec and spec.message is not None else None
        )
        self.rules = rules_of(compiler, spec.outcomes if spec else [], names, (*place, "outcomes"))


class Verdict(msgspec.Struct, frozen=True):
    """What a reply means for the request as a whole, or the results rule that reads its records."""

    outcome: Outcome | None
    results: Any = None


class Judge:
    """All that decides over the reply to one request, in this order: outcomes, expect, results, defaults."""

    def __init__(
        self,
        compiler: Compiler,
        levels: Sequence[Level],
        results: Sequence[ResultsRule],
        expect: Any,
        names: frozenset[str],
        place: Path,
        *,
        event_in_url: bool = False,
        never_repeat: bool = False,
        absent_on: Sequence[int] = (),
    ) -> None:
        self.levels, self.results = levels, results
        self.expect = compiler.condition(expect, names, (*place, "expect")) if expect is not None else None
        self.event_in_url, self.never_repeat = event_in_url, never_repeat
        self.can_renew = False  # known once it is known which auth the request goes with
        self.absent_on = absent_on

    def verdict(self, scope: Mapping[str, Any], reply: Reply | NoReply, *, records: int) -> Verdict:
        """`scope` holds the request's names; `response` is added here."""
        if isinstance(reply, NoReply):
            return Verdict(self.unanswered(reply))
        inside = {**scope, "response": reply.scope}
        code, message = self.read("code", inside), self.read("message", inside)
        for level in self.levels:
            for rule in level.rules:
                if rule.holds(inside, reply, code, message):
                    outcome = rule.outcome(inside, reply, code, message, whole=True)
                    if outcome.kind is not OutcomeKind.DELIVERED:
                        return Verdict(self.of_request(outcome, records))
                    return Verdict(
                        None if self.results_for(inside, reply) else outcome, self.results_for(inside, reply)
                    )
        if reply.status in self.absent_on:
            return Verdict(DELIVERED)
        if reply.fault:
            return Verdict(self.again(reply.fault))
        fine = 200 <= reply.status < 300
        if fine and self.expect is not None and not self.expect(inside):
            return Verdict(self.unmet(reply, code, message))
        if (results := self.results_for(inside, reply)) is not None:
            return Verdict(None, results)
        if fine:
            return Verdict(DELIVERED)
        return Verdict(self.default(inside, reply, code, message, records))

    def read(self, name: str, scope: Mapping[str, Any]) -> Any:
        for level in self.levels:
            if (run := getattr(level, name)) is not None:
                try:
                    return run(scope)
                except TooMuch:
                    raise
                except BadValue:
                    return None
        return None

    def results_for(self, scope: Mapping[str, Any], reply: Reply) -> ResultsRule | None:
        return next((rule for rule in self.results if rule.fits(scope, reply)), None)

    def unanswered(self, reply: NoReply) -> Outcome:
        if self.never_repeat and reply.sent:
            reason = f"{reply.reason}; it may have arrived and must not be repeated"
            return Outcome(OutcomeKind.REJECT, reason, private=True)
        return Outcome(OutcomeKind.RETRY, reply.reason, count=False, outage=True, private=True)

    def unmet(self, reply: Reply, code: Any, message: Any) -> Outcome:
        """A 2xx that is not what a good reply looks like: never success; again, then a person looks."""
        what = f"HTTP {reply.status} that is not the expected reply ({reply.content_type or 'no content type'})"
        detail = describe(None, code, message)
        return self.again(f"{what}: {detail}" if detail else what, as_code(code))

    def again(self, reason: str, code: str = "") -> Outcome:
        """What a reply that says nothing means: once more, unless that may double; then a person looks."""
        if self.never_repeat:
            return Outcome(OutcomeKind.REJECT, f"{reason}; it may have been carried out", code=code)
        return Outcome(OutcomeKind.RETRY, reason, code=code, otherwise=OutcomeKind.PAUSE)

    @staticmethod
    def of_request(outcome: Outcome, records: int) -> Outcome:
        """reject, skip and defer from `replies` over several records act as split, unless the rule says `all`."""
        single = (OutcomeKind.REJECT, OutcomeKind.SKIP, OutcomeKind.DEFER)
        if records > 1 and outcome.kind in single and not outcome.everyone:
            return msgspec.structs.replace(outcome, kind=OutcomeKind.SPLIT)
        if records <= 1 and outcome.kind is OutcomeKind.SPLIT:
            return msgspec.structs.replace(outcome, kind=outcome.otherwise)
        return outcome

    def default(self, scope: Mapping[str, Any], reply: Reply, code: Any, message: Any, records: int) -> Outcome:
        """What a status means where nobody wrote anything."""
        status, reason, coded = reply.status, describe(reply, code, message), as_code(code)
        if f"HTTP {status}" not in reason:
            reason = f"HTTP {status} {reason}"
        wait = retry_after(reply, scope)
        if status in (408, 425, 429):
            return Outcome(OutcomeKind.THROTTLE, reason, coded, wait)
        if status >= 500:
            return Outcome(OutcomeKind.RETRY, reason, coded, wait, count=False, outage=True)
        if status == 401:
            return Outcome(OutcomeKind.REAUTH if self.can_renew else OutcomeKind.PAUSE, reason, coded)
        if status in (403, 404) and not self.event_in_url:
            return Outcome(OutcomeKind.PAUSE, reason, coded)
        if status < 400:
            return Outcome(OutcomeKind.PAUSE, f"{reason}: a redirect is not followed", coded)
        kind = OutcomeKind.SPLIT if records > 1 else OutcomeKind.REJECT
        return Outcome(kind, reason, coded)


class ResultsRule:
    """One compiled `results` rule: how a reply speaks of its records."""

    def __init__(self, compiler: Compiler, spec: types.Results, names: frozenset[str], place: Path) -> None:
        self.spec = spec
        reply_names = names | {"response"} | ({"args"} if spec.args else set())
        result_names = reply_names | {"result", "record"}
        self.args = compiler_args(compiler, spec.args, names, (*place, "args"))
        self.status = units.statuses(spec.on.status) if spec.on.status is not None else units.statuses("2xx")
        self.when = compiler.condition(spec.on.when, reply_names, (*place, "on", "when"))
        self.lists = {
            name: compiler.value(getattr(spec, name), reply_names, (*place, name))
            for name in ("at", "ok_at", "failed_at")
            if getattr(spec, name) is not None
        }
        self.ok = compiler.condition(spec.ok, result_names, (*place, "ok")) if spec.ok is not None else None
        self.code = compiler.value(spec.code, result_names, (*place, "code"))
        self.message = compiler.value(spec.message, result_names, (*place, "message"))
        self.rules = rules_of(compiler, spec.outcomes, result_names, (*place, "outcomes"))
        match = spec.match
        self.base = 0
        self.ours = self.theirs = self.position = None
        if isinstance(match, dict) and "position" in match:
            self.position = compiler.value(match["position"], result_names, (*place, "match", "position"))
            self.base = int(match.get("base", 0))
        elif isinstance(match, dict):
            self.ours = compiler.value(match.get("ours"), names | {"record"}, (*place, "match", "ours"))
            self.theirs = compiler.value(match.get("theirs"), result_names, (*place, "match", "theirs"))

    def fits(self, scope: Mapping[str, Any], reply: Reply) -> bool:
        return self.status(reply.status) and self.when(scope)

    def outcomes(self, scope: Mapping[str, Any], reply: Reply, records: Sequence[Any]) -> list[Outcome | None] | None:
        """
        One outcome for each record, None for one that the reply does not name.

        The whole is None where the reply lacks what the rule reads: then nothing is known of any record.
        """
        inside = {**scope, "response": reply.scope}
        if self.args is not None:
            inside["args"] = quietly(self.args, scope) or {}
        if self.spec.match == "test":
            return [self.judge({**inside, "record": record}, reply, None) for record in records]
        named: list[tuple[Any, bool | None]] = []
        lists = {name: quietly(run, inside) for name, run in self.lists.items()}
        if all(listed is None for listed in lists.values()):
            return None  # not even an empty list: an error page, or another reply than the author knew
        for name, listed in lists.items():
            if listed is None:
                continue
            if listed.__class__ is dict:
                listed = [{"key": key, "value": value} for key, value in listed.items()]
            if listed.__class__ is not list:
                return None
            named += [(entry, {"ok_at": True, "failed_at": False}.get(name)) for entry in listed]
        found: list[Outcome | None] = [None] * len(records)
        owners = self.owners(records)
        for index, (entry, fine) in enumerate(named):
            for position in self.positions(inside, entry, index, records, owners):
                verdict = self.judge({**inside, "result": entry, "record": records[position]}, reply, fine)
                if found[position] is None or verdict.kind is not OutcomeKind.DELIVERED:
                    found[position] = verdict
        if self.position is None and self.theirs is None and len(named) > len(owners):
            return None  # more answers than records: which is whose can't be known
        return found

    def owners(self, records: Sequence[Any]) -> Sequence[int]:
        """For each item of the body the record it came from: itself, or with `items` one of the lists in a record."""
        if not self.spec.items:
            return range(len(records))
        return [at for at, record in enumerate(records) for name in self.spec.items for _ in listed_in(record, name)]

    def positions(
        self, scope: Mapping[str, Any], entry: Any, index: int, records: Sequence[Any], owners: Sequence[int]
    ) -> list[int]:
        """The records that one entry of the reply speaks of."""
        inside = {**scope, "result": entry}
        if self.theirs is not None and self.ours is not None:
            theirs = key_of(self.theirs, inside)
            wanted = set(theirs) if isinstance(theirs, list) else {theirs}
            wanted.discard(None)
            return [at for at, record in enumerate(records) if key_of(self.ours, {**scope, "record": record}) in wanted]
        if self.position is not None:
            value = key_of(self.position, inside)
            index = int(value) - self.base if isinstance(value, str) and _POSITION.match(value) else -1
        return [owners[index]] if 0 <= index < len(owners) else []

    def judge(self, scope: Mapping[str, Any], reply: Reply, fine: bool | None) -> Outcome:
        if fine is None:
            fine = self.ok(scope) if self.ok is not None else self.spec.match != "test" or None
        if fine:
            return DELIVERED
        code, message = quietly(self.code, scope), quietly(self.message, scope)
        for rule in self.rules:
            if rule.holds(scope, reply, code, message):
                return rule.outcome(scope, reply, code, message)
        if fine is None:
            return DELIVERED
        return Outcome(OutcomeKind.REJECT, describe(None, code, message) or "refused by the vendor", as_code(code))

    def missing(self, reply: Reply) -> Outcome:
        """What holds for a record that the reply does not name."""
        if self.spec.unnamed == "delivered":
            return DELIVERED
        return Outcome(OutcomeKind.RETRY, f"HTTP {reply.status} names no result for this record")


def listed_in(record: Any, name: str) -> list[Any]:
    """The items that one record brings along under a name; what is no list is one item."""
    value = record.get(name) if isinstance(record, dict) else None
    return value if isinstance(value, list) else [] if value is None else [value]


def compiler_args(compiler: Compiler, args: dict[str, Any], names: frozenset[str], place: Path) -> Any:
    from engine.mapping import compile_tree

    return compile_tree(compiler, args, names, place) if args else None


def quietly(run: Any, scope: Mapping[str, Any]) -> Any:
    try:
        return run(scope)
    except TooMuch:
        raise
    except BadValue:
        return None


def key_of(run: Any, scope: Mapping[str, Any]) -> Any:
    """A value to match by, as text; a list as texts; None if there is none."""
    value = quietly(run, scope)
    if value is None:
        return None
    if value.__class__ is list:
        return [as_text(entry) for entry in value]
    return as_text(value)
