"""The sources of one run of a command, opened the same way by each that asks them."""

from pathlib import Path

from seawall.commands.output import tell
from seawall.credentials import CredentialsLookup
from seawall.quota import Quota
from seawall.registries import RegistriesConf
from seawall.sources import Sources, opener
from seawall.tree import INCOMING


def open_sources(
    base: Path,
    registries_file: Path | None,
    quotas: dict[str, Quota],
    tree_root: Path | None = None,
    credentials: CredentialsLookup | None = None,
) -> Sources:
    """Return the sources of a run, which say on stderr what a person should know.

    Args:
        base: the folder that relative paths are taken from.
        registries_file: says which registries have mirrors; None is what the environment names.
        quotas: what hosts say of their quotas of requests is put into it, by host.
        tree_root: the tree that is filled: what has to be compressed waits in it.
        credentials: looks credentials up; what Docker keeps if left out.

    Raises:
        InputError: *registries_file* cannot be read, or is malformed.
    """
    spool_folder = tree_root / INCOMING if tree_root is not None else None
    registries = RegistriesConf.load(registries_file)
    return Sources(base, opener(credentials, quotas, spool_folder, registries, tell), quotas, tell)
