"""The REST API: a request inserts the job's row and sends its Celery task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import asyncpg
import jwt
from fastapi import Depends, FastAPI, HTTPException, Query, Request, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from pydantic_core import to_json
from tasks import ENVIRONMENT, run

SECRET: Final = "a secret that only this benchmark uses"
ALGORITHM: Final = "HS256"
CONNECTIONS: Final = 16

SCHEMA: Final = """
CREATE TABLE jobs (
    id          uuid PRIMARY KEY,
    owner       text NOT NULL,
    type        text NOT NULL,
    payload     jsonb NOT NULL,
    status      text NOT NULL DEFAULT 'pending',
    result      jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    finished_at timestamptz
)
"""
INSERT: Final = "INSERT INTO jobs (id, owner, type, payload) VALUES ($1, $2, $3, $4)"
INSERT_MANY: Final = """
INSERT INTO jobs (id, owner, type, payload)
SELECT job.id, $2, job.type, job.payload
FROM unnest($1::uuid[], $3::text[], $4::jsonb[]) AS job (id, type, payload)
"""
SELECT: Final = "SELECT id, status FROM jobs WHERE owner = $2 AND id = ANY ($1::uuid[])"


class JobRequest(BaseModel):
    """A job in a request."""

    type: str
    payload: dict[str, Any]


class Job(BaseModel):
    """A job in a response."""

    id: UUID
    status: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the connection pool open while the server runs."""
    async with asyncpg.create_pool(
        ENVIRONMENT.database_url, min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as app.state.database:
        yield


app = FastAPI(lifespan=lifespan)
_bearer = HTTPBearer()


async def _owner(token: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)]) -> str:
    try:
        claims = jwt.decode(token.credentials, SECRET, [ALGORITHM])
    except jwt.InvalidTokenError as error:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED) from error
    return str(claims["sub"])


Owner = Annotated[str, Depends(_owner)]


@app.post("/jobs", status_code=status.HTTP_201_CREATED)
async def submit(request: Request, owner: Owner, job: JobRequest) -> Job:
    """Submit one job."""
    job_id = uuid4()
    await request.app.state.database.execute(
        INSERT, job_id, owner, job.type, to_json(job.payload).decode()
    )
    _send([job_id], [job])
    return Job(id=job_id, status="pending")


@app.post("/jobs/bulk", status_code=status.HTTP_201_CREATED)
async def submit_many(request: Request, owner: Owner, jobs: list[JobRequest]) -> list[Job]:
    """Submit many jobs with one statement and one task per job."""
    ids = [uuid4() for _ in jobs]
    types = [job.type for job in jobs]
    payloads = [to_json(job.payload).decode() for job in jobs]
    await request.app.state.database.execute(INSERT_MANY, ids, owner, types, payloads)
    # Do not block other requests.
    await asyncio.to_thread(_send, ids, jobs)
    return [Job(id=job_id, status="pending") for job_id in ids]


@app.get("/jobs")
async def list_jobs(
    request: Request, owner: Owner, ids: Annotated[list[UUID], Query()]
) -> list[Job]:
    """Return the owner's jobs with these ids."""
    rows = await request.app.state.database.fetch(SELECT, ids, owner)
    return [Job(id=row["id"], status=row["status"]) for row in rows]


@app.get("/jobs/{job_id}")
async def get_job(request: Request, owner: Owner, job_id: UUID) -> Job:
    """Return one job."""
    row = await request.app.state.database.fetchrow(SELECT, [job_id], owner)
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    return Job(id=row["id"], status=row["status"])


def _send(ids: Sequence[UUID], jobs: Sequence[JobRequest]) -> None:
    for job_id, job in zip(ids, jobs, strict=True):
        run.delay(str(job_id), job.type, job.payload)
