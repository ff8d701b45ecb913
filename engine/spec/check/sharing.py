"""Work on many files, shared out to processes that each know what this one knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.spec.check.files import Piece
    from engine.spec.findings import Finding

    Done = tuple[list[Finding], list[str]]

_work: Callable[[Piece], Any] | None = None
_pieces: Sequence[Piece] = ()


def shared_out(
    work: Callable[[Piece], Done], pieces: Sequence[Piece], home: Callable[[Piece], str], processes: int
) -> Iterator[tuple[Piece, list[Finding], list[str]]]:
    """
    Each piece with what `work` gives for it; pieces of one home go to one process, which is a copy of this one.

    Where a process can't be copied safely (macOS, Windows), all is done here.
    """
    global _work, _pieces
    if sys.platform != "linux":
        for piece in pieces:
            yield piece, *work(piece)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    _work, _pieces = work, pieces
    shares = _shares(pieces, home, processes)
    with ProcessPoolExecutor(len(shares), mp_context=multiprocessing.get_context("fork")) as pool:
        for share, done in zip(shares, pool.map(_all_of, shares), strict=True):
            for index, (findings, needs) in zip(share, done, strict=True):
                yield pieces[index], findings, needs


def _all_of(share: list[int]) -> list[Done]:
    assert _work is not None
    return [_work(_pieces[index]) for index in share]


def _shares(pieces: Sequence[Piece], home: Callable[[Piece], str], processes: int) -> list[list[int]]:
    """Numbers of pieces, a list for each process; all lists hold about as many bytes."""
    homes: dict[str, list[int]] = {}
    for index, piece in enumerate(pieces):
        homes.setdefault(home(piece), []).append(index)
    shares: list[list[int]] = [[] for _ in range(min(processes, len(homes)))]
    bytes_of = [0] * len(shares)
    weighed = sorted(((sum(_bytes(pieces[index]) for index in group), group) for group in homes.values()), reverse=True)
    for weight, group in weighed:
        least = bytes_of.index(min(bytes_of))
        shares[least] += sorted(group)
        bytes_of[least] += weight
    return shares


def _bytes(piece: Piece) -> int:
    try:
        return Path(piece.file).stat().st_size
    except OSError:
        return 0
