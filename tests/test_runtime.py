"""A project directory as a running engine: what is sound serves, what changes is picked up, what is mended goes on."""

from __future__ import annotations

import hmac
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import START, Heard, Vendor, balanced, reply, whole

from engine.clock import VirtualClock
from engine.errors import StoreUnavailable, UsageError
from engine.mapping import encode_json
from engine.runtime import Engine
from engine.spec.project import Project
from engine.stores.memory import MemoryStore
from engine.stores.opening import open_store
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.records import Lane

CRM = """
secrets: {key: {title: Key}}
auth: {place: {headers: {Authorization: "{{ secrets.key }}"}}}
"""
ABC = "client: abc\nconnectors: {crm: {secrets: {key: 'file:secrets/abc'}}}\n"
XYZ = "client: xyz\nconnectors: {crm: {secrets: {key: 'file:secrets/xyz'}}}\n"


class Running:
    """An engine on a project's directory, a store in memory and a virtual clock."""

    def __init__(self, directory: Path, vendor: Vendor, store: Any = None) -> None:
        self.clock, self.heard, self.vendor = VirtualClock(START), Heard(), vendor
        self.store = store if store is not None else MemoryStore()
        self.engine = Engine(
            Project(directory),
            self.store,
            transport=vendor,
            clock=self.clock,
            telemetry=self.heard,
            alerts=self.heard,
        )

    def post(self, *ids: str, client: str = "abc", key: str | None = None) -> list[int]:
        """Statuses."""
        found = []
        for event_id in ids:
            body = encode_json({"client": client, "id": event_id})
            received = self.engine.receive("crm", body, "application/json", key, self.clock.now())
            found.append(received.status)
            if received.accepted:
                self.engine.put([accepted for _, accepted in received.accepted], self.clock.now(), 0).result()
        return found

    def run(self) -> None:
        self.engine.reload()
        self.engine.mark_paused()
        self.engine.worker.drain()
        balanced(self.store)
        self.engine.mark_paused()

    def lane(self, client: str = "abc") -> Lane:
        lane = self.store.lane("crm", client)
        assert lane is not None
        return lane


@pytest.fixture
def directory(project_from: Callable[..., Path]) -> Path:
    folder = project_from(crm=CRM, abc=ABC, xyz=XYZ)
    (folder / "secrets").mkdir()
    (folder / "secrets/abc").write_text("key-of-abc\n")
    (folder / "secrets/xyz").write_text("key-of-xyz\n")
    return folder


