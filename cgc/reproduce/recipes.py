"""The runs that the tables name: training and evaluation lines, each once, with the published options as published."""

from __future__ import annotations

from collections.abc import Sequence

from cgc.report.cost import IMAGENET, IMAGENET_VALIDATION, Run
from cgc.report.step_counts import MethodName
from cgc.reproduce.model import TOP1, Evaluation, Training

BENCHMARK = "TorchRay/torchray/benchmark/"
LAST = "the last checkpoint is scored, never the best one"
_BASELINE = "how the papers trained their baseline: the same schedule with cross-entropy alone"
_SEED = "--seed SEED --save_dir RUN"
# As published; the default of this project bounds the gradient of near-zero maps.
_ARITHMETIC = "--map-floor 0"

# Images of the data sets as they are distributed (training, held out).
FINE_GRAINED = {
    "cub": ("CUB-200-2011", 5_994, 5_794),
    "aircraft": ("FGVC-Aircraft", 6_667, 3_333),
    "cars": ("Stanford Cars", 8_144, 8_041),
    "flowers": ("Flowers-102", 2_040, 6_149),
}
_COCO = (82_783, 40_504)
_IMAGENET_100 = (130_000, 5_000)  # up to 1,300 training images and 50 held-out ones of each class

_METHOD: dict[str, tuple[MethodName, str, Sequence[str]]] = {
    "baseline": ("baseline", "--method baseline", (_BASELINE,)),
    "l2": ("cgc", "--method l2 -t 0.5", ("λ of the L2 ablation: 0.5 · S²",)),
    "cgc": ("cgc", f"--lambda 0.5 -t 0.5 {_ARITHMETIC}", ()),
    "cgc-floor": ("cgc", "--lambda 0.5 -t 0.5", ("--map-floor 0.1, this project's default",)),
}


def imagenet(method: str, arch: str = "resnet50", *, maxpool: bool = False) -> Training:
    """90 epochs of ImageNet at batch 256 and rate 0.1 with the rows of CGC's table, or ``grid``: GC."""
    schedule = "-j 16 --lr 0.1 --wd 1e-4 --epochs 90"
    pool, pooled = (" --maxpool", "-gmp") if maxpool else ("", "")
    name = f"imagenet-{arch}{pooled}-{method}"
    if method == "grid":
        line = f"train_gcam_grid_consistency.py DATA -a {arch} -b 256 {schedule} --lambda 25{pool} {_SEED}"
        return Training(name, line, ours=(LAST,), arch=arch, cost=Run(name, "grid", 256, 90))
    counted, options, ours = _METHOD[method]
    line = f"train_eval_cgc.py DATA {options} -a {arch} -b 256 {schedule}{pool} {_SEED}"
    replicas = 4 if counted == "cgc" else 0
    cost = Run(name, counted, 256, 90)
    return Training(name, line, ours=(*ours, LAST), arch=arch, cost=cost, replicas=replicas)


def fine_grained(dataset: str, method: str) -> Training:
    """CGC's trainer names these data sets; with which options its accuracies were reached is not published."""
    _, images, held_out = FINE_GRAINED[dataset]
    name = f"{dataset}-resnet50-{method}"
    counted, options, ours = _METHOD[method]
    line = (
        f"train_eval_cgc.py {dataset.upper()} --dataset {dataset} {options} -a resnet50 --pretrained -b 64 -j 16 "
        f"--lr 0.01 --wd 1e-4 --epochs 90 {_SEED}"
    )
    ours = (
        *ours,
        "start from torchvision's ImageNet weights, batch 64, rate 0.01, 90 epochs, the split",
        LAST,
    )
    return Training(name, line, ours=ours, cost=Run(name, counted, 64, 90, images, held_out))


