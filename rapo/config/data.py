"""Configuration section `data`: the sources of images with human scores, their splits and mix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rapo.config.types import Fraction, Positive, Section, StoredPath

SceneWorld = Literal["usual", "unseen"]


class ScenesConfig(Section):
    """The embedded data set: rendered scenes, rated by simulated raters, on disk in AVA's
    layout."""

    train: Positive = 2000
    validation: Positive = 128
    test: Positive = 256
    size: Annotated[int, Field(ge=56, le=1024)] = 84
    raters: Annotated[int, Field(ge=2)] = 40
    world: SceneWorld = "usual"  # palettes, subjects and raters


def _set_name(name: str) -> str:
    if not name.strip() or name in (".", "..") or "/" in name:
        raise ValueError("a data set's name may not be empty, '.' or '..', nor hold '/': folders are named after it")
    return name


SetName = Annotated[str, AfterValidator(_set_name)]

Role = Literal["auto", "split", "train", "validation", "test"]


class ColumnsConfig(Section):
    """The columns of a table, where they have names of their own. Unset: the usual names; "": not
    used."""

    image: str | None = None
    score: str | None = None
    std: str | None = None
    split: str | None = None
    dataset: str | None = None


class SourceConfig(Section):
    """One source of images with human scores: a folder, a label file, or a data set of the hub."""

    path: StoredPath | None = None
    hub: str | None = Field(None, description="data set on the Hugging Face hub, as OWNER/NAME; instead of path")
    online: bool = Field(False, description="hub data may be downloaded; false: from the local cache only")
    format: str = Field("auto", description="layout; auto: recognised by content (rapo/datasets/layouts/)")
    images: StoredPath | None = Field(None, description="folder that relative image names are looked up in")
    name: SetName | None = Field(None, description="data set name; pairs are compared within one data set only")
    role: Role = Field(
        "auto", description="auto: the collection's own splits; split: by hash; train, ...: for this split only"
    )
    score_range: tuple[float, float] | None = Field(None, description="native scale of the scores of a table")
    std_range: tuple[float, float] | None = Field(None, description="scale of the raters' spread; default: the scores'")
    normalizer: Literal["minmax", "max"] = "minmax"
    quota: Positive | None = Field(None, description="training images of this source, sampled by the seed")
    weight: Annotated[float, Field(gt=0)] | None = Field(
        None, description="share of the training batches; default: by the number of images"
    )
    columns: ColumnsConfig = ColumnsConfig()

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if self.path is not None and self.hub is not None:
            raise ValueError("path and hub exclude each other: a source lies on disk or on the hub")
        return self


class DataConfig(SourceConfig):
    """Images with human scores. The keys of a source are the short form of `sources` with one
    entry. Without any source the embedded scenes are rendered into the run folder."""

    sources: tuple[SourceConfig, ...] = ()
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.2
    max_train: Positive | None = None
    max_validation: Positive | None = None
    max_test: Positive | None = None
    contamination: Literal["drop", "report"] = Field(
        "drop", description="images that a later split (validation, test) holds too: left out, or only reported"
    )
    max_unusable: Fraction = Field(
        0.2, description="share of a source's images that may be missing or unusable; with more the run stops"
    )
    long_prompts: Literal["skip", "refuse"] = Field(
        "skip", description="images whose prompt does not fit the model's length: left out and listed, or an error"
    )
    scenes: ScenesConfig = ScenesConfig()

    @model_validator(mode="after")
    def _one_form(self) -> DataConfig:
        own = [name for name, field in SourceConfig.model_fields.items() if getattr(self, name) != field.default]
        if self.sources and own:
            raise ValueError(f"data.{own[0]} and data.sources exclude each other: move it into a source")
        for number, source in enumerate(self.sources, start=1):
            if source.path is None and source.hub is None:
                raise ValueError(f"source {number} of data.sources needs a path (or hub)")
        weighted = [source.weight is not None for source in self.sources if source.role in ("auto", "split", "train")]
        if any(weighted) and not all(weighted):
            raise ValueError(
                "give each source of data.sources a weight, or none; those for validation or test (role) need none"
            )
        return self

    @property
    def single(self) -> SourceConfig:
        """The source that the keys of the short form describe."""
        return SourceConfig(**{name: getattr(self, name) for name in SourceConfig.model_fields})

    @property
    def embedded(self) -> bool:
        """Whether the embedded scenes are the data."""
        return not self.sources and self.path is None and self.hub is None

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """Every source; none where the embedded scenes are the data."""
        return self.sources or (() if self.embedded else (self.single,))
