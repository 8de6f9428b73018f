"""Asks the Hugging Face Hub once whether it can be reached; its libraries would try again for half a minute."""

from __future__ import annotations

from typing import Any

__all__ = ["why_unreachable"]


def why_unreachable(hub: Any, repository: str, filename: str, **where: Any) -> Exception | None:
    """Why the Hub cannot be reached; ``None`` if it answers.

    Args:
        hub: The library ``huggingface_hub``.
        repository: ``OWNER/NAME``.
        filename: A file in it.
        **where: ``revision`` and ``repo_type``, as for ``hub.hf_hub_url``.

    Raises:
        Exception: The Hub's own answer, if the repository or the file does not exist or may not be read.
    """
    url = hub.hf_hub_url(repository, filename, **where)
    try:
        hub.get_hf_file_metadata(url)
    except (hub.errors.HfHubHTTPError, hub.errors.EntryNotFoundError):
        raise
    except Exception as error:  # noqa: BLE001 - the errors of the library's own HTTP client
        return error
    return None
