"""Numbers with their noun, in the singular or the plural."""


def format_count(number: int, noun: str, *, has_more: bool = False) -> str:
    """Return a number with its noun, such as "1 delivery" or "2,000 deliveries".

    has_more: whether the count stopped at the number: "2,000+ deliveries".
    """
    takes_es = noun.endswith(("ch", "ss"))
    stem, ending = (noun[:-1], "ies") if noun.endswith("y") else (noun, "es" if takes_es else "s")
    is_singular = number == 1 and not has_more
    return f"{number:,}{'+' if has_more else ''} {noun if is_singular else stem + ending}"
