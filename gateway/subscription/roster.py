"""The open streams of a process, found by session and by the tenant that reads them."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.subscription.subscription import Subscription


class Roster:
    """Who is open now. A subscription is under the tenant of its grant, so a grant that names another one moves it."""

    def __init__(self) -> None:
        self._by_session: dict[str, Subscription] = {}
        self._by_tenant: dict[str, set[Subscription]] = {}

    def __len__(self) -> int:
        return len(self._by_session)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_session.values())

    def add(self, subscription: Subscription) -> None:
        """From now on it is found."""
        self._by_session[subscription.session] = subscription
        self._by_tenant.setdefault(subscription.grant.tenant, set()).add(subscription)

    def remove(self, subscription: Subscription) -> None:
        """It has ended. Raises KeyError where it is not here."""
        del self._by_session[subscription.session]
        self._leave(subscription.grant.tenant, subscription)

    def move(self, subscription: Subscription, *, tenant: str) -> None:
        """Its next grant will be this tenant's; told before the grant changes hands."""
        before = subscription.grant.tenant
        if tenant != before:
            self._leave(before, subscription)
            self._by_tenant.setdefault(tenant, set()).add(subscription)

    def _leave(self, tenant: str, subscription: Subscription) -> None:
        beside = self._by_tenant[tenant]
        beside.remove(subscription)
        if not beside:
            del self._by_tenant[tenant]

    def get(self, session: str) -> Subscription | None:
        """The one of this session, None where there is none."""
        return self._by_session.get(session)

    def tenants(self) -> list[str]:
        """Every tenant that reads something here."""
        return list(self._by_tenant)

    def of_tenant(self, tenant: str) -> list[Subscription]:
        """What this tenant reads here."""
        return list(self._by_tenant.get(tenant, ()))
