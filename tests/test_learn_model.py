import math

import pytest

torch = pytest.importorskip("torch")
import timm  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from concepthash.codes import CodeLayout  # noqa: E402
from concepthash.errors import UsageError  # noqa: E402
from concepthash.learn.backbone import (  # noqa: E402
    Adapter,
    Encoder,
    create_vit,
)
from concepthash.learn.config import LossConfig  # noqa: E402
from concepthash.learn.losses import (  # noqa: E402
    ClassCentres,
    Objective,
    classification_loss,
    concept_loss,
    cosine_margin_loss,
    diversity_loss,
    quantisation_loss,
)
from concepthash.learn.model import ConceptHash, ConceptTokens, HashHead, Output  # noqa: E402

SMALL = {"patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2}
MEAN = STD = (0.5, 0.5, 0.5)


def small_vit(**arguments):
    torch.manual_seed(0)
    return create_vit("vit_tiny_patch16_224", crop=48, arguments=SMALL | arguments)


def small_model(freeze=True):
    encoder = Encoder(small_vit(), mean=MEAN, std=STD, freeze=freeze)
    tokens = ConceptTokens(4, width=16, dim=32, heads=2)
    return ConceptHash(encoder, tokens, HashHead(CodeLayout(32, 4), 32)).eval()


def photos(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 48, 48, 3), dtype=torch.uint8, generator=generator)


def test_concept_hash__shapes():
    output = small_model()(photos())
    assert output.logits.shape == (3, 32)
    assert output.features.shape == (3, 4, 32)
    assert output.maps.shape == (3, 4, 3, 3)
    assert (output.maps >= 0).all()
    assert (output.maps.sum((2, 3)) <= 1 + 1e-6).all()


def test_encoder__with_fresh_adapters_is_the_pretrained_network():
    """Zero-initialised adapters and appended tokens must not disturb timm's own computation."""
    reference = small_vit().eval()
    encoder = Encoder(small_vit(), mean=MEAN, std=STD).eval()
    tokens = torch.randn(1, 4, 32)
    images = photos()
    normalised = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    x = reference.patch_embed(normalised)
    x = reference._pos_embed(x)
    x = torch.cat([x, tokens.expand(3, -1, -1)], 1)
    for block in reference.blocks:
        x = block(x)
    features = encoder(images, tokens).features
    torch.testing.assert_close(features, x[:, -4:], rtol=1e-4, atol=1e-5)


def test_encoder__maps_are_the_last_block_s_attention_to_the_patches():
    encoder = Encoder(small_vit(), mean=MEAN, std=STD).eval()
    seen = {}
    encoder.blocks[-1].attn.register_forward_hook(lambda _, x, y: seen.update(x=x[0]))
    tokens = torch.randn(1, 4, 32)
    maps = encoder(photos(2), tokens).maps
    attention = encoder.blocks[-1].attn
    x = seen["x"]
    assert x.shape == (2, 1 + 9 + 4, 32)
    qkv = attention.qkv(x).reshape(2, 14, 3, 2, 16).permute(2, 0, 3, 1, 4)
    full = (qkv[0] @ qkv[1].transpose(-2, -1) / math.sqrt(16)).softmax(-1).mean(1)
    expected = full[:, 10:, 1:10].reshape(2, 4, 3, 3)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


def test_encoder__freezes_the_backbone_and_trains_adapters():
    model = small_model()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(".adapter." in n or not n.startswith("encoder.") for n in trained)
    assert any(".adapter." in n for n in trained)
    everything = {n for n, p in small_model(freeze=False).named_parameters() if p.requires_grad}
    assert trained < everything


def test_adapter__starts_at_zero_and_every_part_learns():
    adapter = Adapter(8, 4)
    x = torch.randn(2, 3, 8)
    assert (adapter(x) == 0).all()
    adapter.up.weight.data.normal_()
    adapter(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "cannot create|plain vision"),
        ("no_such_model", "timm knows no backbone"),
        ("vit_tiny_patch16_224.none", "cannot create"),
    ],
)
def test_create_vit__names_what_is_wrong(name, reason):
    with pytest.raises(UsageError, match=reason):
        create_vit(name, crop=32, arguments={})


@pytest.mark.parametrize("name", ["vit_base_patch32_clip_quickgelu_224.openai"])
def test_encoder__takes_clip_image_towers(name):
    vit = create_vit(name, crop=64, arguments={"depth": 2})
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    features, maps, _ = Encoder(vit, mean=MEAN, std=STD)(images, torch.randn(1, 4, 768))
    assert features.shape == (2, 4, 768)
    assert maps.shape == (2, 4, 2, 2)


def test_encoder__refuses_attention_it_cannot_read():
    vit = small_vit()
    vit.blocks[-1].attn = torch.nn.Identity()
    with pytest.raises(UsageError, match="plain blocks"):
        Encoder(vit, mean=MEAN, std=STD)


