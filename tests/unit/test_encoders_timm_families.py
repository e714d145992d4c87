"""timm's families, one small network of each: CLS is what the library pools or its class token; patches are normed."""

import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from robustprobe import UserError, load_encoder
from robustprobe.encoders import check_encoder
from robustprobe.encoders._timm import create, wrap
from tests.unit.encoders_on_disk import close

pytestmark = pytest.mark.unit

POOLED = (
    *("test_byobnet", "convnext_atto_rms", "cs3darknet_focus_s", "cspnext_tiny", "dla46x_c", "edgenext_xx_small"),
    *(
        "efficientformer_l1",
        "efficientformerv2_s0",
        "efficientvit_m0",
        "fastvit_t8",
        "gmlp_ti16_224",
        "hrnet_w18_small",
    ),
    *(
        "iformer_t",
        "levit_128s",
        "mobilevit_xxs",
        "mixer_s32_224",
        "test_nfnet",
        "pvt_v2_b0",
        "regnetx_002",
        "repvit_m1",
    ),
    *("test_resnet", "resnetv2_18", "rexnet_100", "resnest14d", "legacy_seresnet18", "skresnet18", "shvit_s1"),
    *("starnet_s050", "swiftformer_xs", "tiny_vit_5m_224", "visformer_tiny", "ese_vovnet19b_slim_dw", "poolformer_s12"),
    *("coatnet_pico_rw_224", "gcvit_xxtiny", "test_vit_relpos", "densenet121", "twins_svt_small", "test_efficientnet"),
    *("halonet_h1", "tf_efficientnet_b1"),
)
CLASS_TOKEN = (
    *(
        "cait_xxs24_224",
        "convit_tiny",
        "deit_tiny_patch16_224",
        "eva02_tiny_patch14_224",
        "test_vit",
        "xcit_nano_12_p8_224",
    ),
    *("vit_tiny_r_s16_p8_224", "pit_ti_224", "volo_d1_224", "coat_lite_tiny", "coat_tiny"),
)
EXCEPTIONS = {
    **dict.fromkeys(
        ("efficientvit_b0", "fasternet_t0", "ghostnet_050", "hardcorenas_b", "inception_next_atto", "lcnet_035"),
        "a hidden layer of the classifier follows the pooling; CLS is the pooled map before it",
    ),
    **dict.fromkeys(
        ("lcnetv2_small", "repghostnet_050", "test_mambaout", "cpubone_nano", "hgnetv2_b0"),
        "a hidden layer of the classifier follows the pooling; CLS is the pooled map before it",
    ),
    "test_vit3": "pools by attention, a layer of the classifier; CLS is the mean of the patch tokens",
}
AT_ITS_OWN_SIZE = ("halonet_h1",)
REFUSED = {
    "crossvit_tiny_240": "two branches of patches of different sizes",
    "efficientvim_m1": "from several stages together",
}


def encoder_and_model(name: str) -> tuple[Any, Any]:
    model = create(name).eval()
    with torch.no_grad():
        for norm in (m for m in model.modules() if "Norm" in type(m).__name__):
            # A norm with weights of 1 and 0 would hide a second one.
            for number, tensor in enumerate(norm.parameters(recurse=False)):
                tensor.add_(0.1 * (1 + number))
    return wrap(name, model, source="timm").freeze(), model


def library(model: Any, images: Tensor) -> tuple[Tensor, Tensor, nn.Module | None]:
    """What timm returns of the last layer, the vector it pools, and the norm it applies to that vector."""
    final = model.forward_features(images)
    norms: list[nn.Module] = []
    inside = [m for n, m in model.named_modules() if _is_norm(m) and "attn_pool" not in n]
    hooks = [m.register_forward_hook(lambda m, a, o: norms.append(m)) for m in inside]
    pooled = model.forward_head(final, pre_logits=True).flatten(1)
    for hook in hooks:
        hook.remove()
    fitting = [n for n in norms if next(n.parameters()).shape[0] == model.num_features]
    return final, pooled, fitting[0] if fitting else None


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and not list(module.children())


def tokens_of(final: Tensor, count: int, channels_last: bool) -> Tensor:
    """The map (B, h * w, D) among what timm returns."""
    if final.ndim == 3:
        return final[:, final.shape[1] - count :]
    return (final if channels_last else final.permute(0, 2, 3, 1)).flatten(1, 2)


def normed(norm: Any, tokens: Tensor) -> Any:
    if norm is None:
        return tokens
    return norm(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2) if "2d" in str(type(norm)) else norm(tokens)


