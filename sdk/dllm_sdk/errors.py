"""Every error a user can meet, one tree. Knows nothing of what raises them.

DllmError
├── ConfigError (ValueError)       an argument or field out of its range: what was given, what is allowed
├── RegistryError (LookupError)    an unknown name, or a plug-in that cannot be loaded
├── ModelError                     a model that breaks its contract: shapes, logits that are not finite
└── SchedulerError                 a scheduler that breaks its contract: a wrong shape, dtype, device or state
    └── SchedulerStalled           a scheduler that makes no progress

CalibrationWarning (UserWarning)   a scheduler file is used where it was not calibrated
"""


class DllmError(Exception):
    """The root: catch it to catch everything that this package raises on purpose."""


class ConfigError(DllmError, ValueError):
    """An argument or a field is out of its range."""


class RegistryError(DllmError, LookupError):
    """A name that nobody registered, or a plug-in that cannot be loaded."""


class ModelError(DllmError):
    """A model breaks its contract with the loop."""


class SchedulerError(DllmError):
    """A scheduler breaks its contract with the loop; the message names the field."""


class SchedulerStalled(SchedulerError):
    """A scheduler made no progress; the message names the scheduler, the row and the step."""


class CalibrationWarning(UserWarning):
    """A scheduler file is used with another model or task than it was calibrated for."""
