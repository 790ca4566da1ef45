"""An export on the hub, through huggingface_hub's own client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from lmms_plam.errors import ConfigError, PlamError


def open_repository(name: str) -> None:
    """Make a model repository if there is none, and see that it may be written to.

    Raises:
        ConfigError: no name of a repository.
        PlamError: it can't be made or written to; the text says why.
    """
    with _told(name):
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        api.auth_check(name, write=True)


def upload(folder: Path, name: str) -> str:
    """Put a folder's files into a model repository, as one commit, and return its address.

    Raises:
        PlamError: they can't be sent; the folder stays as it is.
    """
    with _told(name):
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Merge by lmms-plam"))


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"--push-to-hub takes USER/NAME, not '{name}'") from error
    except Exception as error:  # the hub's errors and those of the connection share no class of their own
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = (
            "no permission: log in with `hf auth login` and a token that may write there"
            if status in (401, 403)
            else " ".join(str(error).split())
        )
        raise PlamError(f"'{name}' on the hub can't be written to ({why})") from error
