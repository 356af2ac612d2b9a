"""``seawall inspect``: what one image of a tree is made of."""

from pathlib import Path
from typing import Any

import click

from seawall.commands.options import PATH, as_json_option
from seawall.commands.output import description_row, print_json
from seawall.describe import ImageDescription, describe
from seawall.reference import Reference
from seawall.terminal import print_table, readable
from seawall.tree import Tree


@click.command("inspect")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("reference_text", metavar="REPO:TAG")
@as_json_option
def command(tree_root: Path, reference_text: str, as_json: bool) -> None:
    """Show what REPO:TAG (or REPO@sha256:...) of TREE is made of."""
    description = describe(Tree.existing(tree_root), Reference.parse(reference_text))
    if as_json:
        print_json(description_row(description) | {"images": [_image_row(image) for image in description.images]})
        return
    manifest = description.manifest
    click.echo(f"{description.reference}")
    click.echo(f"  digest      {manifest.digest}")
    click.echo(f"  media type  {manifest.kind.media_type}")
    click.echo(f"  platforms   {', '.join(description.platforms) or '-'}")
    click.echo(f"  size        {readable(description.size)} ({description.size} bytes)")
    for image in description.images:
        click.echo(f"\n{image.platform or 'image'}  {image.manifest.digest}  {readable(image.size)}")
        rows = [(str(blob.digest), blob.media_type, str(blob.size)) for blob in image.manifest.blobs]
        print_table(("  BLOB", "MEDIA TYPE", "BYTES"), [(f"  {a}", b, c) for a, b, c in rows], frozenset({"BYTES"}))


def _image_row(image: ImageDescription) -> dict[str, Any]:
    return {
        "platform": str(image.platform) if image.platform else None,
        "digest": str(image.manifest.digest),
        "mediaType": image.manifest.kind.media_type,
        "size": image.size,
        "blobs": [
            {"digest": str(blob.digest), "mediaType": blob.media_type, "size": blob.size}
            for blob in image.manifest.blobs
        ],
    }
