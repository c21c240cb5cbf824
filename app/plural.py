"""Numbers with their noun, in the singular or the plural."""


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 delivery" or "2,000 deliveries"."""
    stem, ending = (noun[:-1], "ies") if noun.endswith("y") else (noun, "es" if noun.endswith("ch") else "s")
    return f"{number:,} {noun if number == 1 else stem + ending}"
