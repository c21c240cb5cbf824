"""Numbers with their noun, in the singular or the plural."""


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 delivery" or "2,000 deliveries"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
