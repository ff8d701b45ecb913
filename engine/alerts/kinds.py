"""What troubles there are: how bad each is, whether it wakes people, what to do about it."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """`do` has CONNECTOR and CLIENT where the names go; `ends_s`: it is over when it was not heard of for so long."""

    severity: str  # critical | error | warning
    urgent: bool  # told in quiet hours, too
    when: str
    do: str
    looked: bool  # whether it stands is seen in the store; else the process that meets with it says so
    ends_s: float = 3600.0


KINDS: dict[str, Kind] = {
    "lane-paused": Kind(
        "error",
        True,
        "a lane stopped; its events are kept",
        "Mend what the reason names, run `connect check CONNECTOR CLIENT`, and the lane goes on; "
        "or `connect resume CONNECTOR CLIENT`.",
        True,
    ),
    "action-paused": Kind(
        "error",
        True,
        "one action of a lane stopped; its events are kept, the others go on",
        "Mend what the reason names, run `connect check CONNECTOR CLIENT`, then `connect resume CONNECTOR CLIENT`.",
        False,
    ),
    "oldest": Kind(
        "error",
        False,
        "the oldest event of a lane has waited longer than `oldest`",
        "Run `connect status` to see why it waits; a lane that waits for a batch by intention gets a longer `oldest`.",
        True,
    ),
    "dead-letter": Kind(
        "warning",
        False,
        "deliveries were rejected, other than expected ones: at least `dead_letters` of them",
        "Run `connect dead list --connector CONNECTOR --client CLIENT --by reason`, mend what it names, "
        "then `connect dead retry --all --connector CONNECTOR --client CLIENT`.",
        True,
    ),
    "token-failing": Kind(
        "error",
        True,
        "the log-in or the renewal of a token failed three times in a row",
        "Run `connect check CONNECTOR CLIENT`; where the vendor is down it goes on by itself.",
        False,
    ),
    "store-filling": Kind(
        "error",
        True,
        "the store is nearly full: `store` of what it may hold is used",
        "Run `connect status` to see what waits, and let it go on or give the store more room; "
        "when it is full, senders are told 503.",
        True,
    ),
    "store-full": Kind(
        "critical",
        True,
        "the store, or its disk, is full: senders are told 503",
        "Give the disk or `max_store` more room now, and run `connect status` to see which lane holds so much.",
        True,
    ),
    "outage": Kind(
        "warning",
        False,
        "the vendor did not answer, or said that it is down, three times in a row",
        "Nothing has to be done: it is tried again and goes on by itself; `connect status` shows when.",
        True,
    ),
    "lane-failed": Kind(
        "error",
        False,
        "the turn of a lane ended in an error of this program or of its store; it is tried again",
        "Look at the log line `lane-failed`; if it comes again, run `connect store check`.",
        False,
    ),
    "write-key": Kind(
        "error",
        True,
        "a write key or signing secret of a client can't be had from its source; one that was had before serves on",
        "Put the secret that the text names where its source looks for it; it is asked for again by itself.",
        False,
    ),
    "action-gone": Kind(
        "warning",
        False,
        "deliveries wait for an action that was taken out of the connector or switched off",
        "Put the action back within a day, or run `connect dead retry --all --connector CONNECTOR --client CLIENT "
        "--code action-gone` after it is back.",
        False,
        25 * 3600.0,
    ),
}
OTHER = Kind("warning", False, "", "Run `connect status`.", False)
# One trouble, one alert: these are not told while one of those stands for the same lane.
COVERED = {
    "oldest": ("lane-paused",),
    "outage": ("lane-paused", "token-failing"),
    "token-failing": ("lane-paused",),
    "store-filling": ("store-full",),
}


def kind_of(name: str) -> Kind:
    return KINDS.get(name, OTHER)
