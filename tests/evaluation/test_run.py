"""One pass over boxed images, with stand-ins for a model whose maps are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cgc.data.boxes import BoxedImage, open_boxes
from cgc.evaluation.options import EvaluationOptions, PerturbationOptions
from cgc.evaluation.rows import summarise
from cgc.evaluation.run import evaluate
from cgc.evaluation.subject import Subject, gradcam_subject
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone
from cgc.modes import evaluating
from tests.data.boxed_fixture import scored_folder

SMALL = PerturbationOptions(side=64, steps=7)


def looks_left(images, target):
    """Weight on the left half, nothing at all on black images; always says class 0."""
    bright = (images.mean(dim=(1, 2, 3)) > 0).float()
    maps = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(len(images), 2, 2) * bright[:, None, None]
    return torch.tensor([[2.0, 0.0]]).expand(len(images), 2), maps


def looks_at_object(images, target):
    """Brightness above a dark background, pixel by pixel."""
    grid = images.mean(dim=1)
    return torch.zeros(len(images), 2), (grid - grid.amin(dim=(1, 2), keepdim=True)).clamp(min=0)


def looks_at_background(images, target):
    logits, maps = looks_at_object(images, target)
    return logits, maps.amax(dim=(1, 2), keepdim=True) - maps


def subject(explain_one):
    def predict(images):
        return explain_one(images, torch.zeros(len(images), dtype=torch.long))[0]

    def explain(images, target=None, owner=None):
        target = predict(images).argmax(1) if target is None else target
        owner = torch.arange(len(images)) if owner is None else owner
        return predict(images), explain_one(images[owner], target)[1]

    return Subject(explain, predict)


def localise(explain_one, images, **options):
    on_maps = options.pop("on_maps", None)
    return evaluate(subject(explain_one), images, EvaluationOptions(**options), on_maps=on_maps)


def values(result, images, *, classes=2):
    """``{metric: {map: value}}`` of a result."""
    metrics = ("ch", "pg", "spg", "top1")
    summary = summarise(result.rows, images, metrics, num_classes=classes, draws=0)
    return {
        metric: {name: None if e is None else e.value for name, e in each.items()}
        for metric, each in summary.scores.items()
    }, summary


def triple(row, name="model"):
    return tuple(row.score(metric, name) for metric in ("ch", "pg", "spg"))


@pytest.fixture
def fixture_images(tmp_path):
    return open_boxes(scored_folder(tmp_path), classes=tmp_path / "names.txt").images


@pytest.fixture
def white_squares(tmp_path):
    generator = np.random.default_rng(0)
    images = []
    for index in range(6):
        side = int(generator.integers(60, 90))
        y, x = generator.integers(0, 200 - side), generator.integers(0, 300 - side)
        pixels = np.zeros((200, 300, 3), dtype=np.uint8)
        pixels[y : y + side, x : x + side] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).save(path)
        boxes = np.array([[x, y, x + side - 1, y + side - 1]], dtype=np.int64)
        images.append(BoxedImage(path, index % 2, boxes, False, (200, 300)))
    return images


def test_scores_worked_out_by_hand(fixture_images):
    result = localise(looks_left, fixture_images, input_resize=32, batch_size=2)
    # The map over columns: 1 up to 24, then 0.99, 0.97, … 0.01 at 74, in all 50; tolerance round(15·100/448) = 3.
    expected = {
        0: (43.75 / 50, 1, (43.75 + 0.49 + 0.47) / 50),
        1: (25 / 50, 1, (25 + 0.99 + 0.97 + 0.03 + 0.01) / 50),
        2: (0, None, (0.03 + 0.01) / 50),  # difficult
        3: (None, None, None),  # zero map
        4: (0.01 / 50, 0, (0.05 + 0.03 + 0.01) / 50),
    }
    assert [row.index for row in result.rows] == list(expected)
    for row in result.rows:
        assert triple(row) == pytest.approx(expected[row.index], abs=1e-6)
    assert result.failed == []
    scores, summary = values(result, fixture_images)
    assert (summary.images, summary.zero_maps, summary.all_difficult) == (5, 1, 1)
    assert scores["top1"]["model"] == 0.4
    counted = {metric: summary.scores[metric]["model"].rows for metric in ("ch", "pg", "spg")}
    assert counted == {"ch": 4, "pg": 3, "spg": 4}
    assert scores["ch"]["model"] == pytest.approx((0.875 + 0.5 + 0 + 0.0002) / 4, abs=1e-6)
    assert scores["ch"]["uniform"] == pytest.approx((0.5 + 0.5 + 0.25 + 0.26) / 4, abs=1e-6)
    # A uniform map points at (0, 0), the Gaussian at (49, 49): cats hit, hit and hit, miss; the dog is missed.
    assert {name: scores["pg"][name] for name in ("model", "uniform", "gaussian")} == {
        "model": 0.5,
        "uniform": 0.5,
        "gaussian": 0.25,
    }
    assert scores["spg"]["model"] == pytest.approx((0.8942 + 0.54 + 0.0008 + 0.0018) / 4, abs=1e-6)


def test_random_maps_are_the_same_for_every_model_and_batch(fixture_images):
    runs = [
        localise(explain, fixture_images, input_resize=32, batch_size=b)
        for explain, b in ((looks_left, 1), (looks_left, 4))
    ]
    assert [triple(row, "random") for row in runs[0].rows] == [triple(row, "random") for row in runs[1].rows]
    other = localise(looks_left, fixture_images, input_resize=32, seed=1)
    assert [triple(row, "random") for row in other.rows] != [triple(row, "random") for row in runs[0].rows]
    assert len({triple(row, "random") for row in runs[0].rows}) == 5
    # By hand: a 2×2 grid upsampled as above; all columns of a row of the map are interpolations of its two cells.
    from cgc.data.views import mix_seed
    from cgc.metrics.baselines import random_map

    (a, b), (c, d) = random_map((2, 2), mix_seed(0, 0)).double().tolist()
    weight = np.clip((np.arange(100) - 24.5) / 50, 0, 1)
    columns = (a + c) * (1 - weight) + (b + d) * weight  # rows are averaged symmetrically
    assert runs[0].rows[0].score("ch", "random") == pytest.approx(
        columns[:50].sum() / columns.sum(), abs=1e-6
    )


def test_zero_maps_can_count_as_uniform(fixture_images):
    result = localise(looks_left, fixture_images, input_resize=32, zero_maps="uniform")
    scores, summary = values(result, fixture_images)
    assert result.rows[3].score("ch") == pytest.approx(0.5, abs=1e-6)
    assert (summary.zero_maps, summary.scores["ch"]["model"].rows) == (1, 5)
    assert scores["ch"]["model"] == pytest.approx((1.3752 + 0.5) / 5, abs=1e-6)


def test_scores_do_not_depend_on_the_batches(fixture_images):
    one = localise(looks_left, fixture_images, input_resize=32, batch_size=1)
    many = localise(looks_left, fixture_images, input_resize=32, batch_size=64, workers=1)
    assert [row.scores for row in one.rows] == [row.scores for row in many.rows]


def test_a_decoy_that_looks_at_the_background_loses(white_squares):
    good, decoy = (
        values(localise(explain, white_squares, input_resize=64, batch_size=4), white_squares)[0]
        for explain in (looks_at_object, looks_at_background)
    )
    assert good["ch"]["model"] > 0.95
    assert good["spg"]["model"] > 0.99
    assert good["pg"]["model"] == 1
    assert decoy["ch"]["model"] < good["ch"]["uniform"] < good["ch"]["model"]
    assert decoy["spg"]["model"] < good["spg"]["uniform"]
    assert decoy["pg"]["model"] == 0


def test_a_given_tolerance_is_used(white_squares):
    near, far = (localise(looks_at_background, white_squares, input_resize=64, tolerance=t) for t in (1, 400))
    assert {row.tolerance for row in far.rows} == {400}
    assert values(far, white_squares)[0]["spg"]["model"] == pytest.approx(1)
    scores = values(near, white_squares)[0]
    assert scores["spg"]["model"] == scores["ch"]["model"]


def test_drawn_points_agree_with_the_expectation(white_squares):
    options = {"input_resize": 64, "metrics": ("spg",), "tolerance": 20}
    exact = localise(looks_at_background, white_squares, **options)
    drawn = localise(looks_at_background, white_squares, spg_samples=400, **options)
    again = localise(looks_at_background, white_squares, spg_samples=400, batch_size=1, **options)
    assert [row.scores for row in drawn.rows] == [row.scores for row in again.rows]
    for a, b in zip(exact.rows, drawn.rows, strict=True):
        p = a.score("spg")
        assert 0.01 < p < 0.99
        assert b.score("spg") == pytest.approx(p, abs=4 * (p * (1 - p) / 400) ** 0.5)
        assert b.score("spg") * 400 == pytest.approx(round(b.score("spg") * 400))


def test_unreadable_images_and_bad_maps_are_named(white_squares):
    white_squares[2].path.write_bytes(b"gone")

    def sometimes_nan(images, target):
        logits, maps = looks_at_object(images, target)
        return logits, torch.where((target == 1)[:, None, None], torch.nan, maps)

    result = localise(sometimes_nan, white_squares, input_resize=64, batch_size=4)
    assert [row.index for row in result.rows] == [0, 4]
    assert [failure.row for failure in result.failed] == [1, 2, 3, 5]
    assert [failure.reason for failure in result.failed] == [
        "logits or map not finite",
        "unreadable image",
        "logits or map not finite",
        "logits or map not finite",
    ]


def test_every_row_and_map_is_shown(fixture_images):
    seen = []

    def show(rows, maps):
        seen.extend((row.index, map_hw) for row, map_hw in zip(rows, maps, strict=True))

    localise(looks_left, fixture_images, input_resize=32, batch_size=2, on_maps=show)
    assert sorted(index for index, _ in seen) == [0, 1, 2, 3, 4]
    assert all(map_hw.shape == (2, 2) for _, map_hw in seen)
    assert {index for index, map_hw in seen if not map_hw.any()} == {3}


def test_modes_come_back_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()))
    model.train()
    model[1][0].eval()
    inside = []

    def work():
        with evaluating(model):
            inside.extend(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert inside == [False] * 5
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_nothing_scored_gives_no_numbers():
    summary = summarise([], [], ("ch", "pg", "top1"), num_classes=2)
    assert summary.scores["top1"] == {"model": None}
    assert summary.scores["pg"] == {"model": None, "uniform": None, "gaussian": None, "random": None}


def test_a_zero_map_counted_as_uniform_points_where_the_uniform_map_does(white_squares):
    """Resizing a constant map moves its peak by rounding: seen for 7×7 cells at sizes like these."""

    def blind(images, target):
        return torch.zeros(len(images), 2), torch.zeros(len(images), 7, 7)

    for image in white_squares:  # a box that holds the first pixel alone
        image.boxes[:] = 0
    result = localise(blind, white_squares, input_resize=32, zero_maps="uniform", tolerance=1)
    for row in result.rows:
        assert triple(row) == pytest.approx(triple(row, "uniform"), rel=1e-5)
        assert row.score("pg") == 1


class CountsForwards(nn.Module):
    """A network that counts its forward passes and the images in them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.images = backbone, 0

    def forward(self, images):
        self.images += len(images)
        return self.backbone(images)


