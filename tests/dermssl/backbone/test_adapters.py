"""Weights as other projects release them: made here with their key names and shapes, read back into timm's networks."""

import argparse
import pickle
import re

import pytest
import timm
import torch

from dermssl.backbone.layouts import translate
from dermssl.backbone.weights import guess_architecture, load_weights, read_weights
from dermssl.errors import InputError


def network(name, seed, **changes):
    """A network of two blocks (ResNets whole) with weights that are nowhere zero or equal."""
    changes |= {} if name.startswith(("resnet", "tf_")) else {"depth": 2}
    model = timm.create_model(name, num_classes=0, **changes).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def rename(weights, *rules):
    """Weights with each regular expression of ``rules`` replaced, in their order."""
    found = {}
    for name, value in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def split_qkv(weights, names):
    """``attn.qkv`` as three, each under its pattern of ``names``."""
    found = {}
    for name, value in weights.items():
        if match := re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name):
            for part, pattern in zip(value.chunk(3), names, strict=True):
                found[f"{match[1]}.{pattern}.{match[2]}"] = part
        else:
            found[name] = value
    return found


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


HEADS = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.zeros(4, 1)}
VIT, RESNET = "vit_tiny_patch16_224", "resnet18"
DINOV2, REGISTERS = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
CLIP = "vit_base_patch32_clip_quickgelu_224"


def dino(w):
    student = under("module.", under("backbone.", {name: value + 1 for name, value in w.items()}) | HEADS)
    return {"student": student, "teacher": under("backbone.", w) | HEADS, "args": argparse.Namespace(arch="vit_tiny")}


def ibot(w):
    return {"state_dict": under("backbone.", w) | {"backbone.masked_embed": torch.zeros(1, 192)} | HEADS}


def dinov2(w):
    return w | {"mask_token": torch.zeros(1, 384)}


def dinov2_registers(w):
    """timm keeps no position of the class token: the authors' table has one, here zero."""
    table = torch.cat([torch.zeros_like(w["cls_token"]), w["pos_embed"]], dim=1)
    rest = {name: value for name, value in w.items() if name not in ("reg_token", "pos_embed")}
    return rest | {"register_tokens": w["reg_token"], "pos_embed": table, "mask_token": torch.zeros(1, 384)}


def dinov2_training(w):
    chunks = rename(dinov2(w), (r"^blocks\.(\d+)\.", r"blocks.\1.\1."))
    return {"teacher": under("backbone.", chunks) | {"dino_head.mlp.0.weight": torch.zeros(2, 2)}}


