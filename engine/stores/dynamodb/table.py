"""One table: its shape, the calls to it, and what is said when they fail."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from engine.clock import SharedClock
from engine.errors import StoreUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

VERSION = 1  # of what lies in the table
KEYS = {"pk": "HASH", "sk": "RANGE"}
INDEX = "due"  # of the lanes that have something to do, or may have; all others are not in it
INDEX_KEYS = {"gpk": "HASH", "gsk": "RANGE"}
TYPES = {"pk": "S", "sk": "S", "gpk": "S", "gsk": "N"}
MOST_IN_WRITE = 25  # items of one BatchWriteItem
MOST_IN_GET = 100
MOST_IN_TRANSACTION = 100
THREADS = 32
PATIENCE_S = 30.0  # for what is throttled or in conflict
TRIES = 5  # of a request that was not answered, or throttled

Item = dict[str, Any]  # as DynamoDB writes it: {"pk": {"S": "…"}, …}
_ANOTHER = "give the store a table of its own: another name, with `&create=1` if it is to be made"
_META = {"pk": {"S": "meta"}, "sk": {"S": "meta"}}


class Unmet(Exception):
    """A condition was not met: what stood there instead, by the place of the operation in its transaction."""

    def __init__(self, items: dict[int, Item | None]) -> None:
        super().__init__(sorted(items))
        self.items = items


class Table:
    """
    A table of one region, checked when it is opened and made where `create` says so.

    `closed` makes every later call fail; `sleep` is between two tries of what DynamoDB puts off.
    """

    def __init__(
        self,
        name: str,
        region: str,
        *,
        endpoint: str | None = None,
        create: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.region, self.endpoint = name, region, endpoint
        self.sleep = sleep
        self.clock = SharedClock()  # by what each reply says of DynamoDB's time
        self.closed = False
        self.client = _client(region, endpoint)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dynamodb")
        self._gate = threading.Lock()
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"dynamodb://{self.name}?region={self.region}"

    def close(self) -> None:
        with self._gate:
            if self.closed:
                return
            self.closed = True
        self.threads.shutdown()
        self.client.close()

    # What it is

    def _open(self, create: bool) -> None:
        try:
            meta = self.get(_META)
        except _Missing:
            if not create:
                raise StoreUnavailable(
                    f"{self}: there is no such table; make it with `&create=1` at the end of the store's URL, or deploy"
                    " the template of `connect deploy aws`"
                ) from None
            self._create()
            meta = None
        except _Misfit:
            self._refuse_shape()
            raise
        if meta is None:
            self._refuse_shape()
            meta = {**_META, "store": {"S": "daxgo-connect"}, "version": {"N": str(VERSION)}}
            try:
                self.put(meta, "attribute_not_exists(pk)")
            except Unmet as found:
                meta = found.items[0] or meta
        if meta.get("store") != {"S": "daxgo-connect"}:
            raise StoreUnavailable(f"{self}: the table belongs to something else than DaxGO Connect; {_ANOTHER}")
        self._known(meta)

    def _known(self, meta: Item) -> int:
        version = int(meta["version"]["N"])
        if version > VERSION:
            raise StoreUnavailable(
                f"{self} is of schema {version}; this is a DaxGO Connect for schema {VERSION}: install a newer one"
            )
        return version

    def _create(self) -> None:
        try:
            self._make()
        except _Taken:  # another process was started at the same time, and does the rest, too
            self._await()
            return
        self._await()
        self.call("update_time_to_live", TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"})

    def _await(self) -> None:
        waiter = self.client.get_waiter("table_exists")
        waiter.wait(TableName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})

    def _make(self) -> None:
        self.call(
            "create_table",
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in KEYS.items()],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in TYPES.items()],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": INDEX,
                    "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in INDEX_KEYS.items()],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
        )

    def _refuse_shape(self) -> None:
        """StoreUnavailable where the table has other keys, or is in use by something that left no word of ours."""
        found = self.call("describe_table")["Table"]
        shape = {
            "keys": _keys(found["KeySchema"]),
            **{
                f"index {index['IndexName']}": _keys(index["KeySchema"])
                for index in found.get("GlobalSecondaryIndexes", [])
            },
        }
        wanted = {"keys": KEYS, f"index {INDEX}": INDEX_KEYS}
        types = {each["AttributeName"]: each["AttributeType"] for each in found["AttributeDefinitions"]}
        if any(shape.get(name) != keys for name, keys in wanted.items()) or not types.items() >= TYPES.items():
            raise StoreUnavailable(
                f"{self}: the table has {_said(shape)}; a store has {_said(wanted)},"
                f" all of type S but for gsk, which is N; {_ANOTHER}"
            )
        if found.get("ItemCount") and self.get(_META) is None:  # else another process has just begun with it
            raise StoreUnavailable(f"{self}: the table holds {found['ItemCount']} items of something else; {_ANOTHER}")

    # Calls

    def call(self, verb: str, **given: Any) -> dict[str, Any]:
        """The table is added. Unmet, LookupErrors of this module, or StoreUnavailable in a plain sentence."""
        if self.closed:
            raise StoreUnavailable(f"{self}: the store is closed")
        if not verb.startswith(("batch_", "transact_")):
            given["TableName"] = self.name
        sent = time.monotonic()
        try:
            reply = dict(getattr(self.client, verb)(**given))
        except Exception as error:
            raise self._told(error) from None
        self._hear(reply, sent)
        return reply

    def _hear(self, reply: dict[str, Any], sent: float) -> None:
        """The moment that stands in the head of a reply; without the part of a second."""
        date = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is not None and (moment := _moment(date)) is not None:
            self.clock.told(moment, moment + 1, sent=sent, received=time.monotonic())

    def _told(self, error: Exception) -> Exception:
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            return self._refused(error)
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return StoreUnavailable(
                f"{self}: there are no AWS credentials; give the process a role, or AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY"
            )
        if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
            where = self.endpoint or f"DynamoDB in {self.region}"
            return StoreUnavailable(f"{self}: {where} does not answer ({type(error).__name__})")
        if isinstance(error, exceptions.BotoCoreError):
            return StoreUnavailable(f"{self}: {type(error).__name__}")
        return error

    def _refused(self, error: Any) -> Exception:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "ConditionalCheckFailedException":
            return Unmet({0: error.response.get("Item")})
        if code == "TransactionCanceledException":
            reasons = error.response.get("CancellationReasons", [])
            codes = {each["Code"] for each in reasons} - {"None", "ConditionalCheckFailed"}
            if any(
                code not in ("TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded")
                for code in codes
            ):
                return StoreUnavailable(f"{self}: a transaction was refused: {', '.join(sorted(codes))}")
            if codes:
                return _Busy()
            return Unmet({at: each.get("Item") for at, each in enumerate(reasons) if each["Code"] != "None"})
        if code in ("TransactionConflictException", "TransactionInProgressException"):
            return _Busy()
        if code == "ResourceInUseException":
            return _Taken(f"{self}: the table is being made or changed")
        if code == "ResourceNotFoundException":
            return _Missing(f"{self}: there is no such table, or not yet")
        if code == "ValidationException" and ("key" in message.lower() or "schema" in message):
            return _Misfit(f"{self}: the table has other keys than a store; {_ANOTHER}")
        if code in ("UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"):
            return StoreUnavailable(f"{self}: AWS refuses the credentials ({code}); give the process others")
        if code == "AccessDeniedException":
            action = message.partition("perform: ")[2].split(" ")[0] or "what is needed"
            return StoreUnavailable(
                f"{self}: the credentials do not allow {action} on the table; add it to the role or user"
            )
        if code in ("ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"):
            return StoreUnavailable(f"{self}: DynamoDB asks to slow down, and still does after many tries")
        return StoreUnavailable(f"{self}: DynamoDB refuses with {code}")

    # Items

    def get(self, key: Item, *, consistent: bool = True) -> Item | None:
        found: Item | None = self.call("get_item", Key=key, ConsistentRead=consistent).get("Item")
        return found

    def put(self, item: Item, condition: str | None = None, values: Item | None = None, names: Any = None) -> None:
        """Unmet, with what stands there, where the condition is not met."""
        self.call("put_item", **conditional({"Item": item}, condition, values, names))

    def update(self, key: Item, expression: str, values: Item, condition: str | None = None, names: Any = None) -> Item:
        """The item as it is now."""
        given = conditional({"Key": key, "UpdateExpression": expression}, condition, values, names)
        return dict(self.call("update_item", **given, ReturnValues="ALL_NEW")["Attributes"])

    def delete(self, key: Item, condition: str | None = None, values: Item | None = None) -> None:
        self.call("delete_item", **conditional({"Key": key}, condition, values, None))

    def transact(self, operations: Sequence[Item]) -> None:
        """All or none. Unmet where a condition was not met; conflicts with others are tried again."""
        for operation in operations:
            for given in operation.values():
                given["TableName"] = self.name
        for _ in self.patiently("others change the same items all the time"):
            try:
                self.call("transact_write_items", TransactItems=list(operations))
                return
            except _Busy:
                continue

    def write(self, requests: Iterable[Item]) -> None:
        """Put and delete requests, unconditional, in no order; returns when all are done."""
        parts = list(_parts(list(requests), MOST_IN_WRITE))
        self.each(self._write_part, parts)

    def _write_part(self, requests: list[Item]) -> None:
        for _ in self.patiently("DynamoDB asks to slow down"):
            reply = self.call("batch_write_item", RequestItems={self.name: requests})
            requests = reply.get("UnprocessedItems", {}).get(self.name, [])
            if not requests:
                return

    def get_all(self, keys: Iterable[Item], *, consistent: bool = True) -> list[Item]:
        """Those that are there, in no order."""
        found: list[Item] = []
        for part in self.each(lambda keys: self._get_part(keys, consistent), list(_parts(list(keys), MOST_IN_GET))):
            found += part
        return found

    def _get_part(self, keys: list[Item], consistent: bool) -> list[Item]:
        found: list[Item] = []
        for _ in self.patiently("DynamoDB asks to slow down"):
            asked = {self.name: {"Keys": keys, "ConsistentRead": consistent}}
            reply = self.call("batch_get_item", RequestItems=asked)
            found += reply["Responses"].get(self.name, [])
            keys = reply.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if not keys:
                break
        return found

    def pages(
        self,
        condition: str,
        values: Item,
        *,
        limit: int | None = None,
        **given: Any,
    ) -> Iterator[dict[str, Any]]:
        """The pages of a query; `limit` items are evaluated at most."""
        left = limit
        while True:
            if left is not None:
                given["Limit"] = left
            page = self.call("query", KeyConditionExpression=condition, ExpressionAttributeValues=values, **given)
            yield page
            if left is not None:
                left -= page["ScannedCount"]
            if "LastEvaluatedKey" not in page or left == 0:
                return
            given["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def query(self, condition: str, values: Item, *, limit: int | None = None, **given: Any) -> list[Item]:
        return [item for page in self.pages(condition, values, limit=limit, **given) for item in page["Items"]]

    def each(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """The results, in order; several at once where there are several."""
        if len(parts) < 2:
            return [work(part) for part in parts]
        if self.closed:
            raise StoreUnavailable(f"{self}: the store is closed")
        futures = [self.threads.submit(work, part) for part in parts]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]

    def patiently(self, why: str) -> Iterator[int]:
        """Tries, ever further apart; StoreUnavailable when they have gone on for too long."""
        wait_s, waited_s, tried = 0.01, 0.0, 0
        while waited_s < PATIENCE_S:
            yield tried
            pause_s = wait_s * (0.5 + random.random())
            self.sleep(pause_s)
            waited_s, wait_s, tried = waited_s + pause_s, min(wait_s * 2, 2.0), tried + 1
        raise StoreUnavailable(f"{self}: {why}")


class _Looked(Table):
    """A table that is asked for its version only."""

    def _open(self, create: bool) -> None:
        del create

    def version(self) -> int | None:
        try:
            meta = self.get(_META)
        except _Missing:
            return None
        except _Misfit:
            self._refuse_shape()
            raise
        return None if meta is None else self._known(meta)


def version_of(name: str, region: str, *, endpoint: str | None = None) -> int | None:
    """Of what lies in the table; None where there is no table, or nothing of ours in it. Nothing is changed."""
    table = _Looked(name, region, endpoint=endpoint)
    try:
        return table.version()
    finally:
        table.close()


class _Busy(Exception):
    """Another transaction has the item."""


class _Taken(StoreUnavailable):
    """There is such a table already."""


class _Missing(StoreUnavailable):
    """No such table."""


class _Misfit(StoreUnavailable):
    """A table with other keys."""


def conditional(given: Item, condition: str | None, values: Item | None, names: Any) -> Item:
    """An operation with a condition, as a call and a transaction take it."""
    if condition is not None:
        given |= {"ConditionExpression": condition, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    if values:
        given["ExpressionAttributeValues"] = values
    if names:
        given["ExpressionAttributeNames"] = names
    return given


def _client(region: str, endpoint: str | None) -> Any:
    try:
        import boto3
    except ImportError:
        raise UsageError("a store in DynamoDB needs boto3; pip install 'daxgo-connect[aws]'") from None
    from botocore.config import Config

    config = Config(
        max_pool_connections=THREADS + 16,
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "adaptive", "total_max_attempts": TRIES},
        user_agent_extra="daxgo-connect",
    )
    return boto3.session.Session().client("dynamodb", region_name=region, endpoint_url=endpoint, config=config)


@lru_cache(8)
def _moment(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _keys(schema: list[dict[str, str]]) -> dict[str, str]:
    return {each["AttributeName"]: each["KeyType"] for each in schema}


def _said(shape: dict[str, dict[str, str]]) -> str:
    return ", ".join(f"{name} {'+'.join(keys)}" for name, keys in shape.items())


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