def counted(arch="resnet_tiny", classes=2):
    torch.manual_seed(0)
    network = CountsForwards(build_backbone(arch, classes))
    model = GradCAMModel(network).eval()
    network.images = 0
    return network, model


def test_each_forward_pass_runs_once(white_squares):
    network, model = counted()
    metrics = ("ch", "pg", "spg", "insertion", "deletion", "top1", "top5")
    options = EvaluationOptions(
        metrics, input_resize=64, trivial_images=0, perturbation=PerturbationOptions(side=64)
    )
    evaluate(gradcam_subject(model), white_squares, options)
    # The uncropped view; the square one, which ends insertion and starts deletion; 28 more steps of each.
    assert network.images == len(white_squares) * (1 + 1 + 28 + 28)


def test_several_classes_of_an_image_cost_one_pass(white_squares):
    network, model = counted(classes=5)
    first = white_squares[0]
    rows = [BoxedImage(first.path, label, first.boxes, False, first.size) for label in (0, 2, 4)]
    result = evaluate(gradcam_subject(model, multi_label=True), rows, EvaluationOptions(("ch", "f1"), 64))
    assert network.images == 1
    assert [row.label for row in result.rows] == [0, 2, 4]
    alone = [evaluate(gradcam_subject(model), [row], EvaluationOptions(("ch",), 64)).rows[0] for row in rows]
    assert [row.score("ch") for row in result.rows] == pytest.approx(
        [row.score("ch") for row in alone], abs=1e-6
    )
    assert len({row.score("ch") for row in result.rows}) == 3


