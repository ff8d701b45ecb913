"""A store in memory that has tokens and locks from another: for what is sent once, past the lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.stores.memory import MemoryStore

if TYPE_CHECKING:
    from engine.ports import Store
    from engine.records import TokenRow


class LentTokens(MemoryStore):
    """`lender` may come later; it is closed with this one."""

    lender: Store | None = None

    def token(self, connector: str, client: str, name: str) -> TokenRow | None:
        if self.lender is None:
            return super().token(connector, client, name)
        return self.lender.token(connector, client, name)

    def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
        if self.lender is None:
            super().save_token(connector, client, name, row)
        else:
            self.lender.save_token(connector, client, name, row)

    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        if self.lender is None:
            return super().lock(name, owner=owner, ttl_s=ttl_s, now=now)
        return self.lender.lock(name, owner=owner, ttl_s=ttl_s, now=now)

    def unlock(self, name: str, *, owner: str) -> None:
        if self.lender is None:
            super().unlock(name, owner=owner)
        else:
            self.lender.unlock(name, owner=owner)

    def close(self) -> None:
        super().close()
        if self.lender is not None:
            self.lender.close()
