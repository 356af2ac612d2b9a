"""Options that several commands share, so that each says the same everywhere."""

from pathlib import Path

import click

from seawall.compression import COMPRESSIONS
from seawall.source import DEFAULT_JOBS

PATH = click.Path(path_type=Path)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for machines.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
metrics_option = click.option(
    "--metrics",
    "metrics_file",
    type=PATH,
    help="Write what this run came to into this file, for Prometheus' node exporter.",
)
plain_http_option = click.option("--plain-http", is_flag=True, help="Talk HTTP to the source's registry, not HTTPS.")
registries_option = click.option(
    "--registries-conf",
    "registries_file",
    type=PATH,
    envvar="CONTAINERS_REGISTRIES_CONF",
    show_envvar=True,
    help="Ask the mirrors of registries that this file names; see containers-registries.conf(5).",
)
compression_option = click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    help="Of layers that SOURCE has uncompressed.  [default: gzip; for oci: and oci-archive: as they are]",
)
referrers_option = click.option(
    "--referrers", is_flag=True, help="Also add what refers to it: signatures, attestations, SBOMs."
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 64), default=DEFAULT_JOBS, show_default=True, help="How many at a time."
)
