"""Check of the URL of Redis. No message quotes a value."""

import re

_SCHEMES = ("redis", "rediss", "unix")
_ONE_SERVER = "set the URL of one server, or of a proxy that follows the primary, as redis:// or rediss://"


def check_redis_url(url: str) -> str:
    """Return a URL of Redis; raise ValueError for another scheme, several servers or an unknown parameter."""
    scheme, _, rest = url.partition("://")
    for kind in ("cluster", "sentinel"):
        if kind in scheme.lower():
            raise ValueError(f"names a Redis {kind.capitalize()}, which is not supported; {_ONE_SERVER}")
    if scheme not in _SCHEMES:
        raise ValueError(
            "does not start with redis://, rediss:// or unix://; set the URL of a Redis or Valkey server"
        )
    if scheme != "unix" and "," in re.split("[/?]", rest.rpartition("@")[2])[0]:
        raise ValueError(f"names several servers, which is not supported; {_ONE_SERVER}")
    _check_parameters(url)
    return url


def _check_parameters(url: str) -> None:
    # Imported here: commands that use no Redis start faster.
    from redis import ConnectionPool  # noqa: PLC0415

    try:
        pool = ConnectionPool.from_url(url)
        # Connects later; an unknown parameter is an unknown argument.
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        name = re.search(r"argument '(\w+)'", str(error))
        parameter = f"the unknown parameter {name[1][:40]}" if name else "an unknown parameter"
        raise ValueError(f"has {parameter}; remove it, or use one that redis-py knows") from None
    except ValueError as error:
        name = re.search(r"for '(\w+)' in connection URL", str(error))
        if name:
            raise ValueError(f"has an invalid value of the parameter {name[1]}; correct it") from None
        raise ValueError("is malformed; percent-encode special characters in its password") from None