@pytest.mark.parametrize("name", [*POOLED, *CLASS_TOKEN, *EXCEPTIONS])
@torch.no_grad()
def test_cls_is_what_the_library_pools_and_patches_come_after_the_final_norm(name: str) -> None:
    encoder, model = encoder_and_model(name)
    patch = encoder.card.patch_size
    own = encoder.card.fixed_size or name in AT_ITS_OWN_SIZE
    height, width = encoder.card.input_size if own else (2 * patch, 3 * patch)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    features = encoder(images)
    inside = (images - encoder.mean) / encoder.std
    final, pooled, norm = library(model, inside)
    grid = features.patches.shape[2] * features.patches.shape[3]
    assert grid == height * width // patch**2
    if name == "pit_ti_224":  # timm returns the class token alone
        norm, final = model.norm, model.forward_intermediates(inside, indices=1, intermediates_only=True)[-1]
    last = final[-1] if isinstance(final, list | tuple) else final
    expected = tokens_of(last, grid, getattr(model, "output_fmt", "") == "NHWC")
    close(features.patches.flatten(2).transpose(1, 2), normed(norm, expected))
    if name in CLASS_TOKEN:
        close(features.cls, norm(last[:, 0]) if norm and name != "pit_ti_224" else pooled)
    elif name in EXCEPTIONS:
        close(features.cls, normed(norm, expected.mean(1, keepdim=True))[:, 0])
    else:
        close(features.cls, pooled)


def test_so_many_families_are_covered_and_none_is_an_exception_without_need() -> None:
    from timm.models import _registry

    modules = {_registry._model_to_module[name] for name in (*POOLED, *CLASS_TOKEN, *EXCEPTIONS, *REFUSED)}
    assert len(modules) >= 40
    for name in ("lcnet_035", "test_mambaout", "inception_next_atto"):
        model = create(name).eval()
        assert model.head_hidden_size != model.num_features


@pytest.mark.parametrize("name", REFUSED)
def test_families_without_one_map_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]):
        load_encoder(f"timm:{name}.random")


@pytest.mark.parametrize(
    ("name", "size", "patch", "note"),
    [
        ("tf_efficientnet_lite1", 256, 32, "made for 240 x 240, no multiple of its stride of 32; served at 256 x 256"),
        ("efficientnet_b3", 288, 32, ""),
        ("legacy_xception", 320, 32, "made for 299 x 299"),
        ("selecsls42", 256, 64, "made for 224 x 224, no multiple of its stride of 64"),
        ("levit_128s", 224, 56, "its map of stride 64 has 4 x 4 cells: patch size 56"),
        ("deit_tiny_patch16_224", 224, 16, ""),
    ],
)
def test_a_size_that_is_no_multiple_of_the_stride_is_replaced_and_the_note_says_which(
    name: str, size: int, patch: int, note: str
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    card = wrap(f"timm:{name}.random", model, source="timm").card
    assert (card.input_size, card.patch_size) == ((size, size), patch)
    assert card.notes.startswith(note)
    assert bool(card.notes) == bool(note)


def test_a_fixed_size_that_no_map_divides_is_refused() -> None:
    with torch.device("meta"):
        model = timm.create_model("levit_128s", num_classes=0)
    model.pretrained_cfg["input_size"] = (3, 230, 230)
    with pytest.raises(UserError, match="takes images of 230 x 230 only, which its map of stride 64 does not divide"):
        wrap("timm:levit_128s", model, source="timm")


@torch.no_grad()
def test_a_map_of_a_network_without_padding_is_resized_to_the_grid() -> None:
    """Inception-v3 gives 8 x 8 positions of an image of 320 x 320; CLS is the mean of those."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = create("inception_v3").eval()
    encoder = wrap("timm:inception_v3.random", model, source="timm")
    images = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    features = encoder(images)
    raw = model.forward_features((images - encoder.mean) / encoder.std)
    assert features.patches.shape[2:] == (10, 10) != raw.shape[2:]
    close(features.cls, raw.mean((2, 3)))


def test_the_contract_holds_for_a_network_whose_own_size_is_no_multiple() -> None:
    checks = check_encoder(load_encoder("timm:tf_efficientnet_lite1.random"))
    assert [c.name for c in checks if not c.passed] == []


@pytest.mark.parametrize("class_token", [True, False])
def test_a_class_token_among_the_embeddings_is_one(class_token: bool) -> None:
    """NaFlexViT keeps it there; RADIO's weights have one, others none and are pooled."""
    small: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "reg_tokens": 3}
    pool = "token" if class_token else "avg"
    model = create("naflexvit_base_patch16_gap", class_token=class_token, global_pool=pool, fc_norm=False, **small)
    encoder = wrap("timm:naflexvit", model.eval(), source="timm")
    images = torch.rand(2, 3, *encoder.card.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = model.forward_features((images - encoder.mean) / encoder.std)
        features = encoder(images)
    patches = tokens[:, 3 + class_token :]
    close(features.cls, tokens[:, 0] if class_token else patches.mean(1))
    close(features.patches.flatten(2), patches.transpose(1, 2))