def one_percent(method: str) -> Training:
    """From SwAV's trunk with 1 % of the labels: CGC or SGC on unlabelled images, or neither.

    SGC's published scripts have 100 outputs, so its runs are of ImageNet-100.
    """
    name = f"1pct-{method}"
    schedule = "-b 128 -j 16 --lr 0.02 --lr_last_layer 5 --epochs 50 --decay_epochs 12 16 --gamma 0.2 --wd 0"
    rest = f"-a resnet50 {schedule} {{}} --init SWAV {_SEED}"
    small = "sgc" in method
    images, held_out = _IMAGENET_100 if small else (IMAGENET, IMAGENET_VALIDATION)
    counted: MethodName = "semi-sgc" if small else "semi-cgc"
    ours: tuple[str, ...] = (LAST,)
    if method == "cgc":
        script = "train_imagenet_1pc_swav_cgc_unlabeled.py WORK/labels"
        options = f"--lambda 0.25 -t 0.5 {_ARITHMETIC}"
    elif method == "sgc":
        script = "train_imagenet_1pc_swav_sgc_unlabeled.py WORK/labels"
        options = f"--lambda 0.5 -t 0.5 {_ARITHMETIC} --saliency WORK/masks"
    else:
        script, options = "train_eval_cgc.py WORK/labels --method baseline", "--new-head"
        counted, ours = "baseline", (_BASELINE, LAST)
    cost = Run(name, counted, 128, 50, images // 100, held_out)
    replicas = 2 if method == "cgc" else 0
    line = f"{script} {rest.format(options)}"
    return Training(
        name,
        line,
        tiny="--lr_last_layer 0.1",
        ours=ours,
        cost=cost,
        replicas=replicas,
    )


def imagenet_100(method: str, arch: str) -> Training:
    """SGC's runs of 200 epochs at rate 0.01, and its comparison rows at the same length."""
    name = f"imagenet100-{arch}-{method}"
    batch = {"resnet50": 192, "resnet18": 256}[arch]
    rest = f"-a {arch} -b {batch} -j 16 --lr 0.01 --epochs 200"
    ours: Sequence[str]
    if method == "sgc":
        counted: MethodName = "sgc"
        line = (
            f"train_eval_sgc.py DATA {rest} --lambda 0.5 -t 0.5 {_ARITHMETIC} --saliency WORK/masks {_SEED}"
        )
        ours = ()
    else:
        counted, options, ours = _METHOD[method]
        line = f"train_eval_cgc.py DATA {options} {rest} {_SEED}"
        ours = (*ours, "this row's schedule: SGC's")
    ours = (*ours, "rate divided by 10 every 30 epochs", LAST)
    cost = Run(name, counted, batch, 200, *_IMAGENET_100)
    return Training(name, line, ours=ours, arch=arch, cost=cost)


def coco(method: str) -> Training:
    """36 epochs of MS-COCO from an ImageNet checkpoint; ``baseline``: without the consistency."""
    name = f"coco-resnet50-{method}"
    weight, ours = (1, ()) if method == "grid" else (0, ("λ 0: how the baseline was trained is not known",))
    line = (
        "train_gcam_multiclass_grid_consistency.py DATA -a resnet50 -b 256 -j 16 --lr 0.01 --wd 5e-4 --epochs 36 "
        f"--lambda {weight} --init IMAGENET --negatives WORK/negatives.npz {_SEED}"
    )
    ours = (*ours, "network and batch size", LAST)
    cost = Run(name, "grid", 256, 36, *_COCO)
    return Training(name, line, ours=ours, scores={"F1": "val_overall_f1"}, cost=cost)


# Images whose map is all zero count as uniform ones, as in the released code.
_SCORED = "-j 4 -b 32 MODEL --input_resize {} --zero-maps uniform"
_EXACT = "stochastic pointing game: its exact expectation, not 100 drawn points"


def content_heatmap(arch: str, data: str = "DATA", script: str = "imagenet", size: int = 448) -> Evaluation:
    """Content Heatmap by one of the published scripts."""
    dataset = " --dataset cub" if script == "finegrained" else ""
    line = f"{BENCHMARK}evaluate_{script}_gradcam_energy_inside_bbox.py {data}{dataset} -a {arch} "
    return Evaluation("boxes", line + _SCORED.format(size), scores={"CH": "ch"})


def localisation(arch: str, size: int = 448, *, maxpool: bool = False) -> Evaluation:
    """PG, SPG and CH in one pass."""
    pool = " --maxpool" if maxpool else ""
    line = f"evaluate_gradcam_energy_inside_bbox.py DATA -a {arch}{pool} {_SCORED.format(size)}"
    return Evaluation("boxes", line, ours=(_EXACT,), scores={"PG": "pg", "SPG": "spg", "CH": "ch"})


def several_labels() -> Sequence[Evaluation]:
    """COCO's two published scripts, against the objects' masks."""
    rest = f"DATA -a resnet50 {_SCORED.format(448)}"
    boxes = "--regions boxes"
    first = f"{BENCHMARK}evaluate_coco_gradcam_pointinggame_and_content_heatmap.py {rest}"
    second = f"{BENCHMARK}evaluate_coco_gradcam_stochastic_pointinggame.py {rest}"
    return (
        Evaluation("masks", first, boxes, scores={"CH": "ch", "PG": "pg"}, needs="pycocotools"),
        Evaluation("stochastic", second, boxes, (_EXACT,), {"SPG": "spg"}, needs="pycocotools"),
    )


def unusual_relations() -> Evaluation:
    """CH and top-1 on UnRel's categories that overlap ImageNet."""
    options = "--dataset unrel --class-map CLASS_MAP --metrics ch,top1"
    line = f"cgc evaluate UNREL -a resnet50 {options} {_SCORED.format(448)}"
    return Evaluation("unrel", line, "--classes DATA/train", scores={"CH": "ch", TOP1: "top1"})


_AREAS = {"insertion": "insertion", "deletion": "deletion"}


def insertion() -> Evaluation:
    line = "evaluate_auc_metrics.py DATA -a resnet50 -j 4 -b 32 MODEL"
    return Evaluation("areas", line, ours=("deletion goes to zeros",), scores=_AREAS)


def insertion_of_rise() -> Evaluation:
    line = (
        "cgc evaluate DATA -a resnet50 -j 4 -b 32 MODEL --explainer rise --rise-masks 4000 "
        "--metrics insertion,deletion --images 10000"
    )
    ours = (
        "4,000 masks; maps of the labelled class",
        "10,000 images spread evenly over the list, not the first ones",
    )
    return Evaluation("areas", line, "--rise-masks 100 --images 12", ours, _AREAS)


EXPLAINED = {  # explainer: the package that it takes
    "gradcam": "",
    "excitation": "",
    "contrastive-excitation": "",
    "gradcam++": "pytorch_grad_cam",
    "layercam": "pytorch_grad_cam",
    "guided-backprop": "captum",
    "integrated-gradients": "captum",
}


def explained(explainer: str) -> Evaluation:
    """Content Heatmap under one explainer."""
    tiny = "--images 20"
    rest = f"DATA -a resnet50 {_SCORED.format(448)}"
    if explainer == "contrastive-excitation":
        line = f"{BENCHMARK}evaluate_imagenet_excitation_backprop_energy_inside_bbox.py {rest}"
    else:
        line = f"cgc evaluate {rest} --metrics ch --explainer {explainer}"
    name = explainer.replace("++", "-plus-plus")
    return Evaluation(name, line, tiny, scores={f"CH, {explainer}": "ch"}, needs=EXPLAINED[explainer])
