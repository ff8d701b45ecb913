"""An app as a server calls it (ASGI), and an answer as it is sent to one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.door.answers import Answer, Headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Tell = Callable[["Answer", "Headers"], None]
AtOnce = Callable[[Scope, bytes, Tell], bool]
"""
What an app may have besides (`at_once`), for requests whose body is there: it takes one with no task and tells its
answer with further headers, once, now or later; or it does nothing with it and gives False, and is called as an app.
"""


async def reply(send: Send, answer: Answer, extra: Headers = ()) -> None:
    headers = [*extra, *answer.headers]
    if answer.status != 204:
        headers += [(b"content-type", answer.media_type), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