def rewrite(path: Path, text: str) -> None:
    """A changed file, also where the clock of the file system is coarse."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))


def keys_sent(running: Running) -> list[str]:
    return [request.headers["Authorization"] for request in running.vendor.asked]


def test_a_project_serves_its_clients_each_with_its_own_secret(directory: Path) -> None:
    running = Running(directory, Vendor())
    assert running.post("1") + running.post("2", client="xyz") == [202, 202]
    running.run()
    assert keys_sent(running) == ["key-of-abc", "key-of-xyz"]
    assert [(lane.client, lane.delivered) for lane in running.engine.lanes()] == [("abc", 1), ("xyz", 1)]
    assert running.engine.ready() == []


def test_a_broken_client_file_harms_nobody_else(directory: Path) -> None:
    rewrite(directory / "clients/abc.yaml", ABC + "conectors: {}\n")
    running = Running(directory, Vendor())
    assert running.post("1", client="xyz") == [202]
    assert running.post("2", client="abc") == [400]
    running.run()
    assert running.lane("xyz").delivered == 1
    (told,) = [facts["text"] for facts in running.heard.named("finding")]
    assert "abc.yaml:3:1" in str(told)
    assert (running.engine.broken, running.engine.ready()) == ([told], [])


def test_while_a_client_file_is_broken_the_last_sound_one_serves(directory: Path) -> None:
    running = Running(directory, Vendor())
    running.post("1")
    rewrite(directory / "clients/abc.yaml", ABC + "conectors: {}\n")
    running.run()
    assert running.post("2") == [202]
    running.run()
    assert (running.lane().delivered, running.lane().state, len(running.engine.broken)) == (2, "idle", 1)
    rewrite(directory / "clients/abc.yaml", ABC + "title: mended\n")
    running.run()
    assert running.engine.broken == []


def test_a_broken_connector_is_named_and_does_not_stop_the_others(project_from: Callable[..., Path]) -> None:
    folder = project_from(
        crm="", other="name: other\nactions: {x: {record: {}}}", abc="{client: abc, connectors: {crm: {}}}"
    )
    running = Running(folder, Vendor())
    assert running.post("1") == [202]
    assert "other.yaml" in running.engine.broken[0]


def test_a_binding_that_does_not_compile_refuses_its_own_events_only(project_from: Callable[..., Path]) -> None:
    folder = project_from(
        crm="",
        abc="client: abc\nconnectors: {crm: {actions: {note: {record: {x: '${ evnt.x }'}}}}}",
        xyz="client: xyz\nconnectors: {crm: {}}",
    )
    running = Running(folder, Vendor())
    assert running.post("1", client="xyz") == [202]
    assert running.post("2", client="abc") == [503]
    assert 'did you mean "event"?' in str(running.heard.named("finding"))
    running.run()
    assert running.lane("xyz").delivered == 1


def test_a_changed_file_is_picked_up(directory: Path) -> None:
    running = Running(directory, Vendor())
    running.post("1")
    running.run()
    rewrite(
        directory / "connectors/crm.yaml",
        (directory / "connectors/crm.yaml").read_text().replace("/notes", "/v2/notes"),
    )
    running.post("2")
    running.run()
    assert running.vendor.lines == ["POST /v1/notes", "POST /v1/v2/notes"]


def test_a_new_client_is_served_without_a_restart_and_one_that_is_switched_off_is_refused(directory: Path) -> None:
    running = Running(directory, Vendor())
    assert running.post("1", client="neu") == [400]
    (directory / "secrets/neu").write_text("key-of-neu")
    (directory / "clients/neu.yaml").write_text(ABC.replace("abc", "neu"))
    running.engine.reload()
    assert running.post("1", client="neu") == [202]
    rewrite(directory / "clients/neu.yaml", "active: false\n" + ABC.replace("abc", "neu"))
    running.engine.reload()
    assert running.post("2", client="neu") == [403]


# --- lanes that are paused ---


def test_a_missing_secret_pauses_the_lane_and_it_goes_on_when_the_secret_is_there(directory: Path) -> None:
    (directory / "secrets/abc").unlink()
    running = Running(directory, Vendor())
    running.post("1")
    running.post("2", client="xyz")
    running.run()
    assert (running.lane().state, running.lane("xyz").delivered, running.lane().waiting) == ("paused", 1, 1)
    running.run()
    assert running.lane().state == "paused"
    (directory / "secrets/abc").write_text("key-of-abc")
    running.run()
    assert (running.lane().state, running.lane().delivered) == ("idle", 1)


def test_a_lane_that_was_paused_goes_on_when_its_secret_changes(directory: Path) -> None:
    running = Running(directory, Vendor(reply(401, {}), reply(200, {})))
    running.post("1", "2")
    running.run()
    running.run()
    assert (running.lane().state, running.lane().reason, len(running.vendor.asked)) == ("paused", "HTTP 401", 1)
    rewrite(directory / "secrets/abc", "new-key-of-abc")
    running.run()
    assert (running.lane().state, running.lane().delivered) == ("idle", 2)
    assert keys_sent(running) == ["key-of-abc", "new-key-of-abc", "new-key-of-abc"]


def test_a_lane_that_was_paused_goes_on_when_the_client_file_changes(directory: Path) -> None:
    running = Running(directory, Vendor(reply(403, {}), reply(200, {})))
    running.post("1")
    running.run()
    rewrite(directory / "clients/abc.yaml", ABC + "title: Loja ABC\n")
    running.run()
    assert running.lane().delivered == 1


def test_an_action_that_is_switched_on_again_sends_what_had_waited_for_it(directory: Path) -> None:
    running = Running(directory, Vendor(reply(200, {})))
    running.engine.wake_changed()
    running.post("1")
    off = ABC.replace("}}}", "}, actions: {note: {active: false}}}}")
    rewrite(directory / "clients/abc.yaml", off)
    running.run()
    running.engine.wake_changed()
    running.run()
    assert (running.lane().waiting, running.vendor.asked) == (1, [])
    rewrite(directory / "clients/abc.yaml", ABC)
    running.engine.reload()
    running.engine.wake_changed()
    running.run()
    assert running.lane().delivered == 1


def test_a_change_that_mends_nothing_is_one_try_and_not_one_for_ever(directory: Path) -> None:
    running = Running(directory, Vendor(reply(401, {})))
    running.post("1")
    running.run()
    rewrite(directory / "secrets/abc", "another-wrong-key")
    for _ in range(10):
        running.run()
    assert keys_sent(running) == ["key-of-abc", "another-wrong-key"]
    rewrite(directory / "secrets/abc", "a-third-key")
    for _ in range(10):
        running.run()
    assert keys_sent(running) == ["key-of-abc", "another-wrong-key", "a-third-key"]


def test_a_lane_that_is_not_paused_is_not_touched_by_a_change(directory: Path) -> None:
    running = Running(directory, Vendor(reply(429, retry_after="600"), reply(200, {})))
    running.post("1")
    running.run()
    rewrite(directory / "secrets/abc", "new-key-of-abc")
    running.run()
    assert (running.lane().state, len(running.vendor.asked)) == ("throttled", 1)


def test_a_lane_paused_by_hand_stays_so_until_someone_resumes_it(directory: Path) -> None:
    running = Running(directory, Vendor(reply(403, {}), reply(200, {})))
    running.post("1")
    running.run()
    for _ in range(3):
        running.run()
    assert running.lane().state == "paused"
    running.engine.resume("crm", "abc")
    running.run()
    assert running.lane().delivered == 1


def test_a_restart_with_a_mended_secret_lets_the_lane_go_on(directory: Path, tmp_path: Path) -> None:
    first = Running(directory, Vendor(reply(401, {})), SqliteStore(tmp_path / "connect.db"))
    first.post("1")
    first.run()
    first.engine.close()
    rewrite(directory / "secrets/abc", "new-key-of-abc")
    second = Running(directory, Vendor(), SqliteStore(tmp_path / "connect.db"))
    second.run()
    assert second.lane().delivered == 1
    second.engine.close()


# --- write keys ---


def test_write_keys_are_secrets_and_one_that_can_not_be_had_opens_no_door(project_from: Callable[..., Path]) -> None:
    folder = project_from(
        crm="",
        abc="client: abc\ningest: {keys: ['file:key']}\nconnectors: {crm: {}}",
        xyz="client: xyz\ningest: {keys: ['file:not-there']}\nconnectors: {crm: {}}",
    )
    (folder / "key").write_text("write-key-of-abc")
    running = Running(folder, Vendor())
    assert running.post("1", key="write-key-of-abc") == [202]
    assert running.post("2") == [401]
    assert running.post("3", client="xyz") == [401]
    assert running.post("4", client="xyz", key="write-key-of-abc") == [403]
    assert "write-key-of-abc" not in str(running.heard.events)


def test_origins_of_a_connector_are_those_of_its_clients(project_from: Callable[..., Path]) -> None:
    folder = project_from(
        crm="", abc="client: abc\ningest: {origins: ['https://www.abc.example']}\nconnectors: {crm: {}}"
    )
    engine = Running(folder, Vendor()).engine
    assert engine.allows_origin("crm", "https://www.abc.example") is True
    assert engine.allows_origin("crm", "https://evil.example") is False
    assert engine.allows_origin("other", "https://www.abc.example") is False


def test_a_client_that_signs_takes_nothing_unsigned(project_from: Callable[..., Path]) -> None:
    folder = project_from(crm="", abc="client: abc\ningest: {signatures: ['file:secret']}\nconnectors: {crm: {}}")
    (folder / "secret").write_text("signing-secret-of-abc")
    running = Running(folder, Vendor())
    body = encode_json({"client": "abc", "id": "1"})
    digest = hmac.new(b"signing-secret-of-abc", b"%d.%b" % (START, body), "sha256").hexdigest()
    receive = running.engine.receive
    signed = receive("crm", body, "application/json", None, START, signature=f"t={START:.0f},v1={digest}")
    assert (signed.status, running.post("2")) == (202, [401])
    assert "signing-secret-of-abc" not in running.engine.masker.mask("it is signing-secret-of-abc")


def test_a_clients_rate_holds_over_all_its_connectors_and_a_reload(project_from: Callable[..., Path]) -> None:
    client = "client: abc\ningest: {rate: 2/1h}\nconnectors: {crm: {}, other: {}}"
    other = "name: other\nreceive: {client: '${ event.client }'}"
    folder = project_from(crm="", other=other, abc=client)
    engine = Running(folder, Vendor()).engine
    body = b'{"client": "abc"}'

    def sent(connector: str) -> int:
        return engine.receive(connector, body, "application/json", None, START).status

    assert [sent(connector) for connector in ("crm", "other", "crm")] == [202, 202, 429]
    rewrite(folder / "clients/abc.yaml", client + "\ntitle: Loja ABC")
    engine.reload()
    assert sent("other") == 429
    rewrite(folder / "clients/abc.yaml", client.replace("2/1h", "9/1h"))
    engine.reload()
    assert sent("other") == 202


def test_a_page_sends_only_for_its_own_client(project_from: Callable[..., Path]) -> None:
    one, two = (
        f"client: {name}\ningest: {{origins: ['https://www.{name}.example']}}\nconnectors: {{crm: {{}}}}"
        for name in ("abc", "xyz")
    )
    engine = Running(project_from(crm="", abc=one, xyz=two), Vendor()).engine
    told = [
        engine.receive("crm", b'{"client": "abc"}', "application/json", None, START, origin=origin).status
        for origin in ("https://www.abc.example", "https://www.xyz.example")
    ]
    assert told == [202, 403]


def test_what_can_be_posted_is_described_and_anew_after_a_change(project_from: Callable[..., Path]) -> None:
    folder = project_from(crm="", abc="client: abc\nconnectors: {crm: {}}")
    engine = Running(folder, Vendor()).engine
    first = engine.openapi()
    assert engine.openapi() is first
    assert list(json.loads(first)["paths"]) == ["/crm"]
    rewrite(folder / "connectors/crm.yaml", whole("title: Another"))
    engine.reload()
    assert json.loads(engine.openapi())["paths"]["/crm"]["post"]["summary"] == "Another"


def test_a_full_store_is_a_reason_not_to_be_ready(project_from: Callable[..., Path], tmp_path: Path) -> None:
    folder = project_from(crm="", abc="client: abc\nconnectors: {crm: {}}")
    store = SqliteStore(tmp_path / "connect.db")
    engine = Engine(Project(folder), store, transport=Vendor(), telemetry=Heard(), alerts=Heard(), max_store=1)
    assert [reason.partition(" KB")[2] for reason in engine.ready()] == [", and max_store is 1 B"]
    assert engine.full() == engine.ready()[0]
    engine.close()


# --- stores ---


@pytest.fixture
def stores() -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for store in made:
        store.close()


def test_a_store_is_opened_by_its_url(tmp_path: Path, stores: list[Any]) -> None:
    stores += [open_store("memory:", tmp_path, {}), open_store("sqlite:///a.db", tmp_path, {})]
    stores.append(open_store(f"sqlite:///{tmp_path}/b.db", tmp_path, {}))
    assert [type(store) for store in stores] == [MemoryStore, SqliteStore, SqliteStore]
    assert (tmp_path / "a.db").exists()
    assert (tmp_path / "b.db").exists()


@pytest.mark.parametrize("url", ["", "postgre://x", "mysql:///x", "sqlite:x.db", "connect.db"])
def test_an_unknown_store_is_said_with_those_that_are_known(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known are memory"):
        open_store(url, tmp_path, {})


def test_a_store_that_can_not_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        open_store("sqlite:///no/such/folder/connect.db", tmp_path, {})


def test_a_key_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CONNECT_KEY"):
        open_store("sqlite:///a.db", tmp_path, {"CONNECT_KEY": "nonsense"})


def test_an_action_that_was_paused_goes_on_when_the_client_file_changes(project_from: Callable[..., Path]) -> None:
    folder = project_from(
        crm="replies: {outcomes: [{status: 403, then: pause, scope: action}]}",
        abc="{client: abc, connectors: {crm: {}}}",
    )
    running = Running(folder, Vendor(reply(403, {}), reply(200, {})))
    running.post("1")
    running.run()
    running.run()
    assert (running.lane().waiting, len(running.vendor.asked)) == (1, 1)
    rewrite(folder / "clients/abc.yaml", "{client: abc, title: Loja ABC, connectors: {crm: {}}}")
    running.run()
    running.run()
    assert running.lane().delivered == 1


def test_connectors_that_come_with_the_engine_and_no_client_has_are_read_after_the_start(
    project_from: Callable[..., Path],
) -> None:
    ours = set(Project(project_from(crm=CRM, abc=ABC)).connector_files())
    engine = Engine(Project(project_from(crm=CRM, abc=ABC)), MemoryStore())
    assert set(engine.connector_specs) == {"crm"}
    engine.prepare()
    assert set(engine.connector_specs) == ours > {"crm"}


def test_threads_that_are_the_first_to_ask_for_the_trail_have_the_same_one(directory: Path) -> None:
    made: list[object] = []

    def trail() -> Any:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    engine = Engine(Project(directory), MemoryStore(), trail=trail)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(engine.trail)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == made * 2
    assert len(made) == 1


def test_who_has_the_engine_s_lock_and_who_asks_for_the_trail_do_not_wait_for_each_other(directory: Path) -> None:
    asked = threading.Event()

    class Lock:
        """The engine's; tells when it is asked for."""

        def __init__(self) -> None:
            self.inner = threading.RLock()

        def __enter__(self) -> None:
            if threading.current_thread() is first:
                asked.set()
            self.inner.acquire()

        def __exit__(self, *_: object) -> None:
            self.inner.release()

    engine = Engine(Project(directory), MemoryStore(), trail=lambda: None)
    engine.lock = Lock()  # type: ignore[assignment]
    first = threading.Thread(target=lambda: engine.trail, daemon=True)

    def second() -> None:
        with engine.lock:
            first.start()
            assert asked.wait(5)
            time.sleep(0.05)
            assert engine.trail is None

    other = threading.Thread(target=second, daemon=True)
    other.start()
    other.join(5)
    assert not other.is_alive()
    first.join(5)
    assert not first.is_alive()
