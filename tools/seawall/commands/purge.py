"""``seawall purge``: caches forget what a release changed."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option, jobs_option
from seawall.commands.output import count, print_json, tell
from seawall.errors import InputError
from seawall.purging import DEFAULT_PAGE_SIZES, changed_paths
from seawall.server_url import check_url
from seawall.terminal import watch
from seawall.tree import Tree

# seawall.purge has them too, and reads an HTTP library, which takes its time.
_CACHES = ("nginx", "varnish", "fastly", "cloudflare")


@click.command("purge")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("bases", metavar="URL...", nargs=-1, required=True)
@click.option("--at", "kind", type=click.Choice(_CACHES), required=True, help="What the cache is.")
@click.option("--since", metavar="N", type=click.IntRange(min=0), help="The last release that the cache knows.")
@click.option(
    "--published",
    metavar="FILE|-",
    help="Instead of --since: what seawall publish, sync or any command that made a release said with --json.",
)
@click.option(
    "--page-size",
    "page_sizes",
    metavar="N",
    type=int,
    multiple=True,
    help="A value of n with which clients list tags; may be repeated.  [default: 100, 1000]",
)
@click.option(
    "--mirror",
    "mirrored",
    metavar="REGISTRY",
    multiple=True,
    help="Also the names by which clients of a mirror ask for images of this registry; may be repeated.",
)
@click.option(
    "--host", default="", help="With nginx and varnish: the name that clients use, where URL has the cache's own."
)
@click.option(
    "--zone", default="", envvar="CLOUDFLARE_ZONE_ID", show_envvar=True, help="With cloudflare: the zone's ID."
)
@click.option("--soft", is_flag=True, help="With fastly: let it serve the old answer while it asks for the new one.")
@click.option("--token-file", type=PATH, help="With fastly and cloudflare: a file with the token.")
@click.option(
    "--api", default="", metavar="URL", help="With fastly and cloudflare: where the API is, if not at its own address."
)
@dry_run_option
@as_json_option
@jobs_option
def command(
    tree_root: Path,
    bases: tuple[str, ...],
    kind: str,
    since: int | None,
    published: str | None,
    page_sizes: tuple[int, ...],
    mirrored: tuple[str, ...],
    host: str,
    zone: str,
    soft: bool,
    token_file: Path | None,
    api: str,
    dry_run: bool,
    as_json: bool,
    jobs: int,
) -> None:
    """Have caches forget what changed in TREE: tags, lists of tags and referrers, the catalog.

    Each URL is where a cache answers. The token of fastly is that of FASTLY_API_TOKEN or a file, that of cloudflare is
    that of CLOUDFLARE_API_TOKEN or a file.
    """
    if (since is None) == (published is None):
        raise click.UsageError("Say what the cache knows: give --since or --published.")
    _check_options(kind, host=host, zone=zone, soft=soft, token_file=token_file, api=api)
    start = since if since is not None else _since(published or "")
    tree = Tree.existing(tree_root)
    paths = () if start is None else changed_paths(tree, start, page_sizes or DEFAULT_PAGE_SIZES, mirrored)
    urls = [f"{check_url(base)}{path}" for base in bases for path in paths]
    errors: tuple[Exception, ...] = ()
    if urls and not dry_run:
        from seawall.purge import Cache, check_api, purge, read_token  # noqa: PLC0415

        cache = Cache(kind, read_token(kind, token_file), zone, check_api(api) if api else "", host, soft)
        with watch() as progress:
            errors = purge(cache, urls, jobs, progress)
    if as_json:
        failed = [str(error) for error in errors]
        print_json({"changed": bool(urls), "dry_run": dry_run, "urls": urls, "failed": failed})
    else:
        for url in urls if dry_run else ():
            click.echo(url)
        would = "would be purged" if dry_run else "purged"
        click.echo(f"{tree_root}: {count(len(urls), 'URL')} {would}" if urls else f"{tree_root}: nothing to purge")
    for error in errors:
        tell(f"seawall: {error}")
    if errors:
        sys.exit(getattr(errors[0], "exit_code", 1))


def _check_options(kind: str, *, host: str, zone: str, soft: bool, token_file: Path | None, api: str) -> None:
    """Refuse what the cache would not be told."""
    if host and kind not in {"nginx", "varnish"}:
        raise click.UsageError("--host is for nginx and varnish.")
    if soft and kind != "fastly":
        raise click.UsageError("--soft is for fastly.")
    if (token_file or api) and kind not in {"fastly", "cloudflare"}:
        raise click.UsageError("--token-file and --api are for fastly and cloudflare.")
    if kind == "cloudflare" and not (zone.isascii() and zone.isalnum()):
        raise click.UsageError("cloudflare wants --zone, letters and digits.")


def _since(published: str) -> int | None:
    """Return the release before those of which *published* tells; None where there were none."""
    try:
        text = sys.stdin.read() if published == "-" else Path(os.fspath(published)).read_text("utf-8")
        document: dict[str, Any] = json.loads(text)
        if "destinations" in document:
            known = [int(row["since"]) for row in document["destinations"] if row["changed"]]
            return min(known, default=None)
        return int(document["release"]) - 1 if document["release"] else None
    except (OSError, ValueError, KeyError, TypeError):
        todo = "give what seawall publish --json printed, or --since"
        raise InputError(published, "does not say which releases are new", todo) from None
