"""One pass with a network: how often it runs, what it leaves behind, and the scores that need its logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.data.boxes import BoxedImage
from cgc.evaluation.options import EvaluationOptions, PerturbationOptions
from cgc.evaluation.run import evaluate
from cgc.evaluation.subject import Subject, gradcam_subject
from cgc.modes import evaluating
from tests.evaluation.stand_ins import (
    SMALL,
    counted,
    localise,
    looks_left,
    triple,
)


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
