"""Lines of tables and keys in the routes file."""

import pytest

from app.config.routes_file import read_routes
from app.config.toml_lines import find_line, find_lines
from app.errors import ConfigError

TEXT = '''# A comment with [brackets] and = signs
title = "a # no comment"

[sinks.main]  # [[routes]]
type = "sql"
"quoted.key" = """
[sinks.fake]
key = 1
"""

[[routes]]
sinks = [
  "main",  # ]
  "lake",
]
columns = { a = "text", b = { type = "integer" } }
stop_at.records = 5

[[routes]]
[routes.columns]
c = "text"
[routes.columns.d]
type = "date"
[other]
x = \'\'\'
[[routes]]\'\'\'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("sinks", "main"), 4),
        (("sinks", "main", "type"), 5),
        (("sinks", "main", "quoted.key"), 6),
        (("sinks", "fake"), None),
        (("routes", 0), 11),
        (("routes", 0, "sinks", 1), 12),
        (("routes", 0, "columns", "b", "type"), 16),
        (("routes", 0, "columns", "unknown"), 16),
        (("routes", 0, "stop_at", "records"), 17),
        (("routes", 0, "key"), 11),
        (("routes", 1), 19),
        (("routes", 1, "columns"), 20),
        (("routes", 1, "columns", "c"), 21),
        (("routes", 1, "columns", "d", "type"), 23),
        (("routes", 2), None),
        (("other", "x"), 25),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_path_has_the_line_of_its_key_or_table(
    path: tuple[str | int, ...], line: int | None, line_end: str
) -> None:
    assert find_line(find_lines(TEXT.replace("\n", line_end)), path) == line


def test_problems_name_their_lines() -> None:
    text = """
[sinks.main]
type = "sql"
url = "sqlite:///x.db"

[[routes]]
sinks = ["mian"]

[[routes]]
resource = "crm/contacts"
sinks = ["main"]
filter = "a b"
only = ["a..b"]
transform = "sqrt(a)"
"""
    with pytest.raises(ConfigError) as invalid:
        read_routes(text, source="routes.toml", variables={})
    with pytest.raises(ConfigError) as unknown:
        read_routes(text.partition("filter")[0], source="routes.toml", variables={})

    assert [problem.partition(";")[0] for problem in unknown.value.problems] == [
        "routes.toml:7: [[routes]] 1, sinks: no sink named mian"
    ]
    assert [problem[:70] for problem in invalid.value.problems] == [
        problem[:70]
        for problem in (
            "routes.toml:12: [[routes]] 2, filter: not a JMESPath expression at column 3; correct it",
            'routes.toml:13: [[routes]] 2, only.0: "a..b" has characters that are not allowed here',
            "routes.toml:14: [[routes]] 2, transform: JMESPath has no function sqrt",
        )
    ]


def test_a_long_file_is_searched_quickly() -> None:
    # A few statements are parsed again for each line of a value: quadratic in the longest value only.
    text = "\n".join(f'[[routes]]\nsinks = ["a"]\nkey = "k{number}"' for number in range(2000))

    assert find_lines(text)["routes", 1999, "key"] == 6000
