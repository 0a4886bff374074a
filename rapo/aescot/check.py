"""Checks: what can be known of a teacher's or a judge's model before it is asked anything.

The judges are that of critiques, and those of the rationales of RAPO and evaluation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from rapo.aescot.exchange.given import check_given
from rapo.aescot.model_judge import judge_template
from rapo.aescot.prompt import teacher_template
from rapo.chat.key import read_key
from rapo.chat.open import folder_of
from rapo.config import AesCoTConfig, AskedModelConfig, ChatConfig, Config, EndpointConfig, GroundingJudgeConfig
from rapo.errors import ConfigError, RapoError
from rapo.explanations.grounding_judge import EVALUATION_JUDGE_SECTION, JUDGE_SECTION, grounding_template
from rapo.models.folder import check_chat_folder


def check_teacher(config: Config) -> None:
    """Raise a `RapoError` for a teacher that could not start."""
    teacher = config.aescot.teacher
    if teacher.kind == "given":
        check_given(teacher, config.image, config.data.max_unusable)
    elif teacher.kind != "measured":
        teacher_template(teacher)
        _check_model(config, teacher, "aescot.teacher")


def check_judge(config: Config) -> None:
    """Raise a `RapoError` for a judge that could not start."""
    if config.aescot.judge.kind in ("vllm", "openai"):
        judge_template(config.aescot.judge)
        _check_model(config, config.aescot.judge, "aescot.judge")


def check_grounding_judges(config: Config) -> None:
    """Raise a `RapoError` for a judge of explanations that could not be asked."""
    for key, judge in _grounding_judges(config):
        grounding_template(judge, key)
        _check_key(judge, key)


def check_endpoints(config: Config) -> list[str]:
    """What keeps the endpoints of the models that the stages ask from answering. They are asked for
    their models, which costs nothing."""
    # Not at the top: the client takes a second to import.
    from rapo.chat.reach import check_reachable

    found = []
    for key, settings in _endpoints(config):
        try:
            check_reachable(settings, key)
        except RapoError as error:
            found.append(str(error))
    return found


def _endpoints(config: Config) -> Iterator[tuple[str, AskedModelConfig]]:
    """The models behind endpoints, by their sections."""
    for key, settings in (("aescot.teacher", config.aescot.teacher), ("aescot.judge", config.aescot.judge)):
        if settings.kind == "openai":
            yield key, settings
    yield from _grounding_judges(config)


def _grounding_judges(config: Config) -> Iterator[tuple[str, GroundingJudgeConfig]]:
    """The models that RAPO and the evaluation ask about rationales, by their sections."""
    if config.rapo.asks_grounding_judge:
        yield JUDGE_SECTION, config.rapo.reward.grounded_judge
    if config.evaluate.grounded_judge.kind == "openai":
        yield EVALUATION_JUDGE_SECTION, config.evaluate.grounded_judge


def described(config: Config) -> str:
    """What teacher and judge would do, in a line."""
    aescot = config.aescot
    given = f"the file {aescot.teacher.critiques}"
    by = {"measured": "the rule-based teacher", "given": given, "rules": "the rules", "none": "nobody"}
    writer, judge = (by.get(settings.kind) or _named(settings) for settings in (aescot.teacher, aescot.judge))
    most = aescot.images + int(aescot.images * aescot.refill)
    refill = f"; at most {most} images are asked about" if aescot.refill else ""
    return f"{aescot.images} critiques by {writer}, judged by {judge}{refill}"


def judged_by(config: Config) -> list[str]:
    """What judges of explanations would do, a line for each."""
    rapo, found = config.rapo, []
    if rapo.asks_grounding_judge:
        judge, most = rapo.reward.grounded_judge, rapo.steps * rapo.images_per_step * rapo.completions
        found.append(f"rationales in RAPO by {_named(judge)}: at most {most * judge.votes:,} questions")
    if config.evaluate.grounded_judge.kind == "openai":
        found.append(f"rationales in the evaluation by {_named(config.evaluate.grounded_judge)}")
    return found


def _named(settings: AskedModelConfig) -> str:
    if settings.kind == "vllm":
        return f"{settings.model} in vLLM"
    budget = settings.endpoint.budget
    return f"{settings.model} at {settings.endpoint.base_url}{'' if budget is None else f' for at most {budget:g}'}"


def warnings_of(config: Config) -> list[str]:
    """What teacher and judge would do, but is probably not intended."""
    teacher, found = config.aescot.teacher, []
    if teacher.kind in ("vllm", "openai"):
        if teacher.language.lower() != "english":
            found.append(
                f"aescot.teacher.language = '{teacher.language}': the judge's rules for structure are for English, and reject "
                "critiques in another language"
            )
        if not teacher.blind and teacher.prompt is not None and "{score}" not in teacher.prompt:
            found.append(
                "aescot.teacher.prompt does not hold {score}, so that the teacher is blind; set aescot.teacher.blind"
            )
    found += _idle(config.aescot)
    for key, settings in _endpoints(config):
        found += [f"{key}.endpoint {words}" for words in _endpoint_warnings(key, settings.endpoint)]
    return [*found, *_grounding_warnings(config)]


def _grounding_warnings(config: Config) -> Iterator[str]:
    """Terms of the reward that would be 0, and judges that would not be asked."""
    weight, judge = config.rapo.reward.weight_grounded, config.rapo.reward.grounded_judge
    if weight and judge.kind == "measures" and config.aescot.teacher.kind != "measured":
        yield (
            "rapo.reward.weight_grounded reads the clauses of the rule-based teacher, and will be 0 for critiques in free "
            f"text: set it to 0, or have a model judge them with {JUDGE_SECTION}.kind = 'openai'"
        )
    if not weight and judge.kind == "openai":
        yield f"{JUDGE_SECTION} is not asked, because rapo.reward.weight_grounded is 0"


def _endpoint_warnings(key: str, endpoint: EndpointConfig) -> Iterator[str]:
    if endpoint.prompt_price is not None and endpoint.budget is None:
        limit = (
            "aescot.images and aescot.refill limit" if key.startswith("aescot") else "the number of rationales limits"
        )
        yield f"has prices and no budget: only {limit} what it costs"
    url = urlsplit(endpoint.base_url or "")
    if endpoint.key_env is not None and url.scheme == "http" and not _is_loopback(url.hostname or ""):
        yield f"sends its key unencrypted to {url.hostname}; use https"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _idle(settings: AesCoTConfig) -> list[str]:
    """Processes and places in batches that would have nothing to do."""
    found = []
    shards = -(-settings.images // settings.shard_rows)
    if settings.teacher.actors > shards:
        found.append(
            f"aescot.teacher.actors = {settings.teacher.actors}, but {settings.images} images make {shards} shards, of which "
            "a process takes one at a time; lower aescot.shard_rows"
        )
    if settings.batch_size > settings.shard_rows:
        found.append(
            f"aescot.batch_size = {settings.batch_size} is more than aescot.shard_rows = {settings.shard_rows}: a process "
            "has to wait for further shards to fill a batch; raise aescot.shard_rows"
        )
    return found


def _check_model(config: Config, settings: ChatConfig, key: str) -> None:
    if settings.kind == "vllm":
        folder = folder_of(config, settings)
        check_chat_folder(folder)
        # Not at the top: it imports transformers, which nothing else here needs.
        from rapo.models.completeness import check_teacher_parameters

        check_teacher_parameters(folder)
        return
    _check_key(settings, key)


def _check_key(settings: AskedModelConfig, key: str) -> None:
    try:
        read_key(settings.endpoint.key_env)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