def test_concept_tokens__do_not_depend_on_the_image_and_see_each_other():
    tokens = ConceptTokens(3, width=16, dim=8, heads=2).eval()
    before = tokens()
    assert before.shape == (1, 3, 8)
    with torch.no_grad():
        tokens.queries[0, 2] += torch.randn(16)
    assert not torch.equal(before[0, 0], tokens()[0, 0])


def test_hash_head__puts_concept_m_in_its_own_bits():
    head = HashHead(CodeLayout(32, 4), 16).eval()
    features = torch.randn(2, 4, 16)
    before = head(features)
    features[:, 1] += 1
    changed = (head(features) != before).any(0)
    assert changed[8:16].all()
    assert not changed[:8].any()
    assert not changed[16:].any()


def test_cosine_margin_loss__is_the_formula():
    torch.manual_seed(0)
    x, centres, labels = torch.randn(5, 8), torch.randn(3, 8), torch.tensor([0, 1, 2, 1, 0])
    expected = 0.0
    for i, y in enumerate(labels.tolist()):
        scores = [
            8 * (float(F.cosine_similarity(x[i], centres[c], dim=0)) - 0.2 * (c == y))
            for c in range(3)
        ]
        expected += math.log(sum(map(math.exp, scores))) - scores[y]
    loss = cosine_margin_loss(x, centres, labels, scale=8, margin=0.2)
    assert float(loss) == pytest.approx(expected / 5, rel=1e-5)
    assert float(classification_loss(x, centres, labels, scale=8, margin=0.2)) == float(loss)


def test_quantisation_loss__pulls_logits_to_the_signs_and_leaves_the_centres():
    centres = torch.randn(3, 8, requires_grad=True)
    labels = torch.tensor([0, 1])
    at_corner = torch.sign(centres.detach())[:2] * 5
    other = at_corner.clone()
    other[:, 0] *= -1
    options = {"scale": 8.0, "margin": 0.2}
    near = quantisation_loss(at_corner, centres, labels, **options)
    assert near < quantisation_loss(other, centres, labels, **options)
    x = torch.randn(2, 8, requires_grad=True)
    quantisation_loss(x, centres, labels, **options).backward()
    assert x.grad is not None
    assert centres.grad is None


def test_concept_loss__is_the_mean_over_concepts():
    features, centroids = torch.randn(4, 3, 8), torch.randn(5, 8)
    labels = torch.tensor([0, 1, 2, 4])
    options = {"scale": 8.0, "margin": 0.2}
    each = [cosine_margin_loss(features[:, m], centroids, labels, **options) for m in range(3)]
    loss = concept_loss(features, centroids, labels, **options)
    assert float(loss) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_diversity_loss__is_1_for_equal_maps_and_0_for_disjoint_ones():
    same = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4)
    assert float(diversity_loss(same)) == pytest.approx(1, abs=1e-5)
    disjoint = torch.eye(4).reshape(1, 4, 2, 2)
    assert float(diversity_loss(disjoint)) == pytest.approx(0, abs=1e-6)
    assert float(diversity_loss(torch.rand(2, 1, 4, 4))) == 0


def test_objective__weighs_the_terms_and_leaves_out_those_of_weight_0():
    config = LossConfig(classification=2, quantisation=0, concept=0.5, diversity=3)
    torch.manual_seed(0)
    centres = ClassCentres(torch.randn(5, 12), 16)
    objective = Objective(centres, concepts=2, dim=8, config=config)
    output = Output(torch.randn(4, 16), torch.randn(4, 2, 8), torch.rand(4, 2, 3, 3))
    terms = objective(output, torch.tensor([0, 1, 2, 3]))
    assert set(terms) == {"total", "classification", "concept", "diversity"}
    total = 2 * terms["classification"] + 0.5 * terms["concept"] + 3 * terms["diversity"]
    assert terms["total"].item() == pytest.approx(total.item(), rel=1e-6)


def test_class_centres__keep_text_fixed_and_learn_without_it():
    assert not ClassCentres(torch.randn(3, 4), 8).embeddings.requires_grad
    assert ClassCentres(torch.randn(3, 4), 8, learned=True).embeddings.requires_grad


@pytest.mark.parametrize(
    ("name", "prefix", "crop"),
    [("vit_small_patch16_224", 1, 32), ("vit_small_patch14_reg4_dinov2", 5, 28)],
)
def test_encoder__takes_other_sizes_and_prefix_tokens_of_timm(name, prefix, crop):
    vit = create_vit(name, crop=crop, arguments={"depth": 1})
    assert vit.num_prefix_tokens == prefix
    features, maps, _ = Encoder(vit, mean=MEAN, std=STD)(
        torch.zeros(2, crop, crop, 3, dtype=torch.uint8), torch.randn(1, 4, vit.embed_dim)
    )
    assert features.shape == (2, 4, vit.embed_dim)
    assert maps.shape == (2, 4, 2, 2)


def test_encoder__refuses_blocks_that_are_put_together_otherwise():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    vit.blocks[0] = timm.models.vision_transformer.ResPostBlock(192, 3)
    with pytest.raises(UsageError, match="plain blocks"):
        Encoder(vit, mean=MEAN, std=STD)
