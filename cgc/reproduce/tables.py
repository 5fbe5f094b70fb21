"""The tables by name."""

from __future__ import annotations

from collections.abc import Mapping

from cgc.errors import InputError
from cgc.reproduce import published, recipes
from cgc.reproduce.model import TOP1, Input, Preparation, Row, Table, Training

_IMAGENET = "ImageNet: train/CLASS/*, val/CLASS/*"
_BOXED = Input(
    "DATA", f"{_IMAGENET}, annotation/*.xml (VOC boxes of the validation images); `prepare imagenet`"
)
_SWAV = Input("SWAV", "SwAV's ResNet-50 after 800 epochs (swav_800ep_pretrain.pth.tar)")
_U2NET = Input("U2NET", "weights of U²-Net (u2net.pth) or its small form (u2netp.pth)")
_LIST = Input(
    "LIST",
    "the labelled images, one a line; `python -m cgc label-subset DATA --percent 1 --out LIST` draws such a list",
)
_TITLES = {
    "baseline": "cross-entropy",
    "l2": "L2 ablation",
    "cgc": "CGC as published",
    "cgc-floor": "CGC, this project's default",
    "sgc": "SGC",
    "grid": "GC",
}
_NETWORKS = {"alexnet": "AlexNet", "resnet18": "ResNet-18", "resnet50": "ResNet-50"}
_LABELS = Preparation(
    "labels",
    "cgc label-subset DATA --list LIST --out WORK/labels --links",
    tiny="--percent 10",
    product="WORK/labels",
)
_FEW = "cross-entropy of the labelled images"
_ONE_CHECKPOINT = "every row of a model scores one run; tables that name the same training share it"


def _cgc_imagenet() -> Table:
    scored = [recipes.content_heatmap("resnet50")]
    return Table(
        "cgc-imagenet",
        "CGC on ImageNet, ResNet-50, beside cross-entropy and the L2 ablation (CVPR 2022)",
        [_BOXED],
        [
            Row(
                name,
                _TITLES[name],
                recipes.imagenet(name),
                scored,
                published.CGC_IMAGENET if name == "cgc" else {},
                published.CGC_PAGE if name == "cgc" else "",
            )
            for name in ("baseline", "cgc", "cgc-floor", "l2")
        ],
        remarks=[
            "published on 4 GPUs, each of which contrasts its own 64 images: --num-gpus 1, 2 or 4 keeps these parts"
        ],
    )


def _cgc_finegrained() -> Table:
    rows = [
        Row(
            f"{dataset}-{method}",
            f"{recipes.FINE_GRAINED[dataset][0]}, {_TITLES[method]}",
            recipes.fine_grained(dataset, method),
            [recipes.content_heatmap("resnet50", "CUB", "finegrained")] if dataset == "cub" else [],
            {TOP1: published.CGC_FINE_GRAINED[dataset]} if method == "cgc" else {},
            published.CGC_PAGE if method == "cgc" else "",
        )
        for dataset in recipes.FINE_GRAINED
        for method in ("baseline", "cgc")
    ]
    inputs = [
        Input(name.upper(), f"{title}: train/CLASS/*, {held_out}", f"DATA/{name}")
        for name, (title, *_) in recipes.FINE_GRAINED.items()
        for held_out in [
            "test/CLASS/*, boxes in CUB's own tables or annotation/*.xml" if name == "cub" else "val/CLASS/*"
        ]
    ]
    return Table(
        "cgc-finegrained",
        "CGC on CUB, Aircraft, Cars and Flowers (CVPR 2022)",
        inputs,
        rows,
        remarks=["only the accuracies are published, none of the options they were reached with"],
    )


def _cgc_1pct() -> Table:
    scored = [recipes.content_heatmap("resnet50", script="swav_imagenet")]
    return Table(
        "cgc-1pct",
        "CGC with 1 % of ImageNet's labels and unlabelled images, from SwAV (CVPR 2022)",
        [_BOXED, _SWAV, _LIST],
        [
            Row("baseline", _FEW, recipes.one_percent("baseline"), scored),
            Row("cgc", "CGC on unlabelled images", recipes.one_percent("cgc"), scored),
        ],
        [_LABELS],
    )


def _gc_row(arch: str, method: str, *, maxpool: bool) -> Row:
    parts = ["gmp"] * maxpool + ["gc"] * (method == "grid")
    name = "-".join([arch, *(parts or ["baseline"])])
    title = " + ".join(map(str.upper, parts)) or "baseline"
    return Row(
        name,
        f"{_NETWORKS[arch]}, {title}",
        recipes.imagenet(method, arch, maxpool=maxpool),
        [recipes.localisation(arch, maxpool=maxpool)],
        published.GC[name],
        published.GC_README,
    )


def _gc_imagenet() -> Table:
    rows = [
        _gc_row(arch, method, maxpool=maxpool)
        for arch in _NETWORKS
        for maxpool in (False, True)
        for method in ("baseline", "grid")
        if not (maxpool and arch == "alexnet")
    ]
    return Table(
        "gc-imagenet",
        "GC on ImageNet: AlexNet, ResNet-18, ResNet-50, with and without global max pooling (AAAI 2021)",
        [_BOXED],
        rows,
        remarks=["one learning rate, 0.1, is published for all networks; AlexNet has no batch norm"],
    )


