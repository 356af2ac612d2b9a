"""What is told to caches (RFC 9111, section 5.2), as the origin says it: templates/nginx/snippets/cache.conf.j2."""

CONTENT_CACHE = "public, max-age=31536000, immutable"
"""Of what a digest names."""
LIVE_CACHE = "public, max-age=60, stale-if-error=86400"
"""Of what may move: tags, lists, referrers."""