def dinov2_swiglu(w):
    return dinov2(rename(w, (r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3.")))


def dinov3(w):
    names = rename(w, ("^reg_token$", "storage_tokens"), (r"\.gamma_(\d)$", r".ls\1.gamma"))
    extra = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    for block in range(2):
        extra[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(3 * 384)
        extra[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * 384)
    return names | extra


def hugging_face_dinov2(w):
    parts = split_qkv(w, [f"attention.attention.{part}" for part in ("query", "key", "value")])
    names = rename(
        parts,
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
        (r"^blocks\.", "encoder.layer."),
    )
    return under("dinov2.", names | {"embeddings.mask_token": torch.zeros(1, 384)}) | {
        "classifier.weight": torch.ones(2, 2)
    }


def hugging_face_dinov3(w):
    names = rename(
        split_qkv(w, ["attention.q_proj", "attention.k_proj", "attention.v_proj"]),
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.gamma_(\d)$", r".layer_scale\1.lambda1"),
        (r"mlp\.fc1\.", "mlp.up_proj."),
        (r"mlp\.fc2\.", "mlp.down_proj."),
        (r"^blocks\.", "layer."),
    )
    return names | {"embeddings.mask_token": torch.zeros(1, 1, 384)}


def hugging_face_vit(w):
    names = rename(
        split_qkv(w, [f"attention.attention.{part}" for part in ("query", "key", "value")]),
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"^blocks\.", "encoder.layer."),
    )
    return under("vit.", names) | {"vit.pooler.dense.weight": torch.zeros(2, 2)}


def monet(w):
    names = rename(
        split_qkv(w, ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        (r"^cls_token$", "embeddings.class_embedding"),
        (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"\.attn\.proj\.", ".self_attn.out_proj."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"^blocks\.", "encoder.layers."),
    )
    names["embeddings.class_embedding"] = names["embeddings.class_embedding"].flatten()
    names["embeddings.position_embedding.weight"] = names["embeddings.position_embedding.weight"][0]
    text = {"text_model.embeddings.token_embedding.weight": torch.zeros(9, 2), "logit_scale": torch.zeros(())}
    return under("vision_model.", names) | text | {"visual_projection.weight": torch.zeros(512, 768)}


def open_clip(w):
    names = rename(
        w,
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.norm(\d)\.", r".ln_\1."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"^blocks\.", "transformer.resblocks."),
    )
    names["class_embedding"] = names["class_embedding"].flatten()
    names["positional_embedding"] = names["positional_embedding"][0]
    text = {"token_embedding.weight": torch.zeros(9, 2), "transformer.resblocks.0.ln_1.weight": torch.zeros(2)}
    return {"state_dict": under("module.", under("visual.", names | {"proj": torch.zeros(768, 512)}) | text)}


def panderm(w):
    """timm keeps no position of the class token and one bias; CAE's is a table with a zero row, and two biases."""
    names = rename(w, (r"\.ls(\d)\.gamma$", r".gamma_\1"))
    for block in range(2):
        query, _, value = names.pop(f"blocks.{block}.attn.qkv.bias").chunk(3)
        names |= {f"blocks.{block}.attn.q_bias": query, f"blocks.{block}.attn.v_bias": value}
    names["pos_embed"] = torch.cat([torch.zeros_like(w["cls_token"]), w["pos_embed"]], dim=1)
    rest = {"mask_token": torch.zeros(1, 1, 384), "regressor.norm.weight": torch.zeros(3)}
    return {"model": under("encoder.", names) | rest, "epoch": 499}


def moco(w):
    return {
        "state_dict": under("module.encoder_q.", w) | under("module.encoder_k.", w) | {"module.queue": torch.ones(2)}
    }


def moco_v3(w):
    other = {name: value + 1 for name, value in w.items()}
    return {"state_dict": under("module.momentum_encoder.", other) | under("module.base_encoder.", w)}


def solo_learn(w):
    rest = {"projector.0.weight": torch.zeros(2, 2), "classifier.weight": torch.zeros(2, 2)}
    return {"state_dict": under("backbone.", w) | under("momentum_backbone.", w) | rest}


def lightly(w):
    order = ["conv1", "bn1", "-", "-", "layer1", "layer2", "layer3", "layer4"]
    names = {f"{order.index(name.split('.')[0])}.{name.split('.', 1)[1]}": value for name, value in w.items()}
    return {"state_dict": under("backbone.", names) | {"projection_head.layers.0.weight": torch.zeros(2, 2)}}


def lightly_dino(w):
    return {
        "state_dict": under("student_backbone.vit.", {k: v + 1 for k, v in w.items()})
        | under("teacher_backbone.vit.", w)
    }


def lightly_train(w):
    student = under("student_embedding_model.wrapped_model._model.", {k: v + 1 for k, v in w.items()})
    return {"state_dict": under("teacher_embedding_model.wrapped_model._model.", w) | student}


def digital_dermatology_simclr(w):
    return {"state_dict": rename(lightly(w)["state_dict"], (r"^backbone\.", "model."))}


def sscd(w):
    return under("backbone.", w) | {"embeddings.0.weight": torch.zeros(512, 512), "embeddings.0.bias": torch.zeros(512)}


LAYOUTS = {
    dino: (VIT, "DINO"),
    ibot: (VIT, "DINO"),
    dinov2: (DINOV2, "DINOv2"),
    dinov2_registers: (REGISTERS, "DINOv2"),
    dinov2_training: (DINOV2, "DINOv2"),
    dinov3: ("vit_small_patch16_dinov3", "DINOv3"),
    hugging_face_dinov2: (DINOV2, "Hugging Face"),
    hugging_face_dinov3: ("vit_small_patch16_dinov3", "Hugging Face"),
    hugging_face_vit: (VIT, "Hugging Face"),
    monet: (CLIP, "CLIP"),
    panderm: ("deit3_small_patch16_224", "PanDerm"),
    moco: (RESNET, "MoCo"),
    moco_v3: ("vit_small_patch16_224", "MoCo"),
    solo_learn: (RESNET, "solo-learn"),
    lightly: (RESNET, "lightly"),
    lightly_dino: (VIT, "lightly"),
    lightly_train: (VIT, "lightly-train"),
    digital_dermatology_simclr: (RESNET, "Digital-Dermatology"),
    sscd: (RESNET, "SSCD"),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_checkpoint_gives_the_features_of_the_network_it_was_made_from(tmp_path, layout):
    name, project = LAYOUTS[layout]
    theirs = network(name, seed=1)
    if layout is panderm:  # its keys have no bias
        for block in theirs.blocks:
            block.attn.qkv.bias.data.view(3, -1)[1] = 0
    torch.save(layout(theirs.state_dict()), tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    translated = translate(weights)
    assert any(project in used for used in translated.layouts)
    assert guess_architecture(translated.weights, translated.layouts) == name
    ours = network(name, seed=2)
    load_weights(ours, weights)
    images = torch.rand(1, 3, *theirs.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_open_clips_tower_loads_into_the_network_that_is_named(tmp_path):
    theirs, ours = network(CLIP, seed=1), network(CLIP, seed=2)
    torch.save(open_clip(theirs.state_dict()), tmp_path / "weights.pt")
    load_weights(ours, read_weights(tmp_path / "weights.pt"))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_the_fused_swiglu_of_the_giant_is_timms():
    swiglu = {"embed_dim": 192, "num_heads": 3}
    theirs = network("vit_giant_patch14_dinov2", seed=1, **swiglu)
    ours = network("vit_giant_patch14_dinov2", seed=2, **swiglu)
    load_weights(ours, dinov2_swiglu(theirs.state_dict()))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_positions_of_another_image_size_are_resampled():
    theirs, ours = network(VIT, seed=1), network(VIT, seed=2, img_size=96)
    load_weights(ours, dino(theirs.state_dict())["teacher"])
    assert ours.pos_embed.shape == (1, 37, 192) and torch.equal(ours.pos_embed[:, 0], theirs.pos_embed[:, 0])


def test_weights_by_timms_own_names_are_left_as_they_are():
    weights = network("test_vit", seed=1).state_dict()
    translated = translate(weights)
    assert translated.weights == weights and not translated.layouts and translated.normalisation is None


@pytest.mark.parametrize(
    ("layout", "wrong", "words"),
    [
        (dinov2, "resnet18", "written by DINOv2, for timm's vit_small_patch14_dinov2"),
        (moco, VIT, "written by MoCo, for timm's resnet18"),
        (dinov2_registers, DINOV2, "for timm's vit_small_patch14_reg4_dinov2"),
    ],
)
def test_what_does_not_fit_is_named_with_the_layout_and_the_network_that_would(layout, wrong, words):
    weights = layout(network(LAYOUTS[layout][0], seed=1).state_dict())
    with pytest.raises(RuntimeError, match=words):
        load_weights(network(wrong, seed=2), weights.get("state_dict", weights))


class Config:
    """What a run of another project pickles beside its weights."""

    def __init__(self):
        self.lr, self.layers = 0.1, [argparse.Namespace(width=3)]


class Spy:
    """Its unpickling would call a function."""

    def __reduce__(self):
        return print, ("run",)


def test_objects_beside_the_tensors_are_left_unread(tmp_path):
    theirs = network(VIT, seed=1).state_dict()
    torch.save(dino(theirs) | {"config": Config(), "epoch": 3}, tmp_path / "c.pth")
    weights = translate(read_weights(tmp_path / "c.pth")).weights
    assert weights.keys() == theirs.keys() and all(torch.equal(weights[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {"a": torch.ones(1)}, "hook": Spy()}, "would run builtins.print"),
        ({"epoch": 3}, "holds no named weights"),
        ([torch.ones(1)], "holds no named weights"),
    ],
)
def test_files_without_weights_or_with_code_are_one_line(tmp_path, content, words, capsys):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=words) as refusal:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(refusal.value) and "run" not in capsys.readouterr().out


def test_a_pickle_that_is_no_checkpoint_is_one_line_without_a_warning(tmp_path, recwarn):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Spy()}))
    with pytest.raises(InputError, match="holds no weights that can be read safely"):
        read_weights(tmp_path / "w.pth")
    assert not recwarn.list


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_half_a_file_is_one_line(tmp_path, name):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    (tmp_path / name).write_bytes((tmp_path / "whole.pth").read_bytes()[:500])
    with pytest.raises(InputError, match="holds no weights that can be read"):
        read_weights(tmp_path / name)


def test_torchscript_is_refused_with_what_to_give_instead(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "sscd.torchscript.pt")
    with pytest.raises(InputError, match=r"TorchScript program.*give a state dict"):
        read_weights(tmp_path / "sscd.torchscript.pt")
