"""What the commands that fill a tree from sources have in common."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from seawall.commands.output import count, tag_move_line, tag_move_row, unchanged_line, unchanged_row
from seawall.lock import Lock
from seawall.plan import Plan
from seawall.sources import Sources
from seawall.sync import Outcome, apply, prepare
from seawall.terminal import readable, watch
from seawall.tree import Tree
from seawall.writer import hold


def fill(by: str, lock: Lock, tree_root: Path, sources: Sources, jobs: int, *, dry_run: bool) -> Outcome:
    """Plan what makes the tree serve *lock* and, unless it is a rehearsal, do it."""
    tree = Tree.possible(tree_root)
    if dry_run:
        return Outcome(prepare(lock, tree, sources, jobs, by), None, sources.requests)
    with watch() as progress, hold(tree) as writer:
        try:
            plan = prepare(lock, tree, sources, jobs, by)
        except BaseException:
            # Where a quota of requests ends the run, the next one need not ask for these again.
            for manifest in sources.brought:
                writer.add_manifest(manifest)
            writer.settle()
            raise
        release = None if plan.is_empty else apply(plan, writer, sources, progress, jobs)
        return Outcome(plan, release, sources.requests)


def print_outcome(outcome: Outcome, root: Path, *, dry_run: bool) -> None:
    """Print what was done to the tree at *root*, or with a dry run each step that would be."""
    for line in _plan_lines(outcome.plan) if dry_run else ():
        click.echo(line)
    plan = outcome.plan
    if plan.is_empty:
        click.echo(unchanged_line(root, len(plan.lock.pins), plan.lock.name if plan.by == "sync" else None))
        return
    release = f"release {outcome.release}: " if outcome.release else ""
    would = "would be: " if dry_run else ""
    click.echo(
        f"{root}: {release}{would}{count(len(plan.moves), 'tag')} moved, {count(len(plan.fetches), 'blob')} "
        f"({readable(plan.fetch_bytes)}) fetched{_listed(plan)}; {count(outcome.requests, 'request')}"
    )


def outcome_row(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    """Return *outcome* as JSON has it."""
    plan = outcome.plan
    return unchanged_row(dry_run=dry_run) | {
        "changed": outcome.changed,
        "release": outcome.release,
        "requests": outcome.requests,
        "fetched": [{"digest": str(fetch.blob.digest), "size": fetch.blob.size} for fetch in plan.fetches],
        "stored": [{"digest": str(manifest.digest), "kind": str(manifest.kind)} for manifest in plan.manifests],
        "moved": [tag_move_row(move) for move in plan.moves],
        "referrers": [f"{repository}@{digest}" for repository, digest in plan.referrers],
    }


def _listed(plan: Plan) -> str:
    return f", {count(len(plan.referrers), 'referrer')} listed" if plan.referrers else ""


def _plan_lines(plan: Plan) -> Iterator[str]:
    for fetch in plan.fetches:
        yield f"fetch {fetch.blob.digest} {fetch.blob.size} bytes from {fetch.image.source}"
    for manifest in plan.manifests:
        yield f"store {manifest.digest} {manifest.kind}"
    for links in plan.links:
        yield f"link {len(links.manifests)} manifests and {len(links.blobs)} blobs in {links.repository}"
    for one in plan.referrer_lists:
        yield f"list {count(len(one.index.children), 'referrer')} of {one.repository}@{one.subject}"
    for move in plan.moves:
        yield tag_move_line(move)
    if plan.pending:
        yield f"finish the interrupted release {plan.pending.number}"
    for repository in plan.lists.repositories:
        yield f"write the tag list of {repository} anew"
    if plan.lists.catalog:
        yield "write the catalog anew"
    if plan.applies:
        yield f"record the lock {plan.lock.name}"
