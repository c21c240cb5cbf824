"""Messages about a receiver that rejects signed events."""

import threading

import click

from app.cli.common.messages import print_message
from app.truto.target_url import WEBHOOK_PATH, redact_target_url
from app.truto.webhook_sender import SendOutcome

# No other event and no retry gets a better answer.
_FATAL = (401, 403, 404, 405)


class RejectionObserver:
    """Prints why a receiver rejects events, once for each status; ends the command if all will be rejected.

    url: of the receiver. secret_source: the place of the secret, such as "--secret". Safe in several threads.
    """

    def __init__(self, url: str, secret_source: str) -> None:
        self._url = redact_target_url(url)
        self._secret_source = secret_source
        self._lock = threading.Lock()
        self._printed: set[int] = set()

    def end_if_hopeless(self, outcome: SendOutcome) -> None:
        """Raise click.ClickException, with the reason, if the receiver will accept no event."""
        if outcome.http_status in _FATAL:
            raise click.ClickException(self._explain(outcome))

    def observe(self, outcome: SendOutcome) -> None:
        """Print the first rejection with each status; end the command as `end_if_hopeless` does."""
        self.end_if_hopeless(outcome)
        with self._lock:
            is_first = outcome.http_status not in self._printed
            self._printed.add(outcome.http_status)
        if is_first:
            print_message(self._explain(outcome))

    def _explain(self, outcome: SendOutcome) -> str:
        status = outcome.http_status
        if not status:
            return "The receiver did not answer an event; it is sent again. Check that it still runs."
        answer = f"The receiver answered {status}{f': {outcome.message}' if outcome.message else ''}."
        if status == 401:
            return (
                f"{answer} The events were signed with the secret from {self._secret_source}. "
                "Pass the receiver's TRUTO_WEBHOOK_SECRET with --secret, or run the command in the folder of "
                "`rapidbridge up`."
            )
        if status in _FATAL:
            return f"{answer} Correct the URL, {self._url}: the path of a receiver is {WEBHOOK_PATH}."
        if status == 413:
            return f"{answer} Raise MAX_BODY_BYTES there, or send smaller pages."
        if status == 400:
            return f"{answer} Check that a receiver listens at {self._url}."
        return f"{answer} The event is sent again, as Truto does. Read the receiver's log."
