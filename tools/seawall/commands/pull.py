"""``seawall pull``: one image out of a tree anywhere, into the local engine."""

from pathlib import Path
from typing import Any

import click

from seawall.commands.options import as_json_option, dry_run_option
from seawall.commands.output import count, print_json
from seawall.engine import Engine
from seawall.errors import SourceError
from seawall.manifest import Platform
from seawall.place import shown
from seawall.pulling import (
    EngineState,
    PullPlan,
    archive,
    engine_name,
    find_image,
    image_id,
    parse_wanted,
    plan_pull,
)
from seawall.reference import parse_location
from seawall.source import Source
from seawall.sources import Sources, opener
from seawall.spool import Spool
from seawall.terminal import readable, watch


@click.command("pull")
@click.argument("place", metavar="SRC")
@click.argument("image_name", metavar="IMAGE")
@click.option("--platform", "platform_text", metavar="OS/ARCH[/VARIANT]", help="[default: what the engine runs]")
@click.option(
    "--as", "name", metavar="NAME[:TAG]", default="", help="Its name in the engine.  [default: its name in SRC]"
)
@dry_run_option
@as_json_option
def command(place: str, image_name: str, platform_text: str | None, name: str, dry_run: bool, as_json: bool) -> None:
    """Load IMAGE of the tree SRC into the local Docker engine, without the layers that it has already; print its ID.

    SRC is a path, ssh://[USER@]HOST[:PORT]/PATH, s3://BUCKET[/PREFIX] or the URL of any web server of a tree's files.
    IMAGE is REPO[:TAG] or REPO@sha256:...; alpine:3 also finds docker.io/library/alpine:3.
    """
    wanted = parse_wanted(image_name)
    platform = Platform.parse(platform_text) if platform_text else None
    sources = Sources(Path.cwd(), opener())
    engine = Engine()

    def open_repository(repository: str) -> Source:
        location = parse_location(f"{place.rstrip('/')}/v2/{repository}", shown(place))
        return sources.at(location, plain_http=False)

    image = find_image(wanted, open_repository, platform, lambda: engine.traits.platform)
    as_name = engine_name(image.reference, name)
    plan = plan_pull(image, as_name, _state(engine, image_id(image, engine.traits), as_name))
    if not (dry_run or plan.is_empty):
        _carry_out(plan, engine)
    if as_json:
        print_json(_row(plan, dry_run=dry_run))
        return
    if dry_run:
        click.echo(_line(plan))
    click.echo(plan.image_id)


def _state(engine: Engine, wanted: str, name: str) -> EngineState:
    is_there = engine.has(wanted)
    is_named = bool(name) and engine.has(wanted, name)
    layers = () if is_there or engine.traits.keeps_manifests else engine.layers()
    return EngineState(engine.traits, is_there, is_named, layers)


def _carry_out(plan: PullPlan, engine: Engine) -> None:
    if plan.is_there:
        engine.name(plan.image_id, plan.name)
        return
    with watch() as progress:
        progress.expect(plan.size, count(len(plan.layers), "layer"))
        engine.load(archive(plan, engine.traits, Spool(), progress.advance), plan.name or plan.image_id)
    found = engine.image_id(plan.name or plan.image_id)
    if found != plan.image_id:
        raise SourceError(plan.name, f"became {found} in the engine, not {plan.image_id}", "see the engine's log")


def _line(plan: PullPlan) -> str:
    what = plan.name or "without a name"
    if plan.is_empty:
        return f"{what}: unchanged"
    if plan.is_there:
        return f"{what}: would become a name of what is there"
    there = f", {plan.present} there already" if plan.present else ""
    return f"{what}: would be loaded, {count(len(plan.layers), 'layer')} ({readable(plan.size)}) sent{there}"


def _row(plan: PullPlan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "changed": not plan.is_empty,
        "dry_run": dry_run,
        "id": plan.image_id,
        "name": plan.name or None,
        "reference": str(plan.image.reference),
        "digest": str(plan.image.manifest.digest),
        "platform": str(plan.image.platform) if plan.image.platform else None,
        "sent": [{"digest": str(layer.digest), "size": layer.size} for layer in plan.layers],
        "size": plan.size,
    }
