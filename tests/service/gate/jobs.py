"""Builds jobs for the gate's tests, by name or at random. Knows no pool and no Redis."""

from __future__ import annotations

from random import Random

from service.gate.job import Claimed, Job, Level, Settlement

BLOCK_SIZE = 16
BLOCKS = 5  # at most, in a random context
TREES = (
    ("tenant-0:1", "tenant-1:2", "tenant-2:3", "tenant-3:4"),
    ("acme:2/alice:1", "acme:2/bob:3", "solo:1/carol:1", "solo:1/dave:2"),
    (
        "interactive:4/acme:2/alice:1",
        "interactive:4/acme:2/bob:3",
        "interactive:4/solo:1/carol:1",
        "batch:1/acme:2/alice:1",
        "batch:1/solo:1/carol:1",
    ),
    ("direct:3", "acme:2/alice:1", "acme:2/team:1/bob:2", "acme:2/team:1/eve:1"),
)


def levels(path: str, weight: int = 1) -> tuple[Level, ...]:
    """Reads "class:8/tenant:2"; a name without a weight has weight 1, the last one `weight`."""
    cells = [cell.partition(":") for cell in path.split("/")]
    inner = [Level(name, int(number or 1)) for name, _, number in cells]
    name, _, number = cells[-1]
    return (*inner[:-1], Level(name, int(number or weight)))


def chain(context: str) -> tuple[str, ...]:
    """Block hashes of a context that is a path in a tree of contexts, one letter per block."""
    return tuple(block_hash(context[: depth + 1]) for depth in range(len(context)))


def block_hash(path: str) -> str:
    """The hash of a path's last block; one that starts with a digit may read as a number."""
    return path.rjust(8, "0") if path[0].isdigit() else path.ljust(8, "_")


def path_of(block: str) -> str:
    """What `block_hash` hashed."""
    return block.strip("0_")


def build_job(
    job_id: str,
    tenant: str = "tenant",
    context: str = "ab",
    *,
    weight: int = 1,
    tenant_level: int = -1,
    short_by: int = 0,
    candidate_tokens: int = 10,
    output_tokens: int = 0,
    deadline_ms: int = 60_000,
    reply_to: str = "api",
    payload: bytes = b"",
) -> Job:
    """A job of `tenant`, maybe a path for `levels`; the context's last block may be short."""
    path, hashes = levels(tenant, weight), chain(context)
    if short_by and context:
        hashes = (*hashes[:-1], block_hash(f"{context}~"))  # other tokens, so another hash
    return Job(
        job_id=job_id,
        path=path,
        tenant_level=tenant_level % len(path),
        context_hashes=hashes,
        block_size=BLOCK_SIZE,
        context_tokens=max(0, len(context) * BLOCK_SIZE - short_by),
        candidate_tokens=candidate_tokens,
        output_tokens=output_tokens,
        deadline_ms=deadline_ms,
        reply_to=reply_to,
        payload=payload or job_id.encode(),
    )


def scored(claimed: Claimed, result: bytes = b"result") -> Settlement:
    """It took what was reserved for it."""
    return Settlement(claimed.job_id, claimed.epoch, claimed.charged, result)


def random_job(random: Random, job_id: str, tree: tuple[str, ...]) -> Job:
    """Draws a job of one leaf of `tree` over a small tree of contexts."""
    leaf = random.choice(tree)
    return build_job(
        job_id,
        leaf,
        "".join(random.choices("12e", k=random.randrange(BLOCKS))),
        tenant_level=(leaf.count("/") + 1) // 2,
        short_by=random.choice([0, 5]),
        candidate_tokens=random.choice([0, 1, 7, 40, 300]),
        output_tokens=random.choice([0, 0, 0, 20]),
        deadline_ms=random.choice([0, 1, 5, 900, 60_000, 60_000, 60_000]),
    )
