"""Base of the models of the routes file: every unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A table of the routes file. No message shows a value: it may be a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
