"""The crew: workers in processes of their own, from their hiring to their burial.

It knows neither pipes nor clusters. A worker that dies, or says nothing for too long, is replaced
where there is room; one that cannot even start is tried three times, so that a broken device does
not stop the others, nor is tried for ever.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sweep.errors import StudyError
from sweep.messages import Conducting, Event, Order, Quit, Vitals

log = logging.getLogger(__name__)

_TICK_S = 0.3  # how often the loop looks up from its workers, for signals
_STARTS = 3  # in a row, after which a worker that never speaks is given up
_START_S = 300.0  # in which a worker says its first word, or more if it may be silent for longer


class Gone(Exception):
    """A worker can no longer be spoken to."""


class Evicted(Gone):
    """It can no longer be spoken to, because its whole machine is gone: no fault of its own."""


class Link(Protocol):
    """One worker, and this side's end of what connects it."""

    name: str

    def is_placed(self) -> bool:
        """Whether it has a device, and may be expected to speak."""

    def hear(self) -> Sequence[Event]:
        """What it says; only after `Site.listen` has returned it. Errors: Gone."""

    def tell(self, orders: Sequence[Order]) -> None:
        """Answers what it said. Errors: Gone."""

    def terminate(self) -> None:
        """Begins to end it."""

    def bury(self) -> str:
        """Ends it and all it has started; says how it died."""


AnyLink = TypeVar("AnyLink", bound=Link)


class Site(Protocol[AnyLink]):
    """Where workers live."""

    def names(self) -> Sequence[str]:
        """A name for each worker that there is room for at present."""

    def start(self, name: str) -> AnyLink: ...

    def listen(self, links: Sequence[AnyLink], timeout_s: float) -> Sequence[AnyLink]:
        """Those that have something to say, or are gone; waits for the first."""

    def last_words(self, name: str) -> str:
        """What its log says last, and where the log is."""


@dataclass
class Member(Generic[AnyLink]):
    """A worker of the crew. `heard_s` is when it was last known to be well."""

    link: AnyLink
    heard_s: float
    spoke: bool = False
    dismissed: bool = False


class Crew(Generic[AnyLink]):
    """All workers of a study. `silence_s` is how long one may say nothing."""

    def __init__(
        self,
        conductor: Conducting,
        site: Site[AnyLink],
        silence_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conductor, self._site, self._silence_s = conductor, site, silence_s
        self._clock = clock
        self._members: dict[str, Member[AnyLink]] = {}
        self._closed: set[str] = set()  # names that are not hired again
        self._mute: Counter[str] = Counter()  # how often a name died before it spoke
        self._over = False  # somebody was told to quit, so nothing is left to start

    def work(self) -> None:
        """Carries messages until every worker has quit, or the conductor says halt.

        Errors: StudyError when no worker could say a word; a log says why.
        """
        try:
            self._hire()
            while self._members and not self._conductor.halted:
                self._attend()
        finally:
            for member in self._members.values():
                member.link.terminate()
            for member in self._members.values():
                member.link.bury()

    def _attend(self) -> None:
        """One round: answers all who have something to say, then writes, then looks around."""
        links = [member.link for member in self._members.values()]
        for link in self._site.listen(links, _TICK_S):
            self._converse(self._members[link.name])
        self._conductor.flush()
        self._end_the_silent()
        self._hire()

    def _converse(self, member: Member[AnyLink]) -> None:
        link = member.link
        try:
            events = link.hear()
            if not all(isinstance(event, Vitals) for event in events):
                member.spoke, member.heard_s = True, self._clock()
            orders = self._conductor.exchange(link.name, events)
            member.dismissed |= any(isinstance(order, Quit) for order in orders)
            self._over |= member.dismissed
            link.tell(orders)
        except Gone as end:
            self._bury(member, "worker died ({how})", evicted=isinstance(end, Evicted))

    def _end_the_silent(self) -> None:
        """Ends those that have hung, and those that would come too late."""
        now_s = self._clock()
        for member in list(self._members.values()):
            if not member.link.is_placed():
                member.heard_s = now_s
            if self._over and not member.spoke:
                member.dismissed = True
                member.link.terminate()
                self._bury(member, "")
            elif now_s - member.heard_s > self._patience_s(member):
                member.link.terminate()
                silence = f"it said nothing for {now_s - member.heard_s:.0f} s"
                self._bury(member, f"worker hung, {silence}")
            elif why := self._conductor.overdue(member.link.name):
                member.link.terminate()
                self._bury(member, f"worker ended, {why}")

    def _patience_s(self, member: Member[AnyLink]) -> float:
        limit_s = math.inf if self._silence_s is None else self._silence_s
        return limit_s if member.spoke else max(limit_s, _START_S)

    def _bury(self, member: Member[AnyLink], reason: str, evicted: bool = False) -> None:
        how, name = member.link.bury(), member.link.name
        del self._members[name]
        self._conductor.lost(name, reason.format(how=how))
        if member.spoke:
            del self._mute[name]
        if member.dismissed:
            self._closed.add(name)
        elif not member.spoke and not evicted:
            self._retry_or_give_up(name, how)

    def _retry_or_give_up(self, name: str, how: str) -> None:
        self._mute[name] += 1
        if self._mute[name] < _STARTS:
            return
        self._closed.add(name)
        problem = f"{name} could not start ({how}): {self._site.last_words(name)}"
        if self._closed.issuperset(self._site.names()) and not self._over:
            raise StudyError(problem)
        log.warning("%s; the others go on", problem)

    def _hire(self) -> None:
        """Starts a worker for each free place, but no more than there are trials left."""
        if self._over or self._conductor.draining:
            return
        left = self._conductor.total - self._conductor.ended
        for name in self._site.names():
            if len(self._members) >= left:
                return
            if name not in self._members and name not in self._closed:
                self._members[name] = Member(self._site.start(name), self._clock())