def test_the_model_is_left_as_it_was(white_squares):
    _, model = counted()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with evaluating(model):
        evaluate(
            gradcam_subject(model),
            white_squares,
            EvaluationOptions(
                ("ch", "insertion", "consistency", "top1"),
                64,
                trivial_images=2,
                crop=(64, 56),
                perturbation=SMALL,
            ),
        )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_metrics_without_regions_do_not_depend_on_the_others(white_squares):
    """Insertion has its own view and map: it is the same whatever else is asked for."""
    _, model = counted()
    alone, together = (
        evaluate(
            gradcam_subject(model),
            white_squares,
            EvaluationOptions(metrics, 64, trivial_images=3, perturbation=SMALL),
        )
        for metrics in (("insertion",), ("ch", "insertion", "deletion", "top1"))
    )
    for name in ("model", "uniform", "random"):
        assert [row.score("insertion", name) for row in alone.rows] == pytest.approx(
            [row.score("insertion", name) for row in together.rows], abs=1e-6
        )
    assert [row.index for row in alone.rows if row.score("insertion", "gaussian") is not None] == [0, 2, 5]


def test_insertion_is_the_pure_function_on_the_stretched_image(white_squares):
    from cgc.data.presets import normalise
    from cgc.metrics.insertion import area_under_curve, insertion_curve

    _, model = counted()
    result = evaluate(
        gradcam_subject(model),
        white_squares,
        EvaluationOptions(("insertion",), batch_size=4, perturbation=SMALL),
    )
    image = white_squares[3]
    pixels = np.array(Image.open(image.path).resize((64, 64), Image.Resampling.BILINEAR))
    x = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    logits, maps = model.explain(x, torch.tensor([image.label]))
    curve = insertion_curve(
        lambda x: model(x)[0].softmax(1).detach(), x, maps, target=logits.argmax(1), steps=7
    )
    assert result.rows[3].score("insertion") == pytest.approx(float(area_under_curve(curve)), abs=1e-5)


