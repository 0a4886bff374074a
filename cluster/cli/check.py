"""Check: what a configuration would run and what is wrong with it, from the configuration and the
file system. Nothing is started."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from cluster.cli.check_fit import colocation_problems, length_problems, machine_problems, transport_problems
from cluster.cli.engine_build import check_engine_build, unnamed_architecture
from cluster.remote.ray_session import check_object_store, logical_cpus, working_dir_problem
from rapo.aescot.check import check_grounding_judges, check_judge, check_teacher, described, judged_by, warnings_of
from rapo.config import Config
from rapo.datasets.check import DataCheck, check_data
from rapo.errors import ModelError, RapoError, ResourceError
from rapo.models.folder import architectures, check_model_folder
from rapo.models.prompt_length import prompt_length
from rapo.util.ports import port_problem


def describe(config: Config, data: DataCheck) -> list[str]:
    """What would run, a line per stage and source."""
    scenes, rapo = config.data.scenes, config.rapo
    embedded = f"the embedded scenes ({scenes.train} train, {scenes.validation} validation, {scenes.test} test)"
    sources = [embedded] if config.data.embedded else data.lines
    model = "the embedded policy, from random weights" if config.policy.model == "embedded" else config.policy.model
    where = (
        f"the cluster at {config.ray.address}"
        if config.ray.address
        else f"a local Ray ({logical_cpus(config)} logical CPUs)"
    )
    judges = judged_by(config)
    lora = f", LoRA of rank {config.learner.lora.rank}" if config.learner.lora.rank else ""
    return [
        *(f"{'' if number else 'data':<10} {line}" for number, line in enumerate(sources)),
        f"aescot     {described(config)}",
        f"coldstart  {config.coldstart.steps} steps of {config.coldstart.batch_size} on {config.coldstart.workers} "
        f"worker(s), ZeRO-{config.coldstart.zero_stage}, from {model}",
        f"rapo       {rapo.steps} steps of {_images(config, data)} x {rapo.completions} completions; "
        f"{config.rollout.workers} rollout worker(s), {config.learner.workers} learner rank(s), "
        f"ZeRO-{config.learner.zero_stage}{lora}",
        *(f"{'' if number else 'judged':<10} {line}" for number, line in enumerate(judges)),
        f"serve      gRPC on {config.serve.host}:{config.serve.port}, {config.serve.replicas} replica(s)"
        if config.serve.demo_images
        else "serve      skipped (serve.demo_images is 0)",
        f"on         {where}",
    ]


def _images(config: Config, data: DataCheck) -> str:
    """The images of a step: all that there are, where they are fewer than a step asks for."""
    asked = config.rapo.images_per_step
    if not data.train or data.train >= asked:
        return f"{asked} images"
    return f"{data.train} images (all there are for training; rapo.images_per_step = {asked})"


def problems(config: Config, stages: Sequence[str], data: DataCheck | None = None) -> list[str]:
    """Everything that would stop the stages, each with what to do. `data` is what was found about
    the data, where that is known already."""
    if not stages:
        return []
    length = prompt_length(config)
    found = list((data or check_data(config, length)).problems)
    writing = (check_teacher, check_judge) if "aescot" in stages else ()
    judging = (check_grounding_judges,) if {"rapo", "evaluate"} & set(stages) else ()
    for check in (_model, *writing, *judging, _batch, _wandb, _working_dir, check_object_store, check_engine_build):
        try:
            check(config)
        except RapoError as error:
            found.append(str(error))
    found += length_problems(config, length)
    found += machine_problems(config, stages)
    if "rapo" in stages:
        found += [*transport_problems(config), *colocation_problems(config)]
    if "serve" in stages and config.serve.demo_images:
        found += _serving(config)
    return found


def _serving(config: Config) -> list[str]:
    """An address that may not be opened, or that is in use."""
    from services.gateway.exposure import check_access

    try:
        check_access(config.serve)
    except RapoError as error:
        return [str(error)]
    if port_problem(config.serve.host, config.serve.port) is not None:
        return [
            f"port {config.serve.port} on {config.serve.host} is in use; choose another with --set serve.port=... (0: any "
            "free one)"
        ]
    return []


def warnings(config: Config, data: DataCheck) -> list[str]:
    """What would run, but is probably not intended."""
    found = [*data.warnings, *warnings_of(config)]
    if config.policy.model != "embedded" and max(config.coldstart.learning_rate, config.rapo.learning_rate) > 1e-4:
        found.append(
            f"coldstart.learning_rate = {config.coldstart.learning_rate:g} and rapo.learning_rate = "
            f"{config.rapo.learning_rate:g} suit the embedded policy; a pre-trained model needs about 1e-5 and 1e-6"
        )
    if config.evaluate.readout != config.serve.readout:
        found.append(
            f"the model is chosen and measured by evaluate.readout = '{config.evaluate.readout}' and served by "
            f"serve.readout = '{config.serve.readout}': its calibrated interval is for the first only; set both alike"
        )
    return [*found, *_rows(config), *_architecture(config)]


def _architecture(config: Config) -> list[str]:
    """A model that vLLM's list of models lacks."""
    if config.policy.model == "embedded":
        return []
    try:
        words = unnamed_architecture(architectures(config.policy.model))
    except ModelError:  # one of the problems
        return []
    return [] if words is None else [words]


