"""Are the secrets there that client files name? Asked beside the pages, for a source may take its time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import ConnectError, told
from engine.secrets import looks_literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.runtime import Engine

KEPT_S = 30.0
AT_ONCE = 8


class There(NamedTuple):
    """Whether a reference yields a value; never the value. `why` where it does not."""

    found: bool
    why: str = ""


class Sources:
    """Each reference is asked at most once in KEPT_S, and not again while it is being asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[str, tuple[float, There]] = {}
        self._asking: set[str] = set()
        self._changed = threading.Condition()

    def of(self, references: Iterable[str], *, wait_s: float) -> dict[str, There]:
        """Those that are known after `wait_s` at most."""
        wanted = list(dict.fromkeys(references))
        with self._changed:
            for reference in wanted:
                if not self._is_known(reference) and reference not in self._asking and len(self._asking) < AT_ONCE:
                    self._ask(reference)
            self._changed.wait_for(lambda: all(self._is_known(each) for each in wanted), wait_s)
            return {each: self._kept[each][1] for each in wanted if each in self._kept}

    def _is_known(self, reference: str) -> bool:
        return reference in self._kept and self._kept[reference][0] > time.monotonic() - KEPT_S

    def _ask(self, reference: str) -> None:
        if looks_literal(reference) or reference.startswith(("env:", "file:")):  # answered at once
            self._kept[reference] = (time.monotonic(), self._answer(reference))
            return
        self._asking.add(reference)
        threading.Thread(target=self._run, args=(reference,), name="secret-there", daemon=True).start()

    def _run(self, reference: str) -> None:
        answer = self._answer(reference)
        with self._changed:
            self._asking.discard(reference)
            if len(self._kept) > 10_000:
                self._kept.clear()
            self._kept[reference] = (time.monotonic(), answer)
            self._changed.notify_all()

    def _answer(self, reference: str) -> There:
        try:
            self._engine.masker.add(self._engine.secrets.resolve(reference))
        except ConnectError as error:
            return There(False, self._engine.masker.mask(str(error)))
        except Exception as error:
            return There(False, told(error))
        return There(True)


def shown_reference(reference: str) -> str:
    """Where a secret is; not what somebody wrote there instead, for that is most likely the secret itself."""
    return "***" if looks_literal(reference) else reference
