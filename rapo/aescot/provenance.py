"""Provenance: which teacher and judge critiques come from, and what their answers used."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from rapo import __version__
from rapo.aescot.model_judge import judge_template
from rapo.aescot.prompt import prompt_hash, teacher_template
from rapo.chat.open import folder_of
from rapo.chat.types import NOTHING, Usage
from rapo.config import Config
from rapo.util.file_digest import digest_of, model_digest

Role = Literal["teacher", "judge"]
ROLES: tuple[Role, ...] = ("teacher", "judge")


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """A teacher or a judge, as the manifest has it.

    `model` and `revision` are as configured, `answered_as` the names under which it answered.
    `digest` is of its model folder, or of the file of given critiques. `prompt_sha256` is of the
    prompt before its placeholders are filled in. What a kind does not have is None. `settings` are
    those of the role alone. `cost` is in the currency of the endpoint's prices.
    """

    kind: str
    model: str | None
    revision: str | None
    address: str | None
    digest: str | None
    prompt_sha256: str | None
    temperature: float | None
    max_tokens: int | None
    settings: dict[str, str | int | bool | list[str]]
    answered_as: list[str]
    prompt_tokens: int
    completion_tokens: int
    cost: float


class UsedBy:
    """Sums what a role's answers used over tables of `rapo.aescot.rows.JUDGED`."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self.usage: Usage = NOTHING
        self.models: set[str] = set()

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table."""
        prompt, completion, cost = (
            pc.sum(table[f"{self._role}_{name}"]).as_py() or 0
            for name in ("prompt_tokens", "completion_tokens", "cost")
        )
        self.usage += Usage(prompt, completion, float(cost))
        self.models.update(name for name in pc.unique(table[f"{self._role}_model"]).to_pylist() if name is not None)


def role_facts(config: Config, role: Role, used: UsedBy) -> RoleFacts:
    """The facts about a role of a run."""
    teacher, judge = config.aescot.teacher, config.aescot.judge
    chosen = teacher if role == "teacher" else judge
    asked = chosen.kind in ("vllm", "openai")
    template = (teacher_template(teacher) if role == "teacher" else judge_template(judge)) if asked else None
    return RoleFacts(
        kind=chosen.kind,
        model=chosen.model if asked else None,
        revision=chosen.revision if asked else None,
        address=chosen.endpoint.base_url if chosen.kind == "openai" else None,
        digest=_digest(config, role),
        prompt_sha256=None if template is None else prompt_hash(template),
        temperature=chosen.temperature if asked else None,
        max_tokens=chosen.max_tokens if asked else None,
        settings=_settings(config, role) if asked else {},
        answered_as=sorted(used.models),
        prompt_tokens=used.usage.prompt_tokens,
        completion_tokens=used.usage.completion_tokens,
        cost=used.usage.cost,
    )


def fingerprint(config: Config, role: Role) -> str:
    """A digest of all that decides a role's answers beside the row that it is asked about."""
    chosen = config.aescot.teacher if role == "teacher" else config.aescot.judge
    facts = asdict(role_facts(config, role, UsedBy(role)))
    settings = chosen.model_dump(mode="json", exclude={"actors", "min_actors", "cpus", "gpus", "engine", "endpoint"})
    return xxhash.xxh3_64_hexdigest(json.dumps([__version__, config.run.seed, facts, settings]).encode())


def _digest(config: Config, role: Role) -> str | None:
    teacher = config.aescot.teacher
    chosen = teacher if role == "teacher" else config.aescot.judge
    if chosen.kind == "vllm" and chosen.model is not None:
        return model_digest(folder_of(config, chosen))
    if role == "teacher" and teacher.critiques is not None:
        return digest_of([(teacher.critiques.name, teacher.critiques)], blocks=64)
    return None


def _settings(config: Config, role: Role) -> dict[str, str | int | bool | list[str]]:
    teacher, judge = config.aescot.teacher, config.aescot.judge
    if role == "judge":
        return {"votes": judge.votes, "json_schema": judge.json_schema}
    return {
        "blind": teacher.blind,
        "language": teacher.language,
        "dimensions": list(teacher.dimensions),
        "words": teacher.words,
    }
