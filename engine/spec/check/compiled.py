"""A connector compiled with all its actions: what does not compile, and what is read where. Never raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.expressions import Compiler
from engine.notations.emitting import Problem
from engine.onboarding.provisioning import Provisioning
from engine.program import Program
from engine.sandbox import Sandbox
from engine.spec import types
from engine.spec.check.places import node_at
from engine.spec.check.salvage import without

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.notations.emitting import Use
    from engine.spec.located import Located, Node

    Path = tuple[str | int, ...]

ANYONE = types.Client(client="anyone", connectors={})
ROUNDS = 30
_ARRIVING = frozenset({"event", "received_at"})


class Compiled(NamedTuple):
    problems: list[Problem]
    uses: list[Use]


def compiled(connector: types.Connector, located: Located, faulty: Collection[Path] = ()) -> Compiled:
    """`faulty` are places that are known not to compile; they are left out."""

    def arrives(given: types.Connector) -> Compiled:
        compiler = Compiler()
        compiler.value(given.receive.client, _ARRIVING, ("receive", "client"))
        compiler.value(given.receive.id, _ARRIVING, ("receive", "id"))
        return Compiled(compiler.problems, compiler.uses)

    def runs(given: types.Connector) -> Compiled:
        program = Program(all_active(given), ANYONE, types.Binding())
        Provisioning(program)
        return Compiled(program.compiler.problems, program.compiler.uses)

    def simulates(given: types.Connector) -> Compiled:
        return Compiled(Sandbox(given).problems if given.sandbox is not None else [], [])

    parts = [_as_far(make, connector, located.root, faulty) for make in (arrives, runs, simulates)]
    return Compiled([each for part in parts for each in part.problems], [each for part in parts for each in part.uses])


def _as_far(
    make: Callable[[types.Connector], Compiled], connector: types.Connector, root: Node, faulty: Collection[Path]
) -> Compiled:
    """What raises while it is compiled becomes a problem, is left out, and the rest is compiled."""
    problems: list[Problem] = []
    cut = [place for place in faulty if node_at(root, place) is not None]
    for _ in range(ROUNDS):
        try:
            if cut:
                for place in cut:
                    root = without(root, place)
                connector = msgspec.convert(root.plain(), types.Connector)
            made = make(connector)
        except msgspec.ValidationError:
            break
        except Exception as error:  # whatever a file can bring about is a finding
            place = _place_of(error)
            problems.append(Problem(place, "unusable", f"can't be used: {_said(error)}"))
            while place and node_at(root, place) is None:
                place = place[:-1]
            if not place:
                break
            cut = [place]
        else:
            return Compiled([*problems, *made.problems], made.uses)
    return Compiled(problems, [])


def all_active(connector: types.Connector) -> types.Connector:
    actions = {name: msgspec.structs.replace(action, active=True) for name, action in connector.actions.items()}
    return msgspec.structs.replace(connector, actions=actions)


def guarded(work: Callable[[], list[Problem]], place: Path) -> list[Problem]:
    """The problems that `work` finds, or the one that it is."""
    try:
        return work()
    except Exception as error:  # whatever a file can bring about is a finding
        return [Problem(_place_of(error) or place, "unusable", f"can't be used: {_said(error)}")]


def _place_of(error: BaseException) -> Path:
    """Where the innermost part that was being compiled stands: every part is given its `place`."""
    trace, place = error.__traceback__, ()
    while trace is not None:
        found = trace.tb_frame.f_locals.get("place")
        if isinstance(found, tuple):
            place = found
        trace = trace.tb_next
    return place


def _said(error: Exception) -> str:
    text = str(error).strip()
    return text[:300] if isinstance(error, ValueError) and text else f"{type(error).__name__} {text[:200]}".strip()
