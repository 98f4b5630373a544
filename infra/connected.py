"""Settings of commands that cannot do without the broker or the store.

Enters: the environment. Leaves: `Settings`, or a refusal that says what to do. Called by the commands of every room.
"""

from infra.errors import NowrankError
from infra.logs import quiet_kafka
from infra.settings import NO_BROKER, NO_STORE, Settings, load_settings


def broker_settings() -> Settings:
    """The settings, with a broker and without the chatter of its client; raises `NowrankError` when none is set."""
    quiet_kafka()
    return require_broker(load_settings())


def require_broker(settings: Settings) -> Settings:
    """The same settings; raises `NowrankError` when they name no broker."""
    if not settings.kafka:
        raise NowrankError(NO_BROKER)
    return settings


def require_store(settings: Settings) -> Settings:
    """The same settings; raises `NowrankError` when they name no store."""
    if not settings.redis:
        raise NowrankError(NO_STORE)
    return settings
