"""What can go wrong on the server; every text is one line fit for an operator."""

from wire_protocol.errors import FisherfleetError


class ServerError(FisherfleetError):
    """Parent of the server's errors."""


class BundleError(ServerError):
    """A bundle folder is missing, incomplete, or not what its manifest says."""


class StorageError(ServerError):
    """The state folder or its database cannot be read or written, or holds another run under this name."""


class DamagedError(ServerError):
    """What the server wrote down cannot be read back as it was."""


class LinkError(ServerError):
    """The link to the broker cannot be set up at all, whatever is tried again."""


class AddressError(ServerError):
    """The HTTP address cannot be listened on."""


class NobodyCanError(ServerError):
    """Every device online failed or was refused in a round; the text holds the last reason."""


class ControlError(ServerError):
    """Parent of what is wrong with an order to a run; values out of their range raise `InvalidValueError`."""


class UnknownRunError(ControlError):
    """There is no run, version or bundle of this name."""


class ConflictError(ControlError):
    """The run's status forbids it, or the name is taken."""


class TokenError(ServerError):
    """A token cannot be made under this name."""


class ProvisioningError(ServerError):
    """A fleet folder cannot be made, read or changed as asked."""


class EnrolmentError(ServerError):
    """An enrolment token opens nothing: all reasons in one."""


class ReleaseError(ServerError):
    """A file is not a release of the client for this fleet."""


class UnknownReleaseError(ControlError):
    """There is no such release of the client, or no such rollout."""
