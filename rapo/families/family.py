"""Family: what differs between families of vision-language models. This class is the generic one.

- The generic family works through the processor's own tensors. The learner trains one row per
  completion; the engine gets what vLLM itself makes of an image.
- A family with a file of its own overrides what it can do better, above all `unpackable` and
  `packed_hidden`, so that the completions of an image share their prefix.
- Nothing outside `rapo/families/` knows a family by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_backends import TorchvisionBackend

from rapo.errors import ModelError
from rapo.families.inputs import EncodedImage, Prepared, Render

if TYPE_CHECKING:
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    from rapo.policy.packing import Packed
    from rapo.policy.processing import PolicyProcessor

Tensors = Mapping[str, torch.Tensor]

# What changes logits behind the head, and what only some programs apply.
_LOGIT_RULES = ("final_logit_softcapping", "logits_scaling", "logit_scale")

_CHANNELS = 4
# Families whose image tokens see one another whatever their configuration says (vLLM 0.32).
_IMAGES_SEE_AHEAD = frozenset({"bagel", "gemma3", "molmo2", "moondream3", "paligemma"})


class Family:
    """The families that have no file of their own. It holds no state."""

    #: Whether the image processor keeps an image's area within `min_pixels` and `max_pixels`.
    limits_pixels = False
    #: Whether weights go to the engine and into an export under the names of the model folder. vLLM
    #: knows those of published models, but not always those of transformers' modules.
    keeps_stored_names = True
    #: Whether vLLM's processor is transformers' own, which takes tensors. Others want Pillow's
    #: images.
    renders_tensors = False

    # The prompt and the image.

    def prepare(self, processor: PolicyProcessor, pixels: NDArray[np.uint8]) -> Prepared:
        """What the learner takes for one RGB image `(height, width, 3)` behind the prompt. Raises
        `ModelError` where the processor puts no image into the prompt."""
        images = [as_processed(processor, pixels)]
        made = processor.processor(
            text=[processor.prompt], images=images, add_special_tokens=False, return_tensors="np"
        )
        ids = np.asarray(made.pop("input_ids"), np.int64)
        made.pop("attention_mask", None)
        if not (ids == processor.image_token_id).any():
            raise ModelError(
                "the processor puts no image token into the prompt. Check chat_template in the model folder, and "
                "image_token_id in its config.json."
            )
        types = {name: np.asarray(made.pop(name)[0], np.int64) for name in list(made) if made[name].shape == ids.shape}
        return Prepared({name: np.asarray(array) for name, array in made.items()}, ids[0], types)

    def pixel_levels(self, processor: PolicyProcessor) -> NDArray[np.float32] | None:
        """What the image processor makes of each value of a pixel `(channels, 256)`, where that is
        all that it does to pixels at the size at which the model sees them; else None."""
        return None

    # The learner.

    def check(self, config: PretrainedConfig) -> None:
        """Raise `ModelError` where the learner would compute other log-probs than the engine."""
        text = config.get_text_config()
        rules = [name for name in _LOGIT_RULES if getattr(text, name, None) not in {None, 1}]
        if rules:
            raise ModelError(
                f"the model changes its logits behind the head ({', '.join(rules)}), which the learner does not do: "
                f"a {config.model_type!r} cannot be trained."
            )

    def check_engine(self, config: PretrainedConfig, *, on_gpu: bool) -> None:
        """Raise `ModelError` where vLLM, on a GPU or on a CPU, computes other log-probs than the
        model has."""
        if _images_see_ahead(config) and not on_gpu:  # vLLM's attention on CPUs has no mask for it
            raise ModelError(
                f"the image tokens of a {config.model_type!r} see one another, and vLLM on CPUs lets them see only those "
                "before them: it would sample from and score with another model. Give rollout.gpus and serve.gpus."
            )

    def text_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """The text model, without the head."""
        text: PreTrainedModel = model.model.get_decoder()
        return text

    def windowed_tower(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """The vision tower whose attention takes images and windows one behind the other, with
        their places as `cu_seqlens`; None where it takes a batch."""
        return None

    def unpackable(self, config: PretrainedConfig) -> str | None:
        """Why completions of a model of this configuration cannot share a prefix; None where they
        can."""
        return f"rapo has no shared prefixes for the family {config.model_type!r}"

    def merge(self, images: Sequence[Tensors]) -> dict[str, torch.Tensor]:
        """The tensors of several images in one: behind one another, padded with zeros where the
        other sides differ."""
        return {name: _joined([image[name] for image in images]) for name in images[0]}

    def row_hidden(
        self, model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, images: Sequence[Tensors], types: Tensors
    ) -> torch.Tensor:
        """Hidden states `(rows, width, H)` of rows `ids` that `mask` says are tokens, each with its
        image, and marks `types` of its tokens."""
        places = {}
        if not hasattr(model.model, "get_rope_index"):
            # Padding on the left must not move a prompt.
            places["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        hidden: torch.Tensor = model.model(
            input_ids=ids, attention_mask=mask, **self.merge(images), **types, **places, use_cache=False
        ).last_hidden_state
        return hidden

    def positions(
        self, model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, images: Sequence[Tensors], types: Tensors
    ) -> torch.Tensor:
        """The positions `(axes, G, P)` of padded prompts `ids` `(G, P)`. One axis here."""
        return (mask.cumsum(1) - 1).clamp(min=0)[None]

    def packed_hidden(
        self, model: PreTrainedModel, packed: Packed, is_image: torch.Tensor, images: Sequence[Tensors]
    ) -> torch.Tensor:
        """Hidden states `(T, H)` of a packed sequence whose image tokens are `is_image` `(T,)`.

        The text model must take `packed.positions` as they are, and hand `layout=packed.layout` on
        to its attention.
        """
        raise NotImplementedError(self.unpackable(model.config))

    # The engine.

    def encode(self, processor: PolicyProcessor, pixels: NDArray[np.uint8], key: str, render: Render) -> EncodedImage:
        """The RGB image `(height, width, 3)` for the engine: what vLLM makes of it. Call it from
        any thread.

        Raises `ModelError` where vLLM's prompt is not that of the learner.
        """
        image = as_processed(processor, pixels) if self.renders_tensors else Image.fromarray(pixels)
        ids, feature = render(processor.prompt_token_ids, image, key)
        size = pixels.shape[:2]
        # Both prompts follow from the image's size.
        own = ids if size in render.compared else self.prepare(processor, pixels).prompt_ids.tolist()
        if ids != own:
            counts = [part.count(processor.image_token_id) for part in (ids, own)]
            raise ModelError(
                f"vLLM's prompt for an image of {size[1]} x {size[0]} has {len(ids)} tokens ({counts[0]} of the "
                f"image), that of transformers {len(own)} ({counts[1]}), or they differ: sampler and learner would not "
                "see the same prompt. The model cannot be trained with these versions."
            )
        render.compared.add(size)
        return EncodedImage({}, ids, key, feature)

    def feature(self, encoded: EncodedImage, image_token_id: int) -> MultiModalFeatureSpec:
        """vLLM's description of an encoded image, new for each request."""
        assert encoded.rendered is not None
        return replace(encoded.rendered)


