"""Numbers with their noun, in the singular or the plural."""


def count_of(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: "1 record", "1,200 records".

    plural: needed only if it is not the singular with an s.
    """
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"
