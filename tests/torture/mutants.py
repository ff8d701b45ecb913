"""
Every promise was seen broken: each of its tests fails once what keeps the promise is taken out of the engine.

`python tests/torture/mutants.py [WORD …]` (`make mutants`) takes out one after the other, in a copy of the project, and
expects the one test to fail; what it said goes into docs/guarantees.md. WORD: only tests with that in their
name; `new`: only those that were not seen to fail yet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """`old` stands in `file` once; with `new` in its place, `test` fails. `only`: of the test's forms this one."""

    test: str
    taken: str  # what is taken out, in words
    file: str
    old: str
    new: str
    only: str = ""
    full: bool = False  # the short form is too short to notice


STORING = """\
                self._puts.ask([event for _, event in received.accepted], 0.0, partial(self._put, received, done))
"""
BEFORE_THE_COMMIT = """\
                from engine.records import Stored
                events = [event for _, event in received.accepted]
                self._puts.ask(events, 0.0, lambda _: None)
                self._put(received, done, [Stored(each.event_id, False, ()) for each in events])
"""
FENCED = """\
        "SELECT id FROM lanes WHERE connector = ? AND client = ? AND fence = ? AND owner = ?",
        (lease.connector, lease.client, lease.fence, lease.owner),
"""
NOT_FENCED = """\
        "SELECT id FROM lanes WHERE connector = ? AND client = ?",
        (lease.connector, lease.client),
"""
UPGRADED = """\
    db.execute("BEGIN IMMEDIATE")
    for part in SCHEMA[_value(db, "PRAGMA user_version") :]:
        for statement in part:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")
"""
NO_FIT = """\
            except BadValue as error:
                reason = str(error)
            except Exception as error:
                reason, ours = wire.fault("mapping", error), True
"""
MUTANTS = (
    # processes that die
    Mutant(
        "test_what_was_answered_202_survives_kill_9_and_is_delivered",
        "a delivery leaves the store when it is read, not when its end is known",
        "engine/worker.py",
        "            held_keys: set[str] = set()\n",
        '            held_keys: set[str] = set()\n            store.settle(self.lease, [Settled(one.seq, "delivered")'
        " for one in deliveries], now=now)\n",
    ),
    Mutant(
        "test_a_kill_at_any_statement_of_the_store_loses_nothing",
        "202 is answered before the commit",
        "engine/door/events.py",
        STORING,
        BEFORE_THE_COMMIT,
    ),
    Mutant(
        "test_a_process_that_was_stopped_past_its_lease_settles_nothing_when_it_wakes",
        "the fence is not looked at",
        "engine/stores/sqlite.py",
        FENCED,
        NOT_FENCED,
    ),
    Mutant(
        "test_an_upgrade_of_the_store_that_is_killed_in_the_middle_is_done_whole_or_not_at_all",
        "an upgrade is no transaction",
        "engine/stores/sqlite.py",
        UPGRADED,
        UPGRADED.replace('    db.execute("BEGIN IMMEDIATE")\n', "").replace('    db.execute("COMMIT")\n', ""),
    ),
    Mutant(
        "test_a_refresh_token_lost_by_a_kill_keeps_every_event_until_someone_logs_in",
        "a refused log-in rejects its events",
        "engine/auth.py",
        'return Outcome(OutcomeKind.PAUSE, f"the log-in was refused',
        'return Outcome(OutcomeKind.REJECT, f"the log-in was refused',
    ),
    # several hosts
    Mutant(
        "test_the_lanes_of_a_host_that_is_lost_go_to_another_within_one_lease",
        "a lease does not end by itself",
        "engine/stores/postgres/lanes.py",
        "(until IS NULL OR until <= %b) RETURNING",
        "(until IS NULL OR until <= %b - 3600) RETURNING",
        "postgres",
    ),
    Mutant(
        "test_a_host_that_was_cut_off_in_mid_batch_settles_nothing_late_and_goes_on_by_itself",
        "a lease does not end by itself",
        "engine/stores/postgres/lanes.py",
        "(until IS NULL OR until <= %b) RETURNING",
        "(until IS NULL OR until <= %b - 3600) RETURNING",
    ),
    Mutant(
        "test_clocks_that_differ_by_half_a_minute_cost_no_event_and_send_none_twice",
        "each host goes by its own clock",
        "engine/wiring.py",
        'clock = getattr(store, "clock", None) or SystemClock()',
        "clock = SystemClock()",
        "postgres",
    ),
    Mutant(
        "test_a_rate_and_a_concurrency_hold_over_hosts",
        "each process counts for itself",
        "engine/limits.py",
        'name = f"{self.shared_by(limit.',
        'name = f"{owner.split(chr(47))[0]}{self.shared_by(limit.',
    ),
    Mutant(
        "test_of_three_hosts_whose_token_is_refused_one_logs_in",
        "nobody waits for the log-in of another",
        "engine/auth.py",
        "return wire.store.lock(self.lock(wire), owner=wire.owner, ttl_s=LOCK_TTL_S, now=wire.clock.now())",
        "return True",
    ),
    # the CRM's side
    Mutant(
        "test_after_twelve_hours_of_outage_a_backlog_drains_at_the_vendor_s_pace_and_nothing_is_buried",
        "an outage counts as a try of each delivery",
        "engine/outcomes.py",
        "            return Outcome(OutcomeKind.RETRY, reason, coded, wait, count=False, outage=True)\n",
        "            return Outcome(OutcomeKind.RETRY, reason, coded, wait)\n",
    ),
    Mutant(
        "test_whatever_the_vendor_answers_each_record_has_one_end_and_none_is_lost",
        "a reply without the list of results is a yes",
        "engine/outcomes.py",
        "            return None  # not even an empty list: an error page, or another reply than the author knew\n",
        "            return [DELIVERED for _ in records]\n",
        only="other JSON",
    ),
    Mutant(
        "test_whatever_the_vendor_answers_each_record_has_one_end_and_none_is_lost",
        "the time-out is one for each piece only",
        "engine/sending.py",
        "        ends_at = time.monotonic() + 2 * request.timeout_s  # the library's time-out is one for each piece\n",
        "        ends_at = time.monotonic() + 600\n",
        only="a body that trickles",
    ),
    Mutant(
        "test_a_vendor_that_flaps_gets_every_event_and_buries_none",
        "a connection that breaks is the delivery's fault",
        "engine/outcomes.py",
        "        return Outcome(OutcomeKind.RETRY, reply.reason, count=False, outage=True, private=True)\n",
        "        return Outcome(OutcomeKind.REJECT, reply.reason, private=True)\n",
    ),
    Mutant(
        "test_a_redirect_to_another_host_is_not_followed_and_the_key_stays_here",
        "redirects are followed",
        "engine/sending.py",
        "client._transport.handle_request(asked)",
        "client.send(asked, stream=True, follow_redirects=True)",
    ),
    Mutant(
        "test_a_vendor_whose_clock_is_wrong_is_waited_for_as_long_as_it_means",
        "a date of the vendor's is held against our clock",
        "engine/retrying.py",
        '    since = http_date(reply.headers.get("date", ""))\n',
        "    since = None\n",
    ),
    Mutant(
        "test_a_token_that_is_refused_is_renewed_once_and_the_request_repeated",
        "a refused token is not renewed",
        "engine/exchange.py",
        "            stale = row.obtained_at\n",
        "            stale = None\n",
    ),
    Mutant(
        "test_a_vendor_that_revokes_tokens_in_the_middle_of_batches_gets_each_event_once",
        "a refused token is not renewed",
        "engine/exchange.py",
        "            stale = row.obtained_at\n",
        "            stale = None\n",
    ),
    Mutant(
        "test_a_poisoned_record_among_200_is_found_in_few_requests_and_dies_alone",
        "a refused batch is not halved",
        "engine/steps.py",
        "        if outcome.kind is OutcomeKind.SPLIT and len(undecided) > 1:\n            if failed:\n",
        "        if outcome.kind is OutcomeKind.SPLIT and len(undecided) > 999:\n            if failed:\n",
    ),
    Mutant(
        "test_one_client_in_trouble_among_500_delays_no_other",
        "one lane at a time",
        "engine/spec/project.py",
        "    workers: int = 8\n",
        "    workers: int = 1\n",
    ),
    Mutant(
        "test_lanes_whose_vendor_does_not_answer_take_no_place_from_the_others",
        "a lane that waits for its CRM keeps its place",
        "engine/worker.py",
        "        return time.monotonic() - self.moved_at > STANDS_S\n",
        "        return False\n",
    ),
    # our side
    Mutant(
        "test_a_full_disk_is_told_to_senders_and_nothing_that_was_accepted_is_lost",
        "202 is answered before the commit",
        "engine/door/events.py",
        STORING,
        BEFORE_THE_COMMIT,
        only="filled to the last byte",
    ),
    Mutant(
        "test_a_full_disk_is_told_to_senders_and_nothing_that_was_accepted_is_lost",
        "nothing of the disk is kept free",
        "engine/upkeep/capacity.py",
        "(free := self._free(self._folder)) < MIN_FREE:",
        "(free := self._free(self._folder)) < 0:",
        only="100 MB to be kept free",
    ),
    Mutant(
        "test_what_the_vendor_did_is_written_down_when_there_is_room_again_and_not_asked_a_second_time",
        "what can't be written down is sent again",
        "engine/writing.py",
        "            if waited_s >= patience_s or over():\n",
        "            if True:\n",
    ),
    Mutant(
        "test_a_put_of_a_store_that_is_full_is_whole_or_not_there",
        "each event of a list is committed alone",
        "engine/stores/sqlite.py",
        "        return self._writer.submit(_Put(events, now, now + hold_s, self._new_id))\n",
        "        whole: Future[list[Stored]] = Future()\n"
        "        try:\n"
        "            whole.set_result([stored for one in events for stored in self._writer.submit("
        "_Put([one], now, now + hold_s, self._new_id)).result()])\n"
        "        except StoreUnavailable as error:\n"
        "            whole.set_exception(error)\n"
        "        return whole\n",
    ),
    Mutant(
        "test_a_store_that_another_program_locks_takes_its_events_in_when_it_is_free",
        "a write does not wait for the lock",
        "engine/stores/sqlite.py",
        "        busy_s: float = 10.0,\n",
        "        busy_s: float = 0.0,\n",
    ),
    Mutant(
        "test_a_damaged_store_is_said_plainly_and_never_made_anew",
        "text that bits were flipped in is an error of ours",
        "engine/stores/sqlite.py",
        "_UNREADABLE = (UnicodeDecodeError, msgspec.DecodeError)\n",
        "_UNREADABLE: tuple[type[Exception], ...] = ()\n",
        full=True,
    ),
    Mutant(
        "test_serve_does_not_start_on_a_damaged_store_and_leaves_it_as_it_is",
        "a file that can't be read is made anew",
        "engine/stores/sqlite.py",
        '    db = _connect(path, "rwc", busy_s)\n    try:\n',
        '    db = _connect(path, "rwc", busy_s)\n    try:\n        db.execute("PRAGMA user_version")\n'
        "    except sqlite3.DatabaseError:\n        os.unlink(path)\n"
        '        db = _connect(path, "rwc", busy_s)\n    try:\n',
    ),
    Mutant(
        "test_a_folder_that_may_not_be_written_is_named_at_the_start",
        "what the system says of a read-only file system is not put into words",
        "engine/stores/sqlite.py",
        "    errno.EROFS: _READ_ONLY,\n",
        "",
    ),
    Mutant(
        "test_where_descriptors_run_out_nothing_is_lost_and_it_goes_on_when_they_are_back",
        "connections that say nothing are kept, however few descriptors are left",
        "engine/door/listening.py",
        "        if self.open > self.most and self.waiting:\n",
        "        if False:\n",
    ),
    Mutant(
        "test_a_million_waiting_events_are_delivered_with_256_mb",
        "a lane is read whole",
        "engine/worker.py",
        "                deliveries = self.world.store.read(self.lease, action.name, limit=limit, now=now)\n",
        "                deliveries = self.world.store.read(self.lease, action.name, limit=10_000_000, now=now)\n",
        full=True,
    ),
    Mutant(
        "test_a_clock_that_jumps_by_a_day_loses_nothing_and_buries_nothing",
        "an outage is given up after half a day, not after three",
        "engine/spec/types.py",
        '    give_up_after: Duration = "3d"\n',
        '    give_up_after: Duration = "12h"\n',
    ),
    Mutant(
        "test_without_dns_events_wait_and_go_out_when_it_is_back",
        "a name that is not found is no outage",
        "engine/egress.py",
        "            raise httpcore.ConnectError(str(error)) from None\n        failed",
        "            raise EgressRefused(str(error)) from None\n        failed",
    ),
    # dead letters and people
    Mutant(
        "test_what_is_tried_again_in_an_outage_is_given_up_no_sooner_than_what_is_new",
        "the age of a dead letter counts from its first try",
        "engine/settling.py",
        "max(min(first, since), delivery.again_at or 0.0)",
        "min(first, since)",
    ),
    Mutant(
        "test_dead_letters_from_elsewhere_are_admitted_once_and_accounted_for",
        "what is here is not looked for",
        "engine/stores/sqlite.py",
        "        if letter.delivery_id in here:\n            continue\n",
        "",
    ),
    Mutant(
        "test_of_an_erased_person_no_byte_is_left_in_any_file_of_the_store",
        "rows are removed and the file is not written anew",
        "engine/stores/sqlite.py",
        '    db.execute("VACUUM")\n',
        "",
    ),
    Mutant(
        "test_what_a_worker_writes_down_meanwhile_is_erased_as_well",
        "what was under way is not looked through",
        "engine/privacy/forgetting.py",
        "    again = forget()\n",
        "    again = dict.fromkeys(counts, 0)\n",
    ),
    Mutant(
        "test_whatever_the_vendor_says_no_person_is_in_lanes_logs_alerts_and_reasons",
        "a reason is kept as the CRM wrote it",
        "engine/settling.py",
        "            why = self.program.personal.text(outcome.reason, delivery.body)\n",
        "            why = outcome.reason\n",
    ),
    Mutant(
        "test_what_can_not_be_written_down_is_not_done",
        "an audit that can't be written stops nothing",
        "engine/telemetry/audit.py",
        "            handle = os.open(self.file, os.O_WRONLY",
        "            if os.path.isdir(self.file):\n                return\n"
        "            handle = os.open(self.file, os.O_WRONLY",
    ),
    # senders who mean harm
    Mutant(
        "test_an_honest_sender_is_answered_soon_while",
        "of a body with very many keys each is counted among all others",
        "engine/intake.py",
        "        twice = next(key for key, _ in pairs if key in seen or seen.add(key))",
        "        names = [key for key, _ in pairs]\n        twice = next(key for key in names if names.count(key) > 1)",
        only="duplicate_keys",
    ),
    Mutant(
        "test_every_answer_is_as_documented",
        "the document leaves an answer out",
        "engine/door/published.py",
        '    "400": "Not JSON',
        '    "418": "Not JSON',
        only="responsys-negative",
    ),
    Mutant(
        "test_a_full_store_is_503_before_anything_is_read_and_says_when_to_come_again",
        "a full store is not asked about",
        "engine/door/events.py",
        "        if (why := self._front.full()) is not None:\n",
        "        if False and (why := self._front.full()) is not None:\n",
    ),
    Mutant(
        "test_an_address_above_its_rate_is_429_but_for_health",
        "addresses are not counted",
        "engine/door/events.py",
        "        if self._addresses is not None:\n",
        "        if False and self._addresses is not None:\n",
    ),
    Mutant(
        "test_above_its_rate_a_client_with_a_key_is_refused_before_its_body_is_read",
        "a client is not paced by its key",
        "engine/intake.py",
        "                self.pace(holder, waits)\n",
        "                pass\n",
    ),
    # any input
    Mutant(
        "test_no_event_breaks_a_mapping_it_is_refused_rejected_or_sent",
        "what does not fit in a value is a fault, not a reason",
        "engine/program.py",
        NO_FIT,
        NO_FIT.partition("            except Exception")[1] + NO_FIT.partition("            except Exception")[2],
    ),
    Mutant(
        "test_no_event_breaks_a_mapping_of_any_connector_that_validates",
        "what does not fit in a value is a fault, not a reason",
        "engine/program.py",
        NO_FIT,
        NO_FIT.partition("            except Exception")[1] + NO_FIT.partition("            except Exception")[2],
    ),
    Mutant(
        "test_whatever_is_answered_every_record_has_exactly_one_end",
        "a body that is no JSON breaks the reading of the reply",
        "engine/http.py",
        "        return json_or_none(self.content)\n",
        '        return __import__("json").loads(self.content)\n',
    ),
    Mutant(
        "test_a_text_lands_as_it_is_in_json_form_and_query",
        "values of a form are not encoded",
        "engine/sending.py",
        "            return urlencode(fields).encode(), ",
        '            return "&".join(f"{name}={value}" for name, value in fields).encode(), ',
    ),
    Mutant(
        "test_a_hole_of_a_path_is_exactly_one_segment_or_rejects",
        "a hole of a path is not encoded",
        "engine/notations/semantics.py",
        '    return quote(found, safe="")\n\n\n_HOST = ',
        "    return found\n\n\n_HOST = ",
    ),
    Mutant(
        "test_no_text_in_a_hole_changes_the_structure_of_html",
        "a hole of HTML is not escaped",
        "engine/notations/semantics.py",
        "    return None if found is None else escape(found)\n\n\ndef html_link",
        "    return found\n\n\ndef html_link",
    ),
    Mutant(
        "test_a_hole_of_a_query_stays_one_literal",
        "quotes in a literal of SOQL are left as they are",
        "engine/notations/semantics.py",
        "lambda text: text.translate(_SOQL))",
        "lambda text: text)",
    ),
    Mutant(
        "test_a_header_carries_no_line_break",
        "a header carries anything",
        "engine/sending.py",
        "    if not _HEADER.match(text):\n",
        "    if False:\n",
    ),
    Mutant(
        "test_a_cell_of_csv_stays_one_cell",
        "cells are not quoted",
        "engine/bodies.py",
        "    writer = csv.writer(lines, ",
        '    writer = csv.writer(lines, quoting=csv.QUOTE_NONE, escapechar="\\\\", ',
    ),
    Mutant(
        "tests/torture/test_model.py",
        "the fence is not looked at (SQLite)",
        "engine/stores/sqlite.py",
        FENCED,
        NOT_FENCED,
    ),
    Mutant(
        "tests/torture/test_model.py",
        "the fence is not looked at (memory)",
        "engine/stores/memory.py",
        "        if name not in self._lanes or (self._lanes[name].fence, self._lanes[name].owner)"
        " != (lease.fence, lease.owner):\n",
        "        if name not in self._lanes:\n",
    ),
    Mutant(
        "test_no_window_holds_more_than_its_rate_whoever_asks_when",
        "one more in each window (SQLite)",
        "engine/stores/sqlite.py",
        "    leaves = total + cost - count\n",
        "    leaves = total + cost - count - 1\n",
    ),
    Mutant(
        "test_no_window_holds_more_than_its_rate_whoever_asks_when",
        "one more in each window (memory)",
        "engine/stores/memory.py",
        "        room = count - sum(spent for _, spent in uses)\n",
        "        room = count + 1 - sum(spent for _, spent in uses)\n",
    ),
    Mutant(
        "test_four_processes_of_three_threads_never_exceed_a_rate_in_any_window",
        "one more in each window",
        "engine/stores/sqlite.py",
        "    leaves = total + cost - count\n",
        "    leaves = total + cost - count - 1\n",
    ),
    Mutant(
        "test_any_value_gives_a_wait_within_bounds_or_none",
        "what a vendor says is waited for",
        "engine/retrying.py",
        "    return None if at is None else min(max(at - now, 0.0), longest)\n",
        "    return None if at is None else at - now\n",
    ),
    Mutant(
        "test_jitter_takes_between_half_and_the_whole_of_the_wait",
        "the wait may be none at all",
        "engine/retrying.py",
        "(0.5 + 0.5 * self.jitter())",
        "self.jitter()",
    ),
    Mutant(
        "test_count_and_bytes_are_never_exceeded_and_order_is_kept",
        "one more in each batch",
        "engine/batching.py",
        "len(current) >= self.records or",
        "len(current) > self.records or",
    ),
)


