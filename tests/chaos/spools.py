"""The spools of all installations in one Redis, by whatever name."""

from redis import Redis

_COUNT = """
local count = 0
for _, key in ipairs(redis.call('keys', '*spool*')) do
    if redis.call('type', key).ok == 'stream' then count = count + redis.call('xlen', key) end
end
"""
_COUNT_SPOOLED = f"{_COUNT} return count"
# In one step with the count: a delivery may be spooled at any time.
_WIPE_UNLESS_SPOOLED = f"{_COUNT} if count > 0 then return 0 end redis.call('flushall') return 1"


def count_spooled(redis: Redis) -> int:
    """Return the number of deliveries that only Redis has."""
    return int(redis.eval(_COUNT_SPOOLED, 0))


def wipe_unless_spooled(redis: Redis) -> bool:
    """Delete everything from Redis if no delivery is spooled; return whether it did."""
    return bool(redis.eval(_WIPE_UNLESS_SPOOLED, 0))
