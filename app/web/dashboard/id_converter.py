"""Ids in the paths of URLs."""

from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from app.web.dashboard.formatting import quote_id


class IdConverter(BaseConverter):
    """Any id that is not empty, also with slashes: Truto's ids are UUIDs, but any text is stored."""

    regex = "(?s:.+)"
    part_isolating = False

    def to_url(self, value: str) -> str:
        """Quote slashes too: a browser resolves `..` between them before it sends the path."""
        return quote_id(value)


def register_id_converter(state: BlueprintSetupState) -> None:
    """Add the converter as `id`; call it before rules that use it."""
    state.app.url_map.converters["id"] = IdConverter
