"""The exceptions of flockwatch, one tree.

::

    FlockwatchError
    ├── UsageError            exit code 2: what was typed or configured is wrong
    │   └── ConfigError       agent.toml: names file, key and what to do
    ├── InputError            exit code 1: a file or stream that was given to us is wrong
    │   ├── BundleError       a model bundle that does not load
    │   └── ReplayFileError   a replay file: names file, line and what to do
    ├── StoreError            the database cannot serve
    │   ├── StoreDamaged      its content is broken: it is to be put aside, and a new one begun
    │   ├── OutboxDamaged     the same of the courier's own database
    │   └── StoreUnwritable   its disk takes nothing: read-only, failing, without rights
    │       └── StoreFull     the disk is full
    ├── BrokerError           the MQTT broker cannot be used as configured
    ├── CloudError            the object store
    │   ├── CloudUnreachable  worth another try later
    │   └── CloudRefused      a retry will not help: rights, bucket, name
    └── PostError             a letter to a person did not arrive; worth another try later
"""


class FlockwatchError(Exception):
    """Something flockwatch can name; the message says what, where and what to do."""

    exit_code = 1


class UsageError(FlockwatchError):
    """What was typed or configured is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration is wrong: file, key and remedy are in the message."""


class InputError(FlockwatchError):
    """A file that was given to us is wrong."""


class BundleError(InputError):
    """A model bundle does not load."""


class ReplayFileError(InputError):
    """A replay file does not read: file and line are in the message."""


class StoreError(FlockwatchError):
    """The database cannot serve."""


class StoreDamaged(StoreError):
    """The content of the database is broken; another try will not help."""


class OutboxDamaged(StoreError):
    """The content of sync.db is broken; opened anew, it is rebuilt from the local lake."""


class StoreUnwritable(StoreError):
    """The disk takes nothing, or gives nothing; once it does, all goes on."""


class StoreFull(StoreUnwritable):
    """The disk of the database is full; with space it works again."""


class BrokerError(FlockwatchError):
    """The MQTT broker cannot be used as configured."""


class CloudError(FlockwatchError):
    """The object store did not do what was asked."""


class CloudUnreachable(CloudError):
    """The object store did not answer; worth another try later."""


class CloudRefused(CloudError):
    """The object store said no; another try will not help until something is changed."""


class PostError(FlockwatchError):
    """A letter did not arrive: no server, no answer, or one that says "later"; worth another try."""
