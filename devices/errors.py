"""What can go wrong around devices: emulation, provisioning and flashing."""

from wire_protocol.errors import FisherfleetError


class BrokerError(FisherfleetError):
    """The embedded MQTT broker did not start; the text holds the end of its log."""


class ReportError(FisherfleetError):
    """A report is not what `report.json` holds."""


class FleetError(FisherfleetError):
    """The emulated devices' process ended while the run was going on; the text holds the end of its log."""


class ProfileError(FisherfleetError):
    """A device profile cannot be used; the text names file, key, value and what is legal."""


class SimulationError(FisherfleetError):
    """A fleet cannot be simulated as asked; the text says what is missing."""


class DoctorError(FisherfleetError):
    """A broker cannot be tried; the text says what to change first."""


class FlashError(FisherfleetError):
    """A device's software or its own files cannot be put together; the text says what to change first."""