def _gc_coco() -> Table:
    negatives = Preparation(
        "negatives",
        "extract_negative_image_list.py DATA/annotations/instances_train2014.json WORK/negatives.npz",
        product="WORK/negatives.npz",
    )
    scored = recipes.several_labels()
    return Table(
        "gc-coco",
        "GC on MS-COCO 2014, several labels (AAAI 2021)",
        [
            Input("DATA", "COCO 2014: train2014/, val2014/, annotations/instances_{train,val}2014.json"),
            Input("IMAGENET", "ResNet-50 trained on ImageNet, whose classifier is left out"),
        ],
        [
            Row("baseline", "λ 0", recipes.coco("baseline"), scored),
            Row("gc", "GC", recipes.coco("grid"), scored),
        ],
        [negatives],
        ["the published table of COCO repeats ImageNet's numbers and is left out here"],
        layout="coco",
    )


def _sgc_imagenet100() -> Table:
    masks = Preparation(
        "masks",
        "cgc saliency-masks DATA --weights U2NET --out WORK/masks -j 16",
        product="WORK/masks",
        whole=False,
    )
    return Table(
        "sgc-imagenet100",
        "SGC on ImageNet-100, ResNet-50 and ResNet-18 (ESWA 2024)",
        [Input("DATA", "100 classes of ImageNet: train/, val/, annotation/*.xml"), _U2NET],
        [
            Row(
                f"{arch}-{method}",
                f"{_NETWORKS[arch]}, {_TITLES[method]}",
                recipes.imagenet_100(method, arch),
                [recipes.localisation(arch, 224)],
            )
            for arch in ("resnet50", "resnet18")
            for method in ("baseline", "cgc", "sgc")
        ],
        [masks],
        ["which 100 classes were used is not known here; hours are of 1,300 training images a class"],
    )


def _sgc_1pct() -> Table:
    masks = Preparation(
        "masks",
        "cgc saliency-masks WORK/labels/unlabeled --unlabeled --weights U2NET --out WORK/masks -j 16",
        product="WORK/masks",
        whole=False,
    )
    scored = [recipes.localisation("resnet50", 224)]
    return Table(
        "sgc-1pct",
        "SGC with 1 % of the labels of ImageNet-100 and unlabelled images, from SwAV (ESWA 2024)",
        [Input("DATA", "100 classes of ImageNet: train/, val/, annotation/*.xml"), _SWAV, _LIST, _U2NET],
        [
            Row("baseline", _FEW, recipes.one_percent("sgc-baseline"), scored),
            Row("sgc", "SGC on unlabelled images", recipes.one_percent("sgc"), scored),
        ],
        [_LABELS, masks],
    )


def _unrel() -> Table:
    scored = [recipes.unusual_relations()]
    return Table(
        "unrel",
        "CH and top-1 on UnRel's 28 categories that overlap ImageNet, with and without CGC (CGC's benchmark page)",
        [
            _BOXED,
            Input("UNREL", "UnRel: images/ with annotations.mat, COCO-style JSON or VOC XML", "DATA/unrel"),
            Input(
                "CLASS_MAP",
                "UnRel's categories to ImageNet's classes (cgc/data/unrel_class_map_template.txt)",
            ),
        ],
        [
            Row("baseline", "cross-entropy", recipes.imagenet("baseline"), scored),
            Row(
                "cgc",
                "CGC as published",
                recipes.imagenet("cgc"),
                scored,
                published.CGC_UNREL,
                published.CGC_PAGE,
            ),
        ],
        remarks=["the published class map is not known to this project; " + _ONE_CHECKPOINT],
    )


def _iauc() -> Table:
    scored, baseline = [recipes.insertion()], recipes.imagenet("baseline")
    return Table(
        "iauc",
        "Insertion and deletion AUC on ImageNet, ResNet-50: Grad-CAM with and without CGC, and RISE (BMVC 2018)",
        [Input("DATA", _IMAGENET)],
        [
            Row("baseline", "cross-entropy, Grad-CAM", baseline, scored),
            Row("cgc", "CGC as published, Grad-CAM", recipes.imagenet("cgc"), scored),
            Row(
                "rise",
                "torchvision's ResNet-50, RISE",
                baseline,
                [recipes.insertion_of_rise()],
                published.RISE,
                published.RISE_PAPER,
                pretrained=True,
            ),
        ],
        remarks=["areas in per cent; of deletion less is better; " + _ONE_CHECKPOINT],
    )


def _explainers() -> Table:
    scored = [recipes.explained(name) for name in recipes.EXPLAINED]
    models: list[tuple[str, str, Training]] = [
        ("baseline", "cross-entropy", recipes.imagenet("baseline")),
        ("gc", "GC", recipes.imagenet("grid")),
        ("cgc", "CGC as published", recipes.imagenet("cgc")),
    ]
    return Table(
        "explainers",
        "Do models trained with GC explain better under other explainers too? CH on ImageNet, ResNet-50 (AAAI 2021)",
        [_BOXED],
        [Row(name, title, training, scored) for name, title, training in models],
        remarks=[
            "CGC's row is ours; columns whose package is not installed are left out; " + _ONE_CHECKPOINT
        ],
    )


TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _cgc_imagenet(),
        _cgc_finegrained(),
        _cgc_1pct(),
        _unrel(),
        _iauc(),
        _gc_imagenet(),
        _gc_coco(),
        _explainers(),
        _sgc_imagenet100(),
        _sgc_1pct(),
    )
}


def table_called(name: str) -> Table:
    """Raises InputError for an unknown name; the message lists the tables."""
    table = TABLES.get(name)
    if table is None:
        raise InputError(f"no table {name!r}; there are: {', '.join(TABLES)}")
    return table