def place(test: str) -> str:
    """Where a test stands, as pytest is told."""
    if test.startswith("tests/"):
        return test
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if f"def {test}(" in file.read_text("utf-8")]
    assert len(files) == 1, f"{test} stands in {len(files)} files"
    return f"{files[0].relative_to(ROOT)}::{test}"


def copied(folder: Path) -> Path:
    """The project as it is now, without what git leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def failed(mutant: Mutant, folder: Path) -> str:
    """What the test says in a copy without this; empty where it passes."""
    file = folder / mutant.file
    good = file.read_text(encoding="utf-8")
    assert good.count(mutant.old) == 1, f"{mutant.file} has {good.count(mutant.old)} times: {mutant.old}"
    file.write_text(good.replace(mutant.old, mutant.new), encoding="utf-8")
    where = place(mutant.test)
    env = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "CONNECT_TORTURE": "full" if mutant.full else "",
        "CONNECT_MUTANT": "1",
    }  # which input is the smallest that fails is of no interest
    env.pop("CONNECT_FIGURES", None)
    run = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        f"{where}[{mutant.only}]" if mutant.only else where,
    ]
    try:
        done = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return ""
    finally:
        file.write_text(good, encoding="utf-8")
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    return said(done.stdout) if done.returncode else ""


def said(output: str) -> str:
    """The first thing that was wrong, in one line."""
    of_several = r"^[ |+]*\b(\w+(?:Error|Group)\b.*)$"
    lines = re.findall(r"^E {3,}(\S.*)$", output, re.MULTILINE) or re.findall(of_several, output, re.MULTILINE)
    lines = lines or [output.strip().splitlines()[-1]]
    line = re.sub(r"(?:/[\w.-]+)+/", "", lines[0]).replace("|", "/").replace("`", "'")
    return line if len(line) <= 140 else line[:140] + "…"


def main(words: list[str]) -> int:
    import json

    from page import KEPT, written_anew

    noted = json.loads(KEPT.read_text(encoding="utf-8")).get("mutants", {})
    chosen = [
        mutant
        for mutant in MUTANTS
        if (name_of(mutant) not in noted if words == ["new"] else any(word in mutant.test for word in words or [""]))
    ]
    survived = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        asked = [sys.executable, "-c", "import engine; print(engine.__file__)"]
        env = {**os.environ, "PYTHONPATH": str(folder)}
        found = subprocess.run(asked, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout.strip()
        assert found == str(folder / "engine" / "__init__.py"), f"the copy is not what runs: {found}"
        for number, mutant in enumerate(chosen, 1):
            print(f"[{number}/{len(chosen)}] {mutant.test}: {mutant.taken} … ", end="", flush=True)
            began = time.monotonic()
            what = failed(mutant, folder)
            print(f"{time.monotonic() - began:.0f} s: {what or 'IT DID NOT FAIL'}", flush=True)
            kept = json.loads(KEPT.read_text(encoding="utf-8"))
            known = {name_of(one) for one in MUTANTS}
            kept["mutants"] = {name: text for name, text in kept.get("mutants", {}).items() if name in known}
            kept["mutants"].pop(name_of(mutant), None)
            if what:
                kept["mutants"][name_of(mutant)] = what
            else:
                survived.append(mutant)
            written_anew(kept)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} tests failed without what they are there for")
    return 1 if survived else 0


def name_of(mutant: Mutant) -> str:
    return f"{mutant.test}: {mutant.taken}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
