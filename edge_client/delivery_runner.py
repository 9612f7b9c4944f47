"""Carries out what the state machine of the outbox asks for: announces and sends parcels, and settles receipts.

Payloads are read from disk when chunks of them are asked for, one at a time, and are not held otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial

from edge_client import delivery_events as ev
from edge_client.delivery import Delivery, advance, begin, due, holds
from edge_client.device_store import DeviceStore, Stored
from edge_client.errors import DamagedFileError, LinkError, OutboxError
from edge_client.link_account import LinkAccount
from edge_client.machine_host import Machine, MachineHost
from edge_client.mqtt_link import MqttLink
from edge_client.outbox import Parcel
from wire_protocol import topics
from wire_protocol.chunking import chunk
from wire_protocol.messages import Need, Receipt, encode

logger = logging.getLogger(__name__)


class DeliveryRunner:
    """The outbox of one device, on its way.

    `settled` is told of every parcel that leaves it, and of its receipt; None says that it was lost.
    """

    def __init__(
        self,
        name: str,
        store: DeviceStore,
        link: MqttLink,
        settled: Callable[[Parcel, Receipt | None], None],
        account: LinkAccount,
    ) -> None:
        self._name = name
        self._store = store
        self._link = link
        self._settled = settled
        self._account = account
        machine: Machine[Delivery, ev.Command] = Machine(advance, due, self._carry_out)
        self._host = MachineHost(machine, begin(store.parcels))
        self._sending: asyncio.Task[None] | None = None
        if store.parcels:
            logger.info("%s: %d updates of earlier rounds wait in the outbox", name, len(store.parcels))

    def link_up(self) -> None:
        """Messages can be sent."""
        self._host.post(ev.Connected)

    def link_down(self) -> None:
        """No message is acknowledged any more; what is being sent need not be waited for."""
        self._host.post(ev.Disconnected)
        self._account.lost()
        if self._sending is not None:
            self._sending.cancel()

    def stored(self, stored: Stored) -> None:
        """A payload has reached the outbox."""
        for parcel in stored.dropped:
            self._lose(parcel)
        self._host.post(partial(ev.Added, parcel=stored.parcel))

    def need_arrived(self, need: Need) -> None:
        """The server has room for chunks."""
        self._host.post(partial(ev.NeedArrived, need=need))

    def receipt_arrived(self, receipt: Receipt) -> None:
        """The server's last word on an update."""
        self._account.receipt((receipt.run, receipt.round), asyncio.get_running_loop().time())
        self._host.post(partial(ev.ReceiptArrived, receipt=receipt))

    async def close(self) -> None:
        """End what is going on."""
        await self._host.close()

    def _carry_out(self, command: ev.Command) -> None:
        if isinstance(command, ev.Settle):
            self._tell(command)
            self._host.spawn(asyncio.to_thread(self._settle, command))
        else:
            self._sending = self._host.spawn(self._send(command))
            self._sending.add_done_callback(lambda _task: self._host.post(ev.Transmitted))

    def _settle(self, command: ev.Settle) -> None:
        self._store.settle(command.parcel, command.receipt.accepted)
        self._account.save()

    async def _send(self, command: ev.Announce | ev.SendChunks) -> None:
        where = self._where(command.parcel)
        try:
            if isinstance(command, ev.Announce):
                await self._publish(command.parcel, None, encode(command.parcel.manifest))
                logger.debug("%s: announced", where)
            else:
                payload = await asyncio.to_thread(self._store.payload, command.parcel)
                sent = await self._publish_chunks(command, payload)
                logger.info("%s: sent %d bytes", where, sent)
        except LinkError as error:
            logger.warning("%s: sending was cut short: %s", where, error)
        except DamagedFileError as error:
            logger.warning("%s: %s", where, error)
            self._lose(command.parcel)
        except OutboxError as error:
            logger.warning("%s: %s", where, error)
        except Exception:
            logger.exception("%s: sending failed", where)

    async def _publish_chunks(self, command: ev.SendChunks, payload: bytes) -> int:
        sent = 0
        for index, content in _pieces(command, payload):
            if not holds(self._host.state, command.parcel):
                break
            await self._publish(command.parcel, index, content)
            sent += len(content)
        return sent

    async def _publish(self, parcel: Parcel, index: int | None, content: bytes) -> None:
        key, now = (parcel.run, parcel.round), asyncio.get_running_loop().time()
        if index is None:
            self._account.carried(len(content))
        else:
            self._account.sent(key, len(content), now)
        await self._link.publish(topics.uplink(topics.Part(self._name, parcel.run, parcel.round, index)), content)

    def _tell(self, command: ev.Settle) -> None:
        """At once, and not when the disk is done: the plan of the next round may follow the receipt."""
        parcel, receipt = command.parcel, command.receipt
        if not receipt.accepted:
            logger.warning("%s: not counted: %.300r", self._where(parcel), receipt.reason)
        else:
            logger.info("%s: counted by the server", self._where(parcel))
        self._settled(parcel, receipt)

    def _lose(self, parcel: Parcel) -> None:
        self._host.post(partial(ev.Removed, parcel=parcel))
        self._settled(parcel, None)

    def _where(self, parcel: Parcel) -> str:
        return f"{self._name}: run {parcel.run} round {parcel.round}"


def _pieces(command: ev.SendChunks, payload: bytes) -> Iterator[tuple[int, bytes]]:
    return ((index, chunk(payload, command.parcel.manifest, index)) for index in command.chunks)
