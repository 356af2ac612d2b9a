"""Static hosts: what each of them has to be told, in its own form, to serve a tree as plain files; and what it cannot.

Content-Type decides whether clients take a manifest at all, so each form says it for every manifest and tag.
Docker-Content-Digest and Cache-Control are said as far as the form has room for them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from seawall.cache_control import CONTENT_CACHE, LIVE_CACHE
from seawall.errors import InputError
from seawall.media_type import OCI_INDEX
from seawall.objects import Object, Part
from seawall.publication import JSON, OCTETS
from seawall.server_url import check_url
from seawall.tree import CATALOG_LINK, V2

PING = "{}"
MISSING = '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"nothing is known at this path"}]}'
REFUSED = '{"errors":[{"code":"UNSUPPORTED","message":"this registry is read only: GET and HEAD"}]}'
_BY = "Written by seawall export, which writes it anew: change nothing here."
_DIGEST = "sha256:[0-9a-f]{64}"
_NOSNIFF = ("X-Content-Type-Options", "nosniff")


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit of a host that a tree does not keep."""

    limit: str
    """What the host allows."""
    found: str
    """What the tree has."""


@dataclass(frozen=True, slots=True)
class Site:
    """A tree in the form of a host."""

    host: str
    objects: tuple[Object, ...]
    """What lies in it as files, in the order in which they are published."""
    texts: Mapping[str, str]
    """By path, the files that are the host's own."""
    excesses: tuple[Excess, ...]
    blobs_url: str = ""


@dataclass(frozen=True, slots=True)
class _Form:
    render: Callable[[Sequence[Object], Sequence[str], str], dict[str, str]]
    check: Callable[[Sequence[Object], Mapping[str, str]], list[Excess]]


def plan_site(host: str, objects: Iterable[Object], blobs_url: str = "") -> Site:
    """Return what *host* needs in order to serve *objects*.

    Args:
        host: one of :data:`HOSTS`.
        objects: what the tree serves, in the order in which it is published.
        blobs_url: where blobs are, if not here: they are redirected there, to the same paths.

    Raises:
        InputError: *blobs_url* is no URL.
    """
    if blobs_url:
        check_url(blobs_url)
        if blobs_url.endswith("/") or any(sign in blobs_url for sign in " \"'`$\\{}?#@"):
            raise InputError(blobs_url, "cannot stand in a host's files", "write http(s)://HOST[:PORT][/PATH]")
    every = tuple(objects)
    here = tuple(one for one in every if not (blobs_url and one.part is Part.BLOB))
    repositories = sorted({one.repository for one in every if one.is_fixed})
    form = _FORMS[host]
    texts = form.render(here, repositories, blobs_url)
    return Site(host, here, texts, tuple(form.check(here, texts)), blobs_url)


# Files with a rule a path: Netlify and Cloudflare Pages.

# docs.netlify.com, "Site deploys overview": files per directory.
_NETLIFY_FOLDER_FILES = 54_000
# developers.cloudflare.com/pages, "Limits": files of a site on the Free plan, and bytes of a file.
_CLOUDFLARE_FILES = 20_000
_CLOUDFLARE_BYTES = 25 * 1024 * 1024
# developers.cloudflare.com/pages, "Headers": rules, and characters of a line.
_CLOUDFLARE_RULES = 100
_CLOUDFLARE_LINE = 2000

_Rules = dict[str, dict[str, str]]


def _netlify(objects: Sequence[Object], repositories: Sequence[str], blobs_url: str) -> dict[str, str]:
    rules: _Rules = {f"/{V2}/": {"Content-Type": JSON}}
    if not blobs_url:
        rules |= {f"/{V2}/{name}/blobs/sha256:*": _of_blobs() for name in repositories}
    rules |= {f"/{one.key}": one.headers for one in objects if one.part is not Part.BLOB}
    texts = _pages(rules)
    if blobs_url:
        texts["_redirects"] = "".join(
            f"/{V2}/{name}/blobs/* {blobs_url}/{V2}/{name}/blobs/:splat 302\n" for name in repositories
        )
    return texts


def _check_netlify(objects: Sequence[Object], _: Mapping[str, str]) -> list[Excess]:
    folders = sorted(one.key.rpartition("/")[0] for one in objects)
    counts = [(len(list(rows)), folder) for folder, rows in groupby(folders)]
    return [
        Excess(f"{_NETLIFY_FOLDER_FILES} files in a folder", f"{folder} has {count}")
        for count, folder in counts
        if count > _NETLIFY_FOLDER_FILES
    ]