def test_consistency_is_that_of_validation(white_squares):
    from cgc.data.presets import normalise
    from cgc.engine.validation import held_out_transforms
    from cgc.metrics.consistency import consistency
    from cgc.spatial import SpatialTransform

    _, model = counted()
    options = EvaluationOptions(("consistency", "cosine"), batch_size=4, crop=(64, 56))
    result = evaluate(gradcam_subject(model), white_squares, options)
    crops = []
    for image in white_squares:
        resized = Image.open(image.path).resize((96, 64), Image.Resampling.BILINEAR)
        crops.append(torch.from_numpy(np.array(resized)[4:60, 20:76]).permute(2, 0, 1))
    x = normalise(torch.stack(crops))
    transform = SpatialTransform.unpack(held_out_transforms(range(6), 56), 56)
    logits, maps = model.explain(x)
    _, augmented = model.explain(transform(x), logits.argmax(1))
    expected = consistency(maps, augmented, transform)
    assert [row.score("consistency") for row in result.rows] == pytest.approx(
        expected.loss_N.tolist(), abs=1e-3
    )
    assert [row.score("cosine") for row in result.rows] == pytest.approx(expected.cosine_N.tolist(), abs=1e-3)


def test_of_several_admissible_classes_the_favoured_one_is_explained(white_squares):
    def favours_one(images, target):
        logits = torch.tensor([[0.0, 1.0, 3.0, 2.0]]).expand(len(images), 4)
        maps = torch.nn.functional.one_hot(target, 4).float().view(-1, 2, 2)  # class k looks at cell k
        return logits, maps

    first = white_squares[0]
    row = BoxedImage(first.path, 0, first.boxes, False, first.size, None, (1, 3))
    result = localise(favours_one, [row], input_resize=32)
    direct = localise(
        favours_one, [BoxedImage(first.path, 3, first.boxes, False, first.size)], input_resize=32
    )
    assert (result.rows[0].label, result.rows[0].prediction, result.rows[0].correct) == (3, 2, False)
    assert triple(result.rows[0]) == triple(direct.rows[0])
    right = BoxedImage(first.path, 0, first.boxes, False, first.size, None, (1, 2))
    assert localise(favours_one, [right], input_resize=32).rows[0].correct


