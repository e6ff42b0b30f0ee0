"""Mode parts: maps found without annotations, and bits that come from them alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from threadpoolctl import threadpool_limits  # noqa: E402

pytest.importorskip("timm")

from torch.nn import functional as F  # noqa: E402

from concepthash.codes import CodeLayout  # noqa: E402
from concepthash.errors import DataError, UsageError  # noqa: E402
from concepthash.learn.backbone import TakenApart, create_vit  # noqa: E402
from concepthash.learn.discovery import discover  # noqa: E402
from concepthash.learn.model import ConceptHash  # noqa: E402
from concepthash.learn.parts import (  # noqa: E402
    VISIBLE,
    ClassTokens,
    PartEncoder,
    PartHashHead,
    PartMaps,
    attend,
    own_patches,
    smoothing_matrix,
)
from concepthash.learn.views import collate_views  # noqa: E402

GRID = (8, 8)
DIM = 24


def drawn_tokens(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of photos with an object of three parts, and the part of each patch (-1 outside).

    A token is the direction of its part or of the background, plus what is common to the photo's
    object (its "species", as large as the parts), plus noise.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    labels = torch.full((count, *GRID), -1)
    for photo in range(count):
        top, left = torch.randint(1, 3, (2,), generator=generator).tolist()
        for part in range(3):  # head, body, tail: side by side
            labels[photo, top : top + 4, left + 2 * part - part // 2 :][:, :2] = part
        labels[photo, top + 4 :], labels[photo, :top] = -1, -1
    tokens = 3 * kinds[labels]  # -1 is the last row: the background
    species = 3 * kinds[10 + torch.arange(count) % 5]
    tokens = tokens + species[:, None, None] * (labels >= 0)[..., None]
    tokens = tokens + 0.3 * torch.randn(tokens.shape, generator=generator)
    return tokens.flatten(1, 2), labels.flatten(1)


def found_maps(concepts: int = 3) -> tuple[PartMaps, torch.Tensor, torch.Tensor]:
    tokens, labels = drawn_tokens(60)
    maps = PartMaps(concepts, dim=DIM, part_dim=8, grid=GRID)
    with torch.no_grad():
        discover(maps, tokens, area=0.4, seed=0)
    return maps, tokens, labels


def test_discover__finds_the_parts_of_objects_that_differ_more_by_species():
    maps, tokens, labels = found_maps()
    found, background = maps(tokens)
    object_ = labels >= 0
    assert ((background < 0.5) == object_).float().mean() > 0.9
    assigned = found.argmax(dim=1)
    table = torch.zeros(3, 3)
    for part in range(3):
        for concept in range(3):
            table[concept, part] = ((assigned == concept) & (labels == part)).sum()
    assert table.max(dim=0).values.sum() / table.sum() > 0.85
    assert sorted(table.argmax(dim=1).tolist()) == [0, 1, 2]  # each part has a concept of its own


def test_discover__does_not_need_the_right_area():
    tokens, labels = drawn_tokens(60)
    areas = []
    for area in (0.25, 0.4, 0.5):
        maps = PartMaps(3, dim=DIM, part_dim=8, grid=GRID)
        with torch.no_grad():
            areas.append(discover(maps, tokens, area=area, seed=0).area)
    true = float((labels >= 0).float().mean())
    assert areas == pytest.approx([true] * 3, abs=0.08)


def test_discover__is_the_same_for_one_seed():
    first, second = found_maps()[0], found_maps()[0]
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], rtol=0, atol=0)


def test_discover__is_the_same_with_more_threads():
    first = found_maps()[0]
    with threadpool_limits(4, user_api="openmp"):
        second = found_maps()[0]
    assert torch.equal(first.prototypes, second.prototypes)


def test_discover__of_one_and_the_same_patch_everywhere_is_refused():
    maps = PartMaps(3, dim=DIM, part_dim=8, grid=GRID)
    with torch.no_grad(), pytest.raises(DataError, match="all the same"):
        discover(maps, torch.ones(4, 64, DIM), area=0.4, seed=0)


def test_discover__of_a_single_photo_finds_parts_of_it():
    tokens, _ = drawn_tokens(1)
    maps = PartMaps(3, dim=DIM, part_dim=8, grid=GRID)
    with torch.no_grad():
        found = discover(maps, tokens, area=0.4, seed=0)
    assert found.photos == 1
    assert torch.isfinite(maps.prototypes).all()


def test_maps__and_background_share_out_every_patch():
    maps, tokens, _ = found_maps()
    found, background = maps(tokens)
    torch.testing.assert_close(found.sum(dim=1) + background, torch.ones(60, 64))
    assert found.min() >= 0


def test_smoothing__keeps_what_is_even_and_is_a_gaussian_inside():
    smooth = smoothing_matrix((9, 11), 0.85)
    torch.testing.assert_close(smooth.sum(dim=1), torch.ones(99))
    middle = smooth[4 * 11 + 5].reshape(9, 11)
    ratio = middle[4, 6] / middle[4, 5]
    assert float(ratio) == pytest.approx(np.exp(-1 / (2 * 0.85**2)), rel=1e-5)
    torch.testing.assert_close(middle, middle.flip(0).flip(1))


def small_encoder(concepts: int = 3) -> PartEncoder:
    sizes = {"depth": 3, "embed_dim": DIM, "num_heads": 2, "patch_size": 4}
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", crop=32, arguments=sizes)
    half = (0.5, 0.5, 0.5)
    encoder = PartEncoder(vit, mean=half, std=half, concepts=concepts, part_dim=8, tuned=2)
    for value in encoder.part_maps.buffers():
        if value is not encoder.part_maps.smooth:
            value.copy_(torch.randn(value.shape))
    return encoder


def photos(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)


def test_encoder__learns_in_its_last_blocks_only():
    encoder = small_encoder()
    trained = {name.split(".")[1] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"1", "2"}
    before = encoder.tokens(photos())
    assert not before.requires_grad


def test_encoder__maps_do_not_move_when_it_learns():
    encoder = small_encoder()
    tokens = torch.randn(1, 3, DIM)
    before = encoder(photos(), tokens)
    before.features.sum().backward()
    with torch.no_grad():
        for p in encoder.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    after = encoder(photos(), tokens)
    torch.testing.assert_close(after.maps, before.maps, rtol=0, atol=0)
    assert not torch.allclose(after.features, before.features)


def test_attend__is_the_block_itself_when_every_patch_counts_the_same():
    block = small_encoder().blocks[1].eval()
    concept, patches = torch.randn(2, 1, DIM), torch.randn(2, 64, DIM)
    whole = block(torch.cat([patches, concept], dim=1))[:, -1:]
    seen = attend(block, concept, block.norm1(patches), torch.zeros(2, 1, 64))
    torch.testing.assert_close(seen, whole, rtol=1e-4, atol=1e-5)


def test_attend__concept_sees_only_the_patches_of_its_map_and_no_other_concept():
    block = small_encoder().blocks[1].eval()
    concepts, patches = torch.randn(2, 3, DIM), torch.randn(2, 64, DIM)
    weights = torch.zeros(2, 3, 64)
    for m in range(3):
        weights[:, m, 20 * m : 20 * m + 20] = 1
    bias = weights.log().clamp_min(-1e4)
    before = attend(block, concepts, block.norm1(patches), bias)
    changed = patches.clone()
    changed[:, 20:40] += 5
    other = concepts.clone()
    other[:, 1] += 5
    after = attend(block, other, block.norm1(changed), bias)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.allclose(after[:, 1], before[:, 1])


def shares(encoder: PartEncoder, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of random photos, and how much each concept looks at them."""
    patches = encoder.tokens(photos(count))[:, encoder.prefix_tokens :]
    return patches, own_patches(*encoder.part_maps(patches))