def _cloudflare(objects: Sequence[Object], _: Sequence[str], blobs_url: str) -> dict[str, str]:
    """Return the files of a host that takes few rules, and adds up the headers of all that fit.

    So a rule is for a whole folder where it can, and no two are for one path. There is no room for digests.
    """
    rules: _Rules = {
        f"/{V2}/": {"Content-Type": JSON},
        f"/{V2}/{CATALOG_LINK}": _live(JSON),
        f"/{V2}/*/tags/list": _live(JSON),
    }
    if not blobs_url:
        rules[f"/{V2}/*/blobs/:digest"] = _of_blobs()
    if any(one.part is Part.REFERRERS and "/referrers/" in one.key for one in objects):
        rules[f"/{V2}/*/referrers/:digest"] = _live(OCI_INDEX.media_type)
    manifests = [one for one in objects if "/manifests/" in one.key]
    types = {one.media_type for one in manifests}
    if len(types) == 1:
        rules[f"/{V2}/*/manifests/:reference"] = _live(*types)
    else:
        for repository, rows in groupby(sorted(manifests, key=lambda one: one.key), key=lambda one: one.repository):
            own = list(rows)
            kinds = {one.media_type for one in own}
            if len(kinds) == 1:
                rules[f"/{V2}/{repository}/manifests/*"] = _live(*kinds)
            else:
                rules |= {_cloudflare_path(one): _live(one.media_type) for one in own}
    texts = _pages(rules)
    if blobs_url:
        texts["_redirects"] = f"/{V2}/*/blobs/:digest {blobs_url}/{V2}/:splat/blobs/:digest 307\n"
    return texts


def _cloudflare_path(one: Object) -> str:
    """Return the path of a rule for *one*: what follows a colon is a placeholder there, so a star stands for it."""
    return f"/{one.key.replace('/sha256:', '/sha256*').replace('/sha256-', '/sha256*')}"


def _check_cloudflare(objects: Sequence[Object], texts: Mapping[str, str]) -> list[Excess]:
    found = []
    files = len(objects) + len(texts)
    if files > _CLOUDFLARE_FILES:
        found.append(Excess(f"{_CLOUDFLARE_FILES} files on the Free plan (100000 on others)", f"there are {files}"))
    large = [one for one in objects if one.size > _CLOUDFLARE_BYTES]
    if large:
        largest = max(large, key=lambda one: one.size)
        found.append(
            Excess(
                f"files of {_CLOUDFLARE_BYTES} bytes",
                f"{len(large)} are larger, {largest.key} has {largest.size}; --blobs has them elsewhere",
            )
        )
    lines = texts["_headers"].splitlines()
    paths = [line for line in lines if line.startswith("/")]
    if len(paths) > _CLOUDFLARE_RULES:
        found.append(Excess(f"{_CLOUDFLARE_RULES} header rules", f"{len(paths)} are needed"))
    if any(len(line) > _CLOUDFLARE_LINE for line in lines):
        found.append(Excess(f"lines of {_CLOUDFLARE_LINE} characters in _headers", "there is a longer one"))
    types: dict[str, set[str]] = {}
    for one in objects:
        if "/manifests/" in one.key:
            types.setdefault(_cloudflare_path(one), set()).add(one.media_type)
    both = sorted(path for path, kinds in types.items() if len(kinds) > 1)
    if both:
        found.append(
            Excess(
                "no rule for a digest that is none for the list of its referrers",
                f"{len(both)} would need one, as {both[0]}: that is no index",
            )
        )
    pages = [one.key for one in objects if one.name.endswith(".html")]
    if pages:
        found.append(Excess("no name that ends in .html: it is redirected", f"{len(pages)} do, as {pages[0]}"))
    return found


def _pages(rules: _Rules) -> dict[str, str]:
    blocks = (
        "\n".join([path, *(f"  {name}: {value}" for name, value in headers.items())]) for path, headers in rules.items()
    )
    # Without a page of its own for what is missing, such a host may answer with its front page, and 200.
    return {"_headers": f"# {_BY}\n" + "\n".join(blocks) + "\n", "404.html": MISSING, f"{V2}/index.html": PING}


def _of_blobs() -> dict[str, str]:
    return {"Content-Type": OCTETS, "Cache-Control": CONTENT_CACHE}


def _live(media_type: str) -> dict[str, str]:
    return {"Content-Type": media_type, "Cache-Control": LIVE_CACHE}


# Web servers.


