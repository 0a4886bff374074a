"""Completeness: proves that a model folder holds every parameter of its architecture, and no other.

- transformers itself says what fits: its loader runs on the meta device, with the names and shapes
  of the files' headers. Tied weights, and the names of other trainers that transformers maps, are
  therefore fine exactly where they load.
- No weight is read. `check_finite` looks at the values, once they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging

from rapo.errors import ModelError
from rapo.models.weight_files import INDEX, SINGLE, stored_tensors

_SHOWN = 3
# What transformers raises for a model that it does not have, and for values of the wrong kind.
_REFUSALS = (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError)


class LoadingInfo(TypedDict):
    """What transformers' `from_pretrained` says about the names, and about shapes (a name, that of
    the file and that of the model)."""

    missing_keys: set[str]
    unexpected_keys: set[str]
    mismatched_keys: set[tuple[str, torch.Size, torch.Size]]


def check_parameters(folder: str | Path, *, extra: bool = False) -> None:
    """Raise `ModelError` unless the folder's tensors are the parameters of its architecture.

    `extra` allows tensors that the architecture does not have. Takes the import of transformers and
    less than a second, for a model of any size.
    """
    refuse_incomplete(folder, _loaded_on_meta(folder)[1], extra=extra)


def empty_model(folder: str | Path) -> PreTrainedModel:
    """The folder's model on the meta device, which saves its weights under the folder's names."""
    return _loaded_on_meta(folder)[0]


def stored_names(folder: str | Path) -> dict[str, str]:
    """The names under which the folder stores parameters whose names in memory are others."""
    model, names = empty_model(folder), {}
    for name, parameter in model.named_parameters():
        (stored, _), *more = revert_weight_conversion(model, {name: parameter}).items()
        if stored != name and not more:
            names[name] = stored
    return names


def _loaded_on_meta(folder: str | Path) -> tuple[PreTrainedModel, LoadingInfo]:
    config = read_config(folder)
    state = {name: torch.empty(one.shape, device="meta") for name, one in stored_tensors(folder).items()}
    with quiet_loading():
        loaded: tuple[PreTrainedModel, LoadingInfo] = model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=state,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return loaded


def check_teacher_parameters(folder: str | Path) -> None:
    """The same for a teacher, as far as it can be known: no parameter is missing or misshapen.

    What cannot be known is left to vLLM: architectures that transformers lacks, quantised weights,
    and files other than safetensors.
    """
    try:
        config = read_config(folder)
    except ModelError:
        return
    known = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not hasattr(config, "quantization_config")
    if known and any((Path(folder) / name).is_file() for name in (SINGLE, INDEX)):
        check_parameters(folder, extra=True)


def read_config(folder: str | Path) -> PretrainedConfig:
    """The configuration of a model folder. Raises `ModelError` where transformers does not know the
    model, or refuses a value; code that comes with a model is not run."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"transformers cannot use config.json in {folder}: {reason}") from error
    return config


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that generates text from images with this configuration. Raises `ModelError` where
    transformers has none."""
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(f"transformers has no vision-language model of the type {config.model_type!r}.")
    found: type[PreTrainedModel] = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    return found


def refuse_incomplete(folder: str | Path, info: LoadingInfo, *, extra: bool = False) -> None:
    """Raise `ModelError` unless `info`, of transformers' `from_pretrained`, says that all fits."""
    missing, unexpected = sorted(info["missing_keys"]), [] if extra else sorted(info["unexpected_keys"])
    shapes = [f"{name} {_shape(got)} instead of {_shape(want)}" for name, got, want in sorted(info["mismatched_keys"])]
    found = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of the wrong shape"))
        if names
    ]
    if not found:
        return
    advice = (
        "The names are of another architecture or another program; convert them to transformers' names."
        if missing and unexpected
        else "Is config.json that of these weights, and is every file there?"
    )
    raise ModelError(f"{folder} does not hold the parameters of its architecture: {'; '.join(found)}. {advice}")


def check_finite(folder: str | Path, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise `ModelError` where a loaded parameter holds NaN or infinity."""
    refuse_not_finite(folder, not_finite(parameters))


def not_finite(parameters: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """The names of the parameters that hold NaN or infinity."""
    return [
        name
        for name, tensor in parameters
        if tensor.is_floating_point() and tensor.element_size() > 1 and not bool(torch.isfinite(tensor).all())
    ]


def refuse_not_finite(folder: str | Path, names: Sequence[str]) -> None:
    """Raise `ModelError` if there are `names` of parameters that are not finite."""
    if names:
        raise ModelError(
            f"{folder}: {len(names)} parameters hold NaN or infinity ({', '.join(names[:_SHOWN])}"
            f"{', ...' if len(names) > _SHOWN else ''}). The training that wrote them had diverged, or the file is damaged."
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bar and table of names: what they say becomes an error."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _shape(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "scalar"
