"""What can go wrong on a device."""

from wire_protocol.errors import FisherfleetError


class ConfigError(FisherfleetError):
    """The device's configuration file is missing or wrong; the text names file, field, value and what is legal."""


class BundleError(FisherfleetError):
    """A bundle or a model could not be fetched, or is not what its hash says."""


class UnreachableError(BundleError):
    """The server could not be reached, or gave no whole file, however often it was asked; that may pass."""


class AbsentError(BundleError):
    """The server has no such file, or gives it to nobody."""


class SpoiltError(BundleError):
    """What comes, however often it is asked for, or what was made here is not what its hash says."""


class TrainingError(FisherfleetError):
    """The runtime cannot train this sub-model, or training diverged."""


class StoppedError(TrainingError):
    """The training was ended from outside."""


class PausedError(FisherfleetError):
    """The owner's limits say that no round is to begin now."""


class CannotAffordError(FisherfleetError):
    """What a round needs at least is more than the owner's limits or the deadline leave."""


class SliceError(FisherfleetError):
    """A slice does not hold the values of the neurons this device kept."""


class LinkError(FisherfleetError):
    """A message could not be handed to the broker: the link is down or too slow."""


class OutboxError(FisherfleetError):
    """The disk has no room for an update, or cannot be written; that may pass."""


class DamagedFileError(FisherfleetError):
    """A file of the device's state is not as it was written."""


class BudgetSpentError(FisherfleetError):
    """What a private round would reveal is more than the owner allows; nothing was charged."""


class LedgerError(FisherfleetError):
    """The privacy ledger is not as it was left; no private round begins until the owner says so."""


class LedgerDiskError(FisherfleetError):
    """The privacy ledger cannot be read or written now; that may pass."""


class PrivacyError(FisherfleetError):
    """What a private run must not send was about to be sent."""


class NotPrivateError(FisherfleetError):
    """The owner lets the device take part in private runs only, and this one is not."""


class EnrolmentError(FisherfleetError):
    """The device was not enrolled; the text says who refused what."""


class StartAgainError(FisherfleetError):
    """The process is to end and to be started again; the text says what for."""


class ReleaseError(FisherfleetError):
    """A release of the client is not what its signed words say, or not for this device."""


class ReleaseDiskError(ReleaseError):
    """The disk has no room for a release, or cannot be written; that may pass."""