def _apache(objects: Sequence[Object], _: Sequence[str], blobs_url: str) -> dict[str, str]:
    """Return a .htaccess for each folder with files; they want ``AllowOverride All`` and mod_headers."""
    escaped = MISSING.replace('"', '\\"')
    top = [
        f"# {_BY}",
        "Options -Indexes -MultiViews",
        "DirectoryIndex index.json",
        "DirectorySlash On",
        f'ErrorDocument 404 "{escaped}"',
        "FileETag MTime Size",
        # Whatever the ending of a tag means to this server: it is a file, and goes out as it is.
        "AddDefaultCharset Off",
        "RemoveEncoding .gz .tgz .Z .bz2 .br .xz .zst",
        "RemoveCharset .utf8 .utf-8 .latin1",
        '<FilesMatch ".">',
        "SetHandler default-handler",
        "</FilesMatch>",
        "<IfModule mod_env.c>",
        "SetEnv no-gzip 1",
        "SetEnv no-brotli 1",
        "</IfModule>",
        "Header always set Docker-Distribution-Api-Version registry/2.0",
        f"Header always set {' '.join(_NOSNIFF)}",
        *_apache_file("index.json", {"Content-Type": JSON}),
    ]
    if blobs_url:
        top.append(f'RedirectMatch 307 "/{V2}/(.+)/blobs/({_DIGEST})$" "{blobs_url}/{V2}/$1/blobs/$2"')
    catalog = [one for one in objects if one.part is Part.CATALOG]
    top += [line for one in catalog for line in _apache_file(one.name, one.headers)]
    texts = {f"{V2}/index.json": PING, f"{V2}/.htaccess": "\n".join(top) + "\n"}
    rest = sorted((one for one in objects if one.part is not Part.CATALOG), key=lambda one: one.key)
    for folder, rows in groupby(rest, key=lambda one: one.key.rpartition("/")[0]):
        own = list(rows)
        fixed = [one for one in own if one.is_fixed]
        lines = [f"# {_BY}"]
        if fixed:
            # An expression says its group to the headers as MATCH_DIGEST.
            lines += [
                f'<FilesMatch "^(?<DIGEST>{_DIGEST})$">',
                'Header set Docker-Content-Digest "%{MATCH_DIGEST}e"',
                f'Header set Cache-Control "{CONTENT_CACHE}"',
                *([f"ForceType {OCTETS}"] if fixed[0].part is Part.BLOB else []),
                "</FilesMatch>",
            ]
        for one in own:
            if one.part is Part.MANIFEST:
                lines += [f'<Files "{one.name}">', f"ForceType {one.media_type}", "</Files>"]
            elif one.part is not Part.BLOB:
                lines += _apache_file(one.name, one.headers)
        texts[f"{folder}/.htaccess"] = "\n".join(lines) + "\n"
    return texts


def _apache_file(name: str, headers: Mapping[str, str]) -> list[str]:
    rest = [f'Header set {field} "{value}"' for field, value in headers.items() if field != "Content-Type"]
    return [f'<Files "{name}">', f"ForceType {headers['Content-Type']}", *rest, "</Files>"]


def _caddy(objects: Sequence[Object], _: Sequence[str], blobs_url: str) -> dict[str, str]:
    """Return a Caddyfile of one site, at the address and for the folder that the environment names."""
    rows = "\n".join(
        f'\t\t/{one.key} "{one.media_type}" "{one.headers.get("Docker-Content-Digest", "")}"'
        for one in objects
        if "/manifests/" in one.key
    )
    blobs = (
        f"\t\tredir * {blobs_url}{{http.request.uri.path}} 307\n"
        if blobs_url
        else f"\t\theader Content-Type {OCTETS}\n\t\theader Docker-Content-Digest {{re.blob.1}}\n"
        f'\t\theader Cache-Control "{CONTENT_CACHE}"\n{_CADDY_FILES}'
    )
    return {
        "Caddyfile": f"""\
# {_BY}
# SEAWALL_ADDRESS=:8080 SEAWALL_ROOT=/path/to/this/folder caddy run --config Caddyfile
{{$SEAWALL_ADDRESS::8080}} {{
	root * {{$SEAWALL_ROOT:.}}
	map {{path}} {{seawall_type}} {{seawall_digest}} {{
{rows}
		default "" ""
	}}
	header Docker-Distribution-Api-Version registry/2.0
	header {" ".join(_NOSNIFF)}
	@write not method GET HEAD
	handle @write {{
		header Content-Type {JSON}
		header Allow "GET, HEAD"
		respond `{REFUSED}` 405
	}}
	handle /{V2} {{
		redir * /{V2}/ 301
	}}
	handle /{V2}/ {{
		header Content-Type {JSON}
		respond `{PING}` 200
	}}
	@blob path_regexp blob ^/{V2}/.+/blobs/({_DIGEST})$
	handle @blob {{
{blobs}\t}}
	@fixed path_regexp fixed ^/{V2}/.+/manifests/({_DIGEST})$
	handle @fixed {{
		header Content-Type {{seawall_type}}
		header Docker-Content-Digest {{seawall_digest}}
		header Cache-Control "{CONTENT_CACHE}"
{_CADDY_FILES}	}}
	@tag path_regexp tag ^/{V2}/.+/manifests/[^/]+$
	handle @tag {{
		header Content-Type {{seawall_type}}
		header Docker-Content-Digest {{seawall_digest}}
		header Cache-Control "{LIVE_CACHE}"
{_CADDY_FILES}	}}
	@referrers path_regexp referrers ^/{V2}/.+/referrers/{_DIGEST}$
	handle @referrers {{
		header Content-Type {OCI_INDEX.media_type}
		header Cache-Control "{LIVE_CACHE}"
{_CADDY_FILES}	}}
	@list path_regexp list ^/{V2}/(.+/tags/list|{CATALOG_LINK})$
	handle @list {{
		header Content-Type {JSON}
		header Cache-Control "{LIVE_CACHE}"
{_CADDY_FILES}	}}
	handle {{
		error 404
	}}
	handle_errors {{
		header -Docker-Content-Digest
		header Cache-Control no-store
		header Content-Type {JSON}
		respond `{MISSING}` {{http.error.status_code}}
	}}
}}
"""
    }