class PackingFamily(Family):
    """Base of the families whose completions share their prefix: a text model of `packs` whose
    every token sees all tokens before it."""

    keeps_stored_names = False
    #: The `model_type` of the text models whose attention hands on the layout.
    packs: frozenset[str] = frozenset()

    def unpackable(self, config: PretrainedConfig) -> str | None:
        text = config.get_text_config()
        if text.model_type not in self.packs:
            return f"rapo has no shared prefixes for a text model of the type {text.model_type!r}"
        others = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention"})
        if others:
            return (
                f"its text model has layers with {', '.join(others)}, where a completion does not see all of its prefix"
            )
        if text.attention_dropout:
            return f"its text model has an attention dropout of {text.attention_dropout}"
        return None


def as_processed(processor: PolicyProcessor, pixels: NDArray[np.uint8]) -> Image.Image | torch.Tensor:
    """The form `(3, height, width)` in which transformers' image processor works, where that is a
    tensor.

    The processor itself would get it through two copies: most of a second for 50 megapixels, which
    goes on when the image's caller has gone. A few columns would be taken for channels.
    """
    if isinstance(processor.processor.image_processor, TorchvisionBackend) and pixels.shape[1] > _CHANNELS:
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return Image.fromarray(pixels)


def _images_see_ahead(config: PretrainedConfig) -> bool:
    """Whether image tokens see those of their image that come after them."""
    seen = getattr(config.get_text_config(), "use_bidirectional_attention", None)
    return config.model_type in _IMAGES_SEE_AHEAD or seen == "vision"


def place_features(embeds: torch.Tensor, is_image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`embeds` `(T, H)` with the rows of `features` at the image tokens `is_image` `(T,)`. Raises
    `ModelError` where there are more or fewer."""
    places = int(is_image.sum())
    if places != len(features):
        raise ModelError(f"the vision tower makes {len(features)} features, and the prompts have {places} image tokens")
    return embeds.masked_scatter(is_image[:, None], features.to(embeds.dtype))


def no_mask(embeds: torch.Tensor) -> torch.Tensor:
    """A mask for text models that would build one: taken as it is, and read by no one, because the
    layout says what a token sees."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeds.device)


def vision_parameters(family: Family, model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of the vision tower and its projector: all that the text model and the head do
    not have."""
    head = model.get_output_embeddings()
    text = {id(p) for module in (family.text_model(model), head) for p in module.parameters()}
    return [p for p in model.parameters() if id(p) not in text]


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if len({part.shape[1:] for part in parts}) > 1:
        sides = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        parts = [_padded(part, sides) for part in parts]
    return torch.cat(list(parts))


def _padded(part: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    whole = part.new_zeros(part.shape[0], *sides)
    whole[tuple(slice(size) for size in part.shape)] = part
    return whole