def test_a_metric_without_its_model_is_refused(white_squares):
    with pytest.raises(ValueError, match="needs a model"):
        evaluate(Subject(), white_squares, EvaluationOptions(("insertion",)))
    with pytest.raises(ValueError, match="zero_maps"):
        localise(looks_left, white_squares, zero_maps="drop")


@pytest.mark.parametrize("trouble", ["zero", "nan"])
def test_one_bad_map_is_no_negative_of_the_others(white_squares, trouble):
    """Consistency: a zero map is left out and counted, one that is not finite fails its row; the others are as ever."""

    def explain(images, target=None, owner=None):
        maps = images.mean(dim=1)
        maps = (maps - maps.amin()).clamp(min=0) + torch.rand(
            maps.shape, generator=torch.Generator().manual_seed(0)
        )
        return torch.zeros(len(images), 2), maps[:, ::8, ::8]

    def spoilt(images, target=None, owner=None):
        logits, maps = explain(images, target, owner)
        if len(images) == 1:
            return logits, maps
        factor = torch.ones(len(images))
        factor[0] = 0 if trouble == "zero" else torch.nan
        return logits, maps * factor[:, None, None]

    def predict(images):
        return torch.zeros(len(images), 2)

    options = EvaluationOptions(("consistency", "cosine"), batch_size=6, crop=(64, 56))
    result = evaluate(Subject(spoilt, predict), white_squares, options)
    without = evaluate(Subject(explain, predict), white_squares[1:], options)
    scored = [row for row in result.rows if row.score("consistency") is not None]
    assert [row.index for row in scored] == [1, 2, 3, 4, 5]
    assert len(without.rows) == 5
    if trouble == "zero":
        assert [row.zero_map for row in result.rows] == [True, False, False, False, False, False]
        counted = evaluate(
            Subject(spoilt, predict),
            white_squares,
            EvaluationOptions(options.metrics, zero_maps="uniform", batch_size=6, crop=(64, 56)),
        )
        assert all(np.isfinite(row.score("consistency")) for row in counted.rows)
    else:
        assert [(failure.row, failure.reason) for failure in result.failed] == [
            (0, "logits or map not finite")
        ]
    assert all(np.isfinite(row.score("consistency")) for row in scored)


def test_equal_logits_are_right_about_nothing(white_squares):
    def undecided(images, target):
        return torch.zeros(len(images), 7), torch.ones(len(images), 2, 2)

    result = localise(undecided, white_squares, input_resize=32, metrics=("ch", "top1", "top5"))
    assert [(row.correct, row.rank) for row in result.rows] == [(False, 6)] * 6