def _rows(config: Config) -> list[str]:
    """Completions that cannot share the prefix of their image."""
    packings = {"coldstart.packing": config.coldstart.packing, "learner.packing": config.learner.packing}
    shared = [name for name, packing in packings.items() if packing == "prefix"]
    if config.policy.model == "embedded" or not shared:
        return []
    try:
        check_model_folder(config.policy.model)
        # Not at the top: they import transformers, which nothing else here needs.
        from rapo.families.registry import family_of
        from rapo.models.completeness import read_config

        model = read_config(config.policy.model)
        reason = family_of(model).unpackable(model)
    except ModelError:  # one of the problems
        return []
    if reason is None:
        return []
    return [
        f"every completion is trained with a prompt of its own, which takes more time and memory than "
        f"{' and '.join(shared)} = 'prefix': {reason}"
    ]


def _wandb(config: Config) -> None:
    if config.telemetry.wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise ResourceError(
            "telemetry.wandb_project is set but wandb is not installed: pip install 'rapo[wandb]', or leave the key out"
        )


def _working_dir(config: Config) -> None:
    if problem := working_dir_problem(config):
        raise ResourceError(problem)


def _model(config: Config) -> None:
    if config.policy.model != "embedded":
        check_model_folder(config.policy.model)
        # Not at the top: they import transformers, which nothing else here needs.
        from rapo.models.completeness import check_parameters, read_config
        from rapo.policy.processing import PolicyProcessor

        check_parameters(config.policy.model)
        policy = config.policy
        processor = PolicyProcessor(policy.model, min_pixels=policy.min_pixels, max_pixels=policy.max_pixels)
        on_gpu = config.rollout.gpus > 0 and (config.serve.gpus > 0 or config.serve.demo_images == 0)
        processor.family.check_engine(read_config(policy.model), on_gpu=on_gpu)
        soft = config.coldstart.answer == "soft_label"
        if config.rapo.reads_answers or soft or {config.evaluate.readout, config.serve.readout} & {"expected", "fast"}:
            _ = processor.answer_tokens  # raises for a tokenizer that these are not defined for


def _batch(config: Config) -> None:
    learners, groups = config.learner.workers, config.rapo.images_per_step
    if groups < learners:
        raise RapoError(
            f"rapo.images_per_step = {groups} is less than learner.workers = {learners}; raise it, or lower learner.workers"
        )
    if config.coldstart.batch_size < config.coldstart.workers:
        raise RapoError(
            f"coldstart.batch_size = {config.coldstart.batch_size} is less than coldstart.workers = "
            f"{config.coldstart.workers}; raise it, or lower coldstart.workers"
        )