def test_encoder__a_sub_code_depends_on_the_patches_of_its_concept_alone():
    encoder = small_encoder().eval()
    tokens = torch.randn(1, 3, DIM)
    patches, weights = shares(encoder)
    features = encoder.read(patches, weights, tokens)
    torch.testing.assert_close(encoder(photos(), tokens).features, features)
    for m in range(3):
        own = weights[:, m, :, None] > 0
        assert 5 < own.sum() < own.numel() - 5
        elsewhere = encoder.read(torch.where(own, patches, patches.flip(0)), weights, tokens)
        torch.testing.assert_close(elsewhere[:, m], features[:, m], rtol=0, atol=1e-5)
        inside = encoder.read(torch.where(own, patches.flip(0), patches), weights, tokens)
        assert (inside[:, m] - features[:, m]).abs().max() > 0.01
        assert (elsewhere - features)[:, [k for k in range(3) if k != m]].abs().max() > 0.01


@pytest.mark.parametrize("objects", [True, False])
def test_encoder__reads_the_same_without_the_patches_that_no_concept_sees(objects):
    encoder = small_encoder()
    patches, weights = shares(encoder)
    weights = weights * objects
    views = [
        (p[own], w.T[own], torch.tensor(0))
        for p, w, own in zip(patches, weights, weights.amax(1) > 0, strict=True)
    ]
    (fewer, padded), _ = collate_views(views)
    assert fewer.shape[1] < patches.shape[1]
    found = []
    for seen in ((patches, weights), (fewer, padded)):
        encoder.zero_grad()
        z = encoder.read(*seen, torch.ones(1, 3, DIM))
        z.square().sum().backward()
        found.append((z, *[p.grad for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)


def test_encoder__another_map_is_another_feature():
    encoder = small_encoder().eval()
    tokens = torch.randn(1, 3, DIM)
    patches, weights = shares(encoder)
    features = encoder.read(patches, weights, tokens)
    moved = encoder.read(patches, weights.roll(1, dims=1), tokens)
    assert ((moved - features).abs().amax(dim=(0, 2)) > 0.01).all()


def test_own_patches__by_a_loop():
    generator = torch.Generator().manual_seed(2)
    shared = (2 * torch.randn(3, 5, 40, generator=generator)).softmax(dim=1)
    maps, background = shared[:, :4], shared[:, 4]
    weights = own_patches(maps, background)
    expected = torch.zeros_like(maps)
    for b, m, n in np.ndindex(3, 4, 40):
        rest = max(float(shared[b, k, n]) for k in range(5) if k != m)
        expected[b, m, n] = max(0.0, float(maps[b, m, n]) - rest)
    expected /= expected.amax(dim=-1, keepdim=True)
    torch.testing.assert_close(weights, expected)
    assert int((weights > 0).sum(dim=1).max()) == 1


def test_own_patches__fade_with_a_concept_that_hardly_leads():
    maps = torch.full((1, 2, 6), 0.2)
    maps[0, 0, 3] = 0.62  # background 0.18
    maps[0, 1, 4] = 0.41  # background 0.39
    weights = own_patches(maps, 1 - maps.sum(dim=1))
    assert float(weights[0, 0, 3]) == 1
    assert float(weights[0, 1, 4]) == pytest.approx(0.02 / VISIBLE, rel=1e-4)
    tied = own_patches(torch.full((1, 2, 6), 0.4), torch.full((1, 6), 0.2))
    assert not tied.any()


def test_encoder__of_a_photo_without_an_object_is_finite_and_the_same_for_any_patches():
    encoder = small_encoder().eval()
    encoder.part_maps.threshold.fill_(-200)  # all background
    out = encoder(photos(), torch.randn(1, 3, DIM))
    assert torch.isfinite(out.features).all()
    torch.testing.assert_close(out.features[0], out.features[1])
    assert out.background is not None
    torch.testing.assert_close(out.background, torch.ones(2, 8, 8))


def test_head__gives_each_concept_its_bits():
    head = PartHashHead(CodeLayout(24, 3), DIM).eval()
    features = torch.randn(5, 3, DIM)
    moved = features.clone()
    moved[:, 1] += 1
    changed = (head(moved) != head(features)).any(dim=0)
    assert changed.tolist() == [False] * 8 + [True] * 8 + [False] * 8
    expected = F.batch_norm(
        torch.stack([features[:, m] @ head.hash[m] for m in range(3)], dim=1).flatten(1),
        head.norm.running_mean,
        head.norm.running_var,
        eps=head.norm.eps,
    )
    torch.testing.assert_close(head(features), expected)


def test_model__gives_maps_and_background_with_its_logits():
    encoder = small_encoder()
    model = ConceptHash(
        encoder, ClassTokens(3, dim=DIM), PartHashHead(CodeLayout(24, 3), DIM)
    ).eval()
    output = model(photos())
    assert output.logits.shape == (2, 24)
    assert output.maps.shape == (2, 3, 8, 8)
    assert output.background is not None
    torch.testing.assert_close(output.maps.sum(dim=1) + output.background, torch.ones(2, 8, 8))


def test_backbone__refuses_patches_that_do_not_fill_the_crop():
    with pytest.raises(UsageError, match="do not fill a side of 34") as caught:
        create_vit("vit_tiny_patch16_224", crop=34, arguments={"patch_size": 4})
    assert "data.crop=32" in str(caught.value.hint)


def test_backbone__with_another_attention_is_refused():
    vit = create_vit("vit_tiny_patch16_224", crop=32, arguments={"depth": 1, "patch_size": 4})
    vit.blocks[0].attn = torch.nn.Sequential(vit.blocks[0].attn)
    with pytest.raises(UsageError, match="plain blocks"):
        TakenApart(vit, mean=(0.5,) * 3, std=(0.5,) * 3)
