"""Files of the Hugging Face Hub, which its own library downloads once and keeps in its cache (``HF_HOME``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_cli.benchmarks.weights.folder import INDEXES, WEIGHT_FILES, shard_names
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.hub_probe import why_unreachable
from robustbench_cli.core.libraries import require_library

__all__ = ["HubRepository"]

_WAY_IN = "log in with 'hf auth login'"


@dataclass(frozen=True)
class HubRepository:
    """A repository of models.

    Only files of configuration and weights are downloaded, never code. A file that is in the cache is not downloaded again
    unless it has changed on the Hub; without the network, the cache is used as it is.

    Attributes:
        name: ``OWNER/NAME``.
        revision: A branch, a tag or a commit; ``None`` for the main branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf-hub:{self.name}" + ("" if self.revision is None else f"@{self.revision}")

    def file(self, filename: str) -> Path | None:
        """A file, downloaded if need be; ``None`` if the repository does not have it.

        Args:
            filename: Its name in the repository.

        Raises:
            UserError: ``huggingface_hub`` is missing, the repository or its revision does not exist, is private or gated, or
                cannot be reached and is not in the cache.
        """
        found = self._find(filename)
        return None if found is None else Path(found)

    def commit(self, filenames: Sequence[str]) -> str:
        """The commit that the weights come from now; they are not downloaded for it.

        Args:
            filenames: The names that the weights may have.

        Raises:
            UserError: As for :meth:`file`, or the repository has none of these files.
        """
        for filename in filenames:
            found = self._find(filename, dry_run=True)
            if found is not None:
                return str(found.commit_hash)
        raise self._no_weights(filenames)

    def weights(self, filename: str | None = None) -> Path:
        """The weights: one file, or the folder of all shards.

        Args:
            filename: Their name in the repository; by default the first of :data:`~.weights.folder.WEIGHT_FILES` or of
                :data:`~.weights.folder.INDEXES` that it has.

        Raises:
            UserError: As for :meth:`file`, or the repository has no weights.
        """
        for name in (filename,) if filename is not None else WEIGHT_FILES:
            file = self.file(name)
            if file is not None:
                return file
        for name in () if filename is not None else INDEXES:
            index = self.file(name)
            if index is not None:
                for shard in shard_names(index):
                    if self.file(shard) is None:
                        raise UserError(f"{self} lacks {shard}, which its {name} names")
                return index.parent
        raise self._no_weights((filename,) if filename is not None else (*WEIGHT_FILES, *INDEXES))

    def first(self, filenames: Sequence[str]) -> Path:
        """The first of some files that the repository has; one in the cache comes before one that has to be downloaded.

        Args:
            filenames: Their names.

        Raises:
            UserError: As for :meth:`file`, or the repository has none of them.
        """
        hub = require_library("huggingface_hub", extra="hub", needed_by=str(self))
        cached = [
            name
            for name in filenames
            if isinstance(hub.try_to_load_from_cache(self.name, name, revision=self.revision), str)
        ]
        for name in cached or filenames:
            file = self.file(name)
            if file is not None:
                return file
        raise self._no_weights(filenames)

    def _no_weights(self, filenames: Sequence[str]) -> UserError:
        return UserError(f"{self} has no weights that can be read ({', '.join(filenames)})")

    def _find(self, filename: str, **keywords: Any) -> Any:
        hub = require_library("huggingface_hub", extra="hub", needed_by=str(self))
        if re.fullmatch(r"[\w.-]+/[\w.-]+", self.name) is None:
            raise UserError(f"{self} is no repository of the Hub: give hf-hub:OWNER/NAME")
        with self._reached(filename):
            try:
                if not isinstance(hub.try_to_load_from_cache(self.name, filename, revision=self.revision), str):
                    self._require_reachable(hub, filename)
                return hub.hf_hub_download(self.name, filename, revision=self.revision, **keywords)
            except hub.errors.LocalEntryNotFoundError:
                raise
            except hub.errors.EntryNotFoundError:
                return None

    def _require_reachable(self, hub: Any, filename: str) -> None:
        """Asks the Hub once for a file that is not in the cache: a download would try again and again for half a minute."""
        error = why_unreachable(hub, self.name, filename, revision=self.revision)
        if error is not None:
            raise hub.errors.LocalEntryNotFoundError(one_line(error)) from error

    @contextmanager
    def _reached(self, filename: str) -> Iterator[None]:
        """Turns the errors of the Hub's library into one line each."""
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError:
            raise UserError(
                f"{self} is gated: accept its terms on https://huggingface.co/{self.name}, then {_WAY_IN}"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UserError(
                f"{self}: there is no such repository, or it is private: check the name, or {_WAY_IN}"
            ) from None
        except errors.RevisionNotFoundError:
            raise UserError(
                f"{self}: this repository has no revision {self.revision}: give a branch, a tag or a commit"
            ) from None
        except errors.LocalEntryNotFoundError as error:
            cause = error.__cause__ or error
            raise UserError(
                f"{self}: the Hub cannot be reached, and its {filename} is not in the cache ({type(cause).__name__}): go "
                "online once, or give a folder that you have as --checkpoint"
            ) from None
        except errors.HFValidationError as error:
            raise UserError(f"{self} is no repository of the Hub ({one_line(error)}): give hf-hub:OWNER/NAME") from None
        except OSError as error:
            raise UserError(f"{self}: {filename} cannot be downloaded ({one_line(error)}): try again") from None
