"""The tracking store: a client of it, with one sentence where it cannot be used, and texts that are safe to keep."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from agentrefine.errors import UserError
from agentrefine.params import TrackingParams
from agentrefine.proxies import check_proxy

BATCH = 1000
"""Most metrics that MLflow takes in one request."""


@contextmanager
def store(tracking: TrackingParams) -> Iterator[MlflowClient]:
    """A client of the tracking store.

    Raises:
        UserError: the tracking store cannot be reached or used; one sentence without credentials.
    """
    check_proxy(tracking.uri, "tracking.uri")
    address = without_credentials(tracking.uri)
    try:
        yield MlflowClient(tracking.uri, tracking.uri)
    except NotImplementedError as error:
        message = (
            f"tracking.uri {address}: the server cannot keep traces ({error}); use an MLflow server of version 3.4 or "
            "later with a database."
        )
        raise UserError("store_too_old", message, key="tracking.uri") from error
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = str(error).partition("\n")[0].replace(tracking.uri, address)[:200]
        message = f"tracking.uri {address}: MLflow cannot use it ({reason}); start its server or correct params.yaml."
        reported = error.error_code if isinstance(error, MlflowException) else type(error).__name__
        raise UserError("store_unusable", message, key="tracking.uri", reported=reported) from error


def log_values(client: MlflowClient, run_id: str, values: Iterable[Metric]) -> None:
    """Log metrics, as many as there are."""
    pending = list(values)
    for begin in range(0, len(pending), BATCH):
        client.log_batch(run_id, metrics=pending[begin : begin + BATCH])


def quotable(text: str) -> str:
    """The text as it can stand between quotes in a filter of MLflow's searches."""
    return text.replace("'", "")


def without_credentials(text: str) -> str:
    """The text as it is, or, where it is a URL, without user, password and query."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if not parts.scheme or not parts.netloc:
        return text
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
