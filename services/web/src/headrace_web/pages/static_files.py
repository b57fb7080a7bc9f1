"""The scripts, styles and images of the dashboard.

Their URLs contain a digest of all files, so browsers may cache them forever, and a page never
mixes the files of two versions.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER: Final = Path(str(files("headrace_web.pages"))) / "static"
_DIGEST_LENGTH: Final = 12


def _digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(FOLDER)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]


STATIC_PATH: Final = f"/static/{_digest()}"


class ImmutableFiles(StaticFiles):
    """Serves the files with headers that let browsers keep them."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or the response 404."""
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        response.headers["x-content-type-options"] = "nosniff"
        return response


def static_url(name: str) -> str:
    """Return the URL of a file, such as `style.css`."""
    return f"{STATIC_PATH}/{name}"