_CADDY_FILES = "\t\tfile_server {\n\t\t\tdisable_canonical_uris\n\t\t}\n"


def _nginx(objects: Sequence[Object], _: Sequence[str], blobs_url: str) -> dict[str, str]:
    """Return a file that a server with this folder as its ``root`` includes."""
    exact = "\n".join(_nginx_location(one) for one in objects if one.part is not Part.BLOB)
    blob = (
        f"        return 307 {blobs_url}$uri;\n"
        if blobs_url
        else f"        types {{ }}\n        default_type {OCTETS};\n"
        f"        add_header Docker-Content-Digest $seawall_blob;\n"
        f'        add_header Cache-Control "{CONTENT_CACHE}";\n{_NGINX_ALL}'
    )
    return {
        "seawall.conf": f"""\
# {_BY}
# In a server: root /path/to/this/folder; include /path/to/this/folder/seawall.conf;
location = /{V2}/ {{
    default_type {JSON};
    add_header Docker-Distribution-Api-Version registry/2.0;
    return 200 '{PING}';
}}
location = /{V2} {{
    absolute_redirect off;
    return 301 /{V2}/;
}}
location @seawall_missing {{
    default_type {JSON};
    return 404 '{MISSING}';
}}
location @seawall_refused {{
    default_type {JSON};
    return 405 '{REFUSED}';
}}
location /{V2}/ {{
    error_page 403 404 =404 @seawall_missing;
    error_page 405 @seawall_refused;
    gzip off;
    charset off;

    location ~ "^/{V2}/.+/blobs/(?<seawall_blob>{_DIGEST})$" {{
{blob}    }}
{exact}
}}
"""
    }


_NGINX_ALL = (
    f"        add_header Docker-Distribution-Api-Version registry/2.0;\n        add_header {' '.join(_NOSNIFF)};\n"
)


def _nginx_location(one: Object) -> str:
    rest = "".join(
        f'        add_header {name} "{value}";\n' for name, value in one.headers.items() if name != "Content-Type"
    )
    return (
        f'    location = "/{one.key}" {{\n        types {{ }}\n        default_type {one.media_type};\n'
        f"{rest}{_NGINX_ALL}    }}"
    )


def _check_nothing(_: Sequence[Object], __: Mapping[str, str]) -> list[Excess]:
    """A web server of one's own has no limits but those of its disk."""
    return []


_FORMS = {
    "netlify": _Form(_netlify, _check_netlify),
    "cloudflare-pages": _Form(_cloudflare, _check_cloudflare),
    "apache": _Form(_apache, _check_nothing),
    "caddy": _Form(_caddy, _check_nothing),
    "nginx-plain": _Form(_nginx, _check_nothing),
}
HOSTS = tuple(_FORMS)


def headers_text(site: Site, *, complete: bool, also: Iterable[str] = ()) -> str:
    """Return ``headers.json``: what *site* has, and what an answer with each of its files is to say.

    Args:
        site: the tree in the form of a host.
        complete: false while a run is under way.
        also: paths of an earlier run that may be there as well.
    """
    rows = [
        {
            "path": one.key,
            "size": one.size,
            "digest": str(one.digest) if one.digest else None,
            "headers": one.headers,
        }
        for one in site.objects
    ]
    document = {
        "version": 1,
        "by": "seawall export",
        "for": site.host,
        "complete": complete,
        "own": sorted({*site.texts, *also}),
        "files": rows,
    }
    return json.dumps(document, indent=1) + "\n"
