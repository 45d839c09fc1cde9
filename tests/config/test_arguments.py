"""The command line: what it takes, what overrides what, and every kind of bad input.

Truth is the order of force and the wording that the design promises, written
out here; the sweep's flags and file are made by W&B's own functions.

    python -m pytest tests/config/test_arguments.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.common.errors import InputError
from lowrank.config import Config, replace
from lowrank.config.arguments import help_text, parse
from lowrank.training.requests import split

WHOLE = "a whole number from 1 to 2147483647"
NUMBER = "a finite number above 0"
WORD = "allowed: --NAME=VALUE"
SEEDS = (
    "three seeds are three runs, seed: {values: [0, 1, 2]} in a sweep, trained as one with lowrank "
    "sweep --pack (docs/packs.md)"
)


def said(*argv: str, **environ: str) -> list[str]:
    """Returns the lines of complaint about a command line."""
    with pytest.raises(InputError) as caught:
        parse(argv, environ)
    return caught.value.lines


def files(folder: Path) -> dict[str, str]:
    """Writes files to be given to ``--config``; returns their paths by name."""
    contents = {
        "list.yaml": b"- 1\n",
        "word.yaml": b"lr\n",
        "twice.yaml": b"lr: 1\nlr: 2\n",
        "broken.yaml": b"lr: [1\n",
        "binary.yaml": b"\xff\xfe\x00",
        "object.yaml": b"lr: !!python/name:os.system\n",
        "laughs.yaml": b"a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "two.yaml": b"lr: 1\n---\nlr: 2\n",
        "huge.yaml": b"#" * 20_001,
        "unknown.yaml": b"weight_dcay: 1e-4\n",
        "value.yaml": b"lr: quick\n",
        "sweep.yaml": b"wandb_version: 1\n\nlr:\n  value: quick\nmomentun:\n  value: 0.9\n",
        "flat.yaml": b"wandb_version: 1\n\nlr: 0.1\n",
        "coupled.yaml": b"wandb_version: 1\n\nconfig:\n  value: '{lr: 0, wd: 1}'\n",
        "scalar.yaml": b"wandb_version: 1\n\nconfig:\n  value: 3\n",
        "run/config.yaml": b"lr: 0.1\n",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in [*contents, "run", "absent.yaml"]}


# Each: the words, the variables, the lines expected. <name> stands for a file's path.
BAD: dict[str, tuple[list[str], dict[str, str], list[str]]] = {
    "unknown name": (
        ["--weight_dcay=1"], {},
        ["unknown name 'weight_dcay' from --weight_dcay, did you mean 'weight_decay'?"],
    ),
    "what others call a setting": (
        ["--learning_rate=1", "--arch=mlp", "--bs=3"], {},
        [
            "unknown name 'learning_rate' from --learning_rate, did you mean 'lr'?",
            "unknown name 'arch' from --arch, did you mean 'model'?",
            "unknown name 'bs' from --bs, did you mean 'batch_size'?",
        ],
    ),
    "what others have": (
        ["--nesterov"], {},
        [
            "unknown name 'nesterov' from --nesterov: Nesterov's momentum is not offered; "
            "momentum is"
        ],
    ),
    "unknown name without a near one": (
        ["--zzz=1"], {}, ["unknown name 'zzz' from --zzz"],
    ),
    "dashes": (
        ["--batch-size=8"], {},
        ["unknown name 'batch-size' from --batch-size, did you mean 'batch_size'?"],
    ),
    "replicas": (["--replicas=3"], {}, [f"unknown name 'replicas' from --replicas: {SEEDS}"]),
    "replicas in a mapping": (
        ["--config={replicas: 3}"],
        {},
        [f"unknown name 'replicas' from --config {{replicas: 3}}: {SEEDS}"],
    ),
    "capitals": (["--LR=1"], {}, ["unknown name 'LR' from --LR, did you mean 'lr'?"]),
    "no name": (["--=3"], {}, [f"unexpected word '--=3'; {WORD}"]),
    "two dashes": (["--"], {}, [f"unexpected word '--'; {WORD}"]),
    "one dash": (
        ["-lr=3"], {}, [f"unexpected word '-lr=3'; {WORD}, did you mean '--lr=3'?"],
    ),
    "no dashes": (["lr=3"], {}, [f"unexpected word 'lr=3'; {WORD}, did you mean '--lr=3'?"]),
    "a word": (["digits"], {}, [f"unexpected word 'digits'; {WORD}"]),
    "a word after a boolean": (
        ["--augment", "digits"], {}, [f"unexpected word 'digits'; {WORD}"],
    ),
    "nothing after the last name": (
        ["--lr"], {}, [f"lr: no value after --lr; allowed: {NUMBER}"],
    ),
    "nothing before the next name": (
        ["--epochs", "--lr=1"], {},
        ["epochs: no value after --epochs; allowed: a whole number from 0 to 2147483647"],
    ),
    "an empty value": (["--lr="], {}, [f"lr: got '' from --lr; allowed: {NUMBER}"]),
    "None for a required field": (
        ["--lr=None"], {}, [f"lr: got 'None' from --lr; allowed: {NUMBER}"],
    ),
    "None for a path": (
        ["--data_dir=None"], {}, ["data_dir: got 'None' from --data_dir; allowed: a path"],
    ),
    "the same name twice": (
        ["--lr=1", "--lr=2"], {}, ["lr: given twice, '1' and '2' from --lr; allowed: once"],
    ),
    "a text for a number": (
        ["--lr=fast"], {}, [f"lr: got 'fast' from --lr; allowed: {NUMBER}"],
    ),
    "a comma for a point": (["--lr=0,1"], {}, [f"lr: got '0,1' from --lr; allowed: {NUMBER}"]),
    "nan": (["--lr=nan"], {}, [f"lr: got 'nan' from --lr; allowed: {NUMBER}"]),
    "infinity": (["--lr=inf"], {}, [f"lr: got 'inf' from --lr; allowed: {NUMBER}"]),
    "overflow": (["--lr=1e400"], {}, [f"lr: got '1e400' from --lr; allowed: {NUMBER}"]),
    "a boolean for a number": (
        ["--lr=True"], {}, [f"lr: got 'True' from --lr; allowed: {NUMBER}"],
    ),
    "a rate of zero": (["--lr=0"], {}, [f"lr: got '0' from --lr; allowed: {NUMBER}"]),
    "a negative number after a space": (
        ["--weight_decay", "-1"], {},
        ["weight_decay: got '-1' from --weight_decay; allowed: a finite number of at least 0"],
    ),
    "a momentum of one": (
        ["--momentum=1"], {},
        ["momentum: got '1' from --momentum; allowed: a finite number of at least 0 and below 1"],
    ),
    "a fraction for a whole number": (
        ["--depth=16.5"], {},
        ["depth: got '16.5' from --depth; allowed: a whole number from 1 to 1000"],
    ),
    "zero examples": (
        ["--batch_size=0"], {}, [f"batch_size: got '0' from --batch_size; allowed: {WHOLE}"],
    ),
    "a whole number that is too large": (
        ["--batch_size=1e12"], {},
        [f"batch_size: got '1e12' from --batch_size; allowed: {WHOLE}"],
    ),
    "six thousand digits": (
        ["--batch_size=" + "9" * 6000], {},
        [
            f"batch_size: got '{'9' * 48}... (6000 characters)' from --batch_size; "
            f"allowed: {WHOLE}"
        ],
    ),
    "a negative seed": (
        ["--seed=-1"], {},
        ["seed: got '-1' from --seed; allowed: a whole number from 0 to 4294967295, or None"],
    ),
    "not a boolean": (
        ["--batch_norm=maybe"], {},
        ["batch_norm: got 'maybe' from --batch_norm; allowed: True or False"],
    ),
    "not a choice": (
        ["--model=resnet20"], {},
        [
            "model: got 'resnet20' from --model; allowed: mlp, resmlp, convnet, mixed, resnet18, "
            "resnet34, resnet50, vgg11, vgg13, vgg16, vgg19, vit or gpt, did you mean 'resnet50'?"
        ],
    ),
    "the beginning of a choice": (
        ["--model=resnet"], {},
        [
            "model: got 'resnet' from --model; allowed: mlp, resmlp, convnet, mixed, resnet18, "
            "resnet34, resnet50, vgg11, vgg13, vgg16, vgg19, vit or gpt, did you mean 'resnet18'?"
        ],
    ),
    "not a device": (
        ["--device=gpu"], {},
        ["device: got 'gpu' from --device; allowed: auto, cpu, cuda or cuda:N"],
    ),
    "milestones that fall": (
        ["--milestones=100,60"], {},
        [
            "milestones: got '100,60' from --milestones; allowed: a list of increasing whole "
            "numbers from 1 such as [60,100,200], or [] for none"
        ],
    ),
    "an unclosed list": (
        ["--milestones=[60,100"], {},
        [
            "milestones: got '[60,100' from --milestones; allowed: a list of increasing whole "
            "numbers from 1 such as [60,100,200], or [] for none"
        ],
    ),
    "no epsilon": (
        ["--epsilons=[]"], {},
        [
            "epsilons: got '[]' from --epsilons; allowed: a list of 1 to 16 numbers above 0 and "
            "below 1 that differ in six digits"
        ],
    ),
    "epsilons of one name": (
        ["--epsilons=0.001,0.0010000001"], {},
        [
            "epsilons: got '0.001,0.0010000001' from --epsilons; allowed: a list of 1 to 16 "
            "numbers above 0 and below 1 that differ in six digits"
        ],
    ),
    "a long tag": (
        ["--tags=a," + "b" * 65], {},
        [
            f"tags: got 'a,{'b' * 46}... (67 characters)' from --tags; "
            "allowed: a list of texts of 1 to 64 characters such as [a,b]"
        ],
    ),
    "a run_id that leaves the folder": (
        ["--run_id=../x"], {},
        ["run_id: got '../x' from --run_id; allowed: 1 to 64 letters, digits, _ or -, or None"],
    ),
    "a project W&B refuses": (
        ["--project=a/b"], {},
        ["project: got 'a/b' from --project; allowed: 1 to 128 characters, none of /\\#?%:"],
    ),
    "a line break": (
        ["--name=a\nb"], {},
        ["name: got 'a\\nb' from --name; allowed: a text of 1 to 128 characters, or None"],
    ),
    "a byte that is no text": (
        ["--name=\udc80"], {},
        ["name: got '\\udc80' from --name; allowed: a text of 1 to 128 characters, or None"],
    ),
    "a name that is no text": (
        ["--\udc80=1"], {}, ["unknown name '\\udc80' from --\\udc80"],
    ),
    "momentum with adam": (
        ["--optimizer=adam", "--momentum=0.9"], {},
        ["momentum=0.9 has no effect with optimizer=adam, only with optimizer=sgd; leave it out"],
    ),
    "sizes of another model": (
        ["--model=resnet18", "--depth=3", "--batch_norm=False"], {},
        [
            "depth=3 has no effect with model=resnet18, only with model=mlp, resmlp, convnet or "
            "mixed; leave it out",
            "batch_norm=False has no effect with model=resnet18, only with model=mlp; leave it out",
        ],
    ),
    "what only some models have": (
        ["--model=convnet", "--weight_norm", "--dropout=0.5", "--vit_patch=2", "--vit_depth=2",
         "--vit_heads=2", "--vit_width=2", "--vit_mlp_width=2"], {},
        [
            "weight_norm=True has no effect with model=convnet, only with model=mlp; leave it out",
            "dropout=0.5 has no effect with model=convnet, only with model=vgg11, vgg13, vgg16, "
            "vgg19, vit or gpt; leave it out",
            *(
                f"vit_{name}=2 has no effect with model=convnet, only with model=vit; leave it out"
                for name in ("patch", "depth", "heads", "width", "mlp_width")
            ),
        ],
    ),
    "images for a model of text": (
        ["--model=gpt", "--gpt_heads=3"], {},
        [
            "model=gpt reads text, which dataset=digits does not hold; dataset=pydoc or text works",
            "gpt_heads=3 does not divide gpt_width=128; gpt_heads=2 works",
        ],
    ),
    "text for a model of images": (
        ["--dataset=text", "--image_size=8", "--loss=mse"], {},
        [
            "image_size=8 has no effect with dataset=text, only with dataset=digits, mnist, "
            "fashion_mnist, cifar10, cifar100, svhn, stl10, food101, imagenette, places365, "
            "imagefolder or synthetic; leave it out",
            "model=mlp reads images, which dataset=text does not hold; model=gpt reads text",
            "loss=mse: averaged over the 256 possible bytes, it hardly depends on the one that is "
            "right; allowed with dataset=text: loss=cross_entropy",
        ],
    ),
    "a context for images": (
        ["--context=8"], {},
        ["context=8 has no effect with dataset=digits, only with dataset=pydoc or text; "
         "leave it out"],
    ),
    "an activation that a model lacks": (
        ["--model=vit", "--activation=leaky_relu"], {},
        [
            "activation=leaky_relu has no effect with model=vit, only with model=mlp, resmlp, "
            "convnet, mixed, resnet18, resnet34, resnet50, vgg11, vgg13, vgg16 or vgg19; leave it "
            "out"
        ],
    ),
    "a dropout of everything": (
        ["--model=vit", "--dropout=1"], {},
        ["dropout: got '1' from --dropout; allowed: a finite number of at least 0 and below 1"],
    ),
    "BatchNorm after weight normalisation": (
        ["--weight_norm"], {},
        [
            "weight_norm=True, but with batch_norm=True BatchNorm undoes the gain of each matrix; "
            "the paper's weight-normalised mlp has batch_norm=False"
        ],
    ),
    "images too small for five pools": (
        ["--model=vgg16", "--dataset=cifar10", "--image_size=31"], {},
        ["image_size=31: too small for model=vgg16; image_size=32 or more works"],
    ),
    "images too small for two strides": (
        ["--model=convnet", "--dataset=cifar10", "--image_size=3"], {},
        ["image_size=3: too small for model=convnet; image_size=4 or more works"],
    ),
    "images that do not divide into patches": (
        ["--model=vit", "--dataset=cifar10", "--image_size=30"], {},
        ["image_size=30: vit_patch=4 does not divide 30; vit_patch=3 or image_size=32 works"],
    ),
    "native images that do not divide into patches": (
        ["--model=vit", "--dataset=stl10", "--vit_patch=7"], {},
        [
            "96 x 96 images of stl10: vit_patch=7 does not divide 96; vit_patch=6 or "
            "image_size=98 works"
        ],
    ),
    "a patch larger than the image": (
        ["--model=vit", "--vit_patch=16"], {},
        [
            "8 x 8 images of digits: vit_patch=16 does not divide 8; vit_patch=8 or "
            "image_size=16 works"
        ],
    ),
    "patches where the next size is not allowed": (
        ["--model=vit", "--dataset=imagefolder", "--image_size=4095", "--vit_patch=1500"], {},
        [
            "image_size=4095: vit_patch=1500 does not divide 4095; vit_patch=1365 or "
            "image_size=3000 works"
        ],
    ),
    "heads that do not divide the width": (
        ["--model=vit", "--vit_heads=5"], {},
        ["vit_heads=5 does not divide vit_width=192; vit_heads=4 works"],
    ),
    "more heads than the width": (
        ["--model=vit", "--vit_heads=16", "--vit_width=8"], {},
        ["vit_heads=16 does not divide vit_width=8; vit_heads=8 works"],
    ),
    "milestones of another schedule": (
        ["--schedule=cosine", "--milestones=6"], {},
        [
            "milestones=[6] has no effect with schedule=cosine, only with schedule=milestones; "
            "leave it out"
        ],
    ),
    "milestones after the last epoch": (
        ["--milestones=60,100", "--epochs=20"], {},
        [
            "milestones=[60, 100] has no effect with epochs=20, only with epochs=60 or more; "
            "leave it out"
        ],
    ),
    "gamma without milestones": (
        ["--gamma=0.5"], {}, ["gamma=0.5 has no effect without milestones"],
    ),
    "decay that turns the sign": (
        ["--lr=10", "--weight_decay=0.1"], {},
        [
            "lr x weight_decay is 1; allowed: below 1, because a step multiplies the weights by "
            "1 - lr x weight_decay"
        ],
    ),
    "more warm-up than epochs": (
        ["--epochs=3", "--warmup_epochs=4"], {}, ["warmup_epochs=4 is more than epochs=3"],
    ),
    "more examples than there are": (
        ["--train_size=1441"], {},
        ["train_size=1441 is more than the 1440 training examples of digits"],
    ),
    "padding to less": (
        ["--dataset=mnist", "--image_size=16"], {},
        ["image_size=16 is less than the 28 of mnist, whose images are padded"],
    ),
    "tf32 on a CPU": (
        ["--precision=tf32", "--device=cpu"], {},
        ["precision=tf32 exists on CUDA only, not with device=cpu"],
    ),
    "must resume, but what": (
        ["--resume=must"], {}, ["resume=must needs the run_id of the run to continue"],
    ),
    "an absent file": (
        ["--config=<absent.yaml>"], {}, ["cannot read <absent.yaml>: No such file or directory"],
    ),
    "a directory": (
        ["--config=<run>"], {},
        ["<run> is a directory, not a YAML file, did you mean '<run>/config.yaml'?"],
    ),
    "config without a value": (
        ["--config"], {}, ["config: no value after --config; allowed: a YAML file or mapping"],
    ),
    "an empty config": (
        ["--config="], {}, ["config: got '' from --config; allowed: a YAML file or mapping"],
    ),
    "a file with a list": (
        ["--config=<list.yaml>"], {},
        ["<list.yaml> must be a mapping of names to values such as 'lr: 0.1'"],
    ),
    "a file with a word": (
        ["--config=<word.yaml>"], {},
        ["<word.yaml> must be a mapping of names to values such as 'lr: 0.1'"],
    ),
    "a key twice": (
        ["--config=<twice.yaml>"], {}, ["<twice.yaml> is not plain YAML: given twice: 'lr'"],
    ),
    "broken YAML": (
        ["--config=<broken.yaml>"], {},
        ["<broken.yaml> is not plain YAML: line 2: did not find expected ',' or ']'"],
    ),
    "a file that is no text": (
        ["--config=<binary.yaml>"], {}, ["<binary.yaml> is not a text file in UTF-8"],
    ),
    "a YAML tag": (
        ["--config=<object.yaml>"], {},
        ["<object.yaml> is not plain YAML: line 1: tags (!) are not read"],
    ),
    "a billion laughs": (
        ["--config=<laughs.yaml>"], {},
        ["<laughs.yaml> is not plain YAML: line 1: anchors and aliases (&, *) are not read"],
    ),
    "two documents": (
        ["--config=<two.yaml>"], {},
        ["<two.yaml> is not plain YAML: line 2: but found another document"],
    ),
    "a huge file": (
        ["--config=<huge.yaml>"], {},
        ["<huge.yaml> is no configuration: it is longer than 20000 bytes"],
    ),
    "an unknown name in a file": (
        ["--config=<unknown.yaml>"], {},
        ["unknown name 'weight_dcay' from <unknown.yaml>, did you mean 'weight_decay'?"],
    ),
    "a bad value in a file": (
        ["--config=<value.yaml>"], {},
        [f"lr: got 'quick' from <value.yaml>; allowed: {NUMBER}"],
    ),
    "a bad value that is overridden": (
        ["--config=<value.yaml>", "--lr=1"], {},
        [f"lr: got 'quick' from <value.yaml>; allowed: {NUMBER}"],
    ),
    "an unclosed mapping": (
        ["--config={lr: 1"], {},
        ["--config {lr: 1 is not plain YAML: line 2: did not find expected ',' or '}'"],
    ),
    "an unknown name in a mapping": (
        ["--config={lrr: 1}"], {},
        ["unknown name 'lrr' from --config {lrr: 1}, did you mean 'lr'?"],
    ),
    "brackets without end": (
        ["--config={" + "[" * 5000], {},
        [
            f"--config {{{'[' * 47}... (5001 characters) is not plain YAML: "
            "line 1: nested more than 5 deep"
        ],
    ),
    "an unknown variable": (
        [], {"LOWRANK_DATADIR": "x"},
        ["unknown environment variable LOWRANK_DATADIR, did you mean 'LOWRANK_DATA_DIR'?"],
    ),
    "a bad value in a variable": (
        [], {"LOWRANK_WIDTH": "wide"},
        ["width: got 'wide' from LOWRANK_WIDTH; allowed: a whole number from 1 to 1000000"],
    ),
    "W&B's shared mode": (
        [], {"WANDB_MODE": "shared"},
        [
            "tracking: got 'shared' from WANDB_MODE: one process writes a run; "
            "allowed: online, offline or disabled"
        ],
    ),
    "W&B's unknown mode": (
        [], {"WANDB_MODE": "of"},
        ["tracking: got 'of' from WANDB_MODE; allowed: online, offline or disabled"],
    ),
    "W&B's bad run id": (
        [], {"WANDB_RUN_ID": "a:b"},
        ["run_id: got 'a:b' from WANDB_RUN_ID; allowed: 1 to 64 letters, digits, _ or -, or None"],
    ),
    "an absent sweep file": (
        [], {"WANDB_SWEEP_PARAM_PATH": "<absent.yaml>"},
        ["cannot read <absent.yaml>: No such file or directory"],
    ),
    "a sweep's mistakes": (
        ["--lr=quick", "--momentun=0.9"], {"WANDB_SWEEP_PARAM_PATH": "<sweep.yaml>"},
        [
            "unknown name 'momentun' from the W&B sweep, did you mean 'momentum'?",
            f"lr: got 'quick' from the W&B sweep; allowed: {NUMBER}",
        ],
    ),
    "a sweep file that W&B did not write": (
        [], {"WANDB_SWEEP_PARAM_PATH": "<flat.yaml>"},
        ["<flat.yaml> (WANDB_SWEEP_PARAM_PATH): lr must be a mapping that holds 'value'"],
    ),
    "a sweep's coupled mistakes": (
        [], {"WANDB_SWEEP_PARAM_PATH": "<coupled.yaml>"},
        [
            "unknown name 'wd' from config of the W&B sweep, did you mean 'weight_decay'?",
            f"lr: got '0' from config of the W&B sweep; allowed: {NUMBER}",
        ],
    ),
    "a sweep's config that is no mapping": (
        [], {"WANDB_SWEEP_PARAM_PATH": "<scalar.yaml>"},
        ["config of the W&B sweep must be a mapping of names to values such as 'lr: 0.1'"],
    ),
    "a conflict between places": (
        ["--config={momentum: 0.9}"], {"LOWRANK_OPTIMIZER": "adamw"},
        [
            "momentum=0.9 has no effect with optimizer=adamw, only with optimizer=sgd; leave it "
            "out (momentum from --config {momentum: 0.9}, optimizer from LOWRANK_OPTIMIZER)"
        ],
    ),
    "a mistake, not held against other fields": (
        ["--epochs=many", "--warmup_epochs=25"], {},
        ["epochs: got 'many' from --epochs; allowed: a whole number from 0 to 2147483647"],
    ),
    "everything at once": (
        ["--modle=mlp", "stray", "--config=<absent.yaml>", "--lr=x", "--optimizer=adam",
         "--momentum=0.5"],
        {"LOWRANK_DEPTH": "0", "WANDB_MODE": "shared"},
        [
            f"unexpected word 'stray'; {WORD}",
            "tracking: got 'shared' from WANDB_MODE: one process writes a run; "
            "allowed: online, offline or disabled",
            "cannot read <absent.yaml>: No such file or directory",
            "unknown name 'modle' from --modle, did you mean 'model'?",
            f"lr: got 'x' from --lr; allowed: {NUMBER}",
            "depth: got '0' from LOWRANK_DEPTH; allowed: a whole number from 1 to 1000",
            "momentum=0.5 has no effect with optimizer=adam, only with optimizer=sgd; leave it out",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_answered_by_a_line_for_each_mistake(
    case: tuple[list[str], dict[str, str], list[str]], tmp_path: Path
):
    paths = files(tmp_path)

    def filled(text: str) -> str:
        for name, path in paths.items():
            text = text.replace(f"<{name}>", path)
        return text

    argv, environ, lines = case
    variables = {name: filled(value) for name, value in environ.items()}
    got = said(*map(filled, argv), **variables)
    assert got == [filled(line) for line in lines]
    assert all(line.isprintable() for line in got)


@pytest.mark.parametrize(
    ("argv", "fields"),
    [
        ([], {}),
        (["--batch_norm=True"], {"batch_norm": True}),
        (["--batch_norm=False", "--depth=16.0"], {"batch_norm": False, "depth": 16}),
        (["--lr=1e-4", "--epochs", "3"], {"lr": 1e-4, "epochs": 3}),
        (["--seed=None", "--group=", "--threads=null"], {"seed": None}),
        (["--milestones=[6, 10, 200]"], {"milestones": (6, 10, 200)}),
        (["--milestones", "6,10,20"], {"milestones": (6, 10, 20)}),
        (["--epsilons=[0.001, 0.04]"], {"epsilons": (0.001, 0.04)}),
        (["--tags=['cifar', 'paper']"], {"tags": ("cifar", "paper")}),
        (["--augment"], {"augment": True}),
        (["--augment", "--lr=1"], {"augment": True, "lr": 1.0}),
        (["--augment", "no", "--download", "0"], {"download": False}),
        (["--name=--odd=1"], {"name": "--odd=1"}),
        (["--_wandb={'a': 1}"], {}),
        (["--_wandb", "x"], {}),
        (["--config={lr: 0.001, weight_decay: 6e-3}"], {"lr": 1e-3, "weight_decay": 6e-3}),
        (["--config", "{'lr': 0.5, 'seed': None, 'augment': True}"],
         {"lr": 0.5, "seed": None, "augment": True}),
        (["--config={milestones: [1, 2], tags: [a], name: 0123}"],
         {"milestones": (1, 2), "tags": ("a",), "name": "0123"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_accepted_forms(argv: list[str], fields: dict[str, Any]):
    assert parse(argv, {}) == Config(**fields)


def test_order_of_force(tmp_path: Path):
    file = tmp_path / "base.yaml"
    file.write_text("depth: 1\nwidth: 1\nbatch_size: 1\nepochs: 1\nname: file\n")
    config = parse(
        ["--depth=3", f"--config={file}", "--config={depth: 2, width: 2, batch_size: 2}"],
        {
            "LOWRANK_EPOCHS": "9",
            "LOWRANK_MEASURE_EVERY": "9",
            "LOWRANK_ENTITY": "ours",
            "LOWRANK_GROUP": "",
            "WANDB_ENTITY": "theirs",
            "WANDB_RUN_GROUP": "group",
            "WANDB_NAME": "variable",
            "WANDB_PROJECT": "",
        },
    )
    assert (config.depth, config.width, config.batch_size) == (3, 2, 2)
    assert (config.epochs, config.measure_every) == (1, 9)
    assert (config.entity, config.group, config.name) == ("ours", "group", "file")
    assert config.project == "lowrank"
    other = parse(["--config={lr: 1}", "--config={lr: 2}"], {})
    assert other.lr == 2


@pytest.mark.parametrize("name", Config.model_fields)
def test_every_field_has_a_variable(name: str):
    variable = f"LOWRANK_{name.upper()}"
    (line,) = said(**{variable: "\x01"})  # bad for every field, so a line shows that it was read
    assert line.startswith(f"{name}: got '\\x01' from {variable}; allowed: ")


def test_variables_of_wandb():
    environ = {
        "WANDB_PROJECT": "p",
        "WANDB_ENTITY": "e",
        "WANDB_RUN_GROUP": "g",
        "WANDB_NAME": "n",
        "WANDB_TAGS": "a,b",
        "WANDB_RUN_ID": "abc123",
        "WANDB_MODE": "dryrun",
        "WANDB_SILENT": "true",
    }
    expected = Config(
        project="p", entity="e", group="g", name="n", tags=("a", "b"), run_id="abc123",
        tracking="offline",
    )  # fmt: skip
    assert parse([], environ) == expected
    assert parse([], {"WANDB_MODE": "run"}).tracking == "online"


def test_the_images_commit_is_no_setting():
    assert parse([], {"LOWRANK_COMMIT": "c0ffee"}) == Config()


def test_the_environment_is_the_process_s_own_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOWRANK_DATA_DIR", "/data")
    assert parse([]).data_dir == "/data"


def test_a_stored_configuration_repeats_the_run_as_a_new_one(tmp_path: Path):
    config = Config(lr=3e-7, run_id="abc", name="a: b", tags=("x, y",), milestones=(2, 3))
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert parse([f"--config={path}"], {}) == replace(config, run_id=None)
    assert parse([f"--config={path}", "--config={lr: 0.1}"], {}).lr == 0.1


@pytest.mark.parametrize("form", ["args", "args_no_equals", "args_no_boolean_flags"])
def test_a_sweep_as_wandb_agent_starts_it(form: str, tmp_path: Path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
    from wandb.sdk.lib.config_util import save_config_file_from_dict

    values = {
        "lr": "1e-4",  # what a sweep file with `1e-4` makes of it
        "depth": 16.0,
        "batch_norm": False,
        "seed": None,
        "milestones": [6, 100],
        "tags": ["a b", "c"],
        "config": "{lr: 0.5, weight_decay: 6e-3}",
        "_wandb": {"m": 1},
    }
    command = {"args": {name: {"value": value} for name, value in values.items()}}
    path = tmp_path / "wandb" / "sweep-x" / "config-y.yaml"
    save_config_file_from_dict(str(path), command["args"])
    argv = create_sweep_command_args(command)[form]
    expected = Config(
        lr=1e-4, depth=16, batch_norm=False, seed=None, milestones=(6, 100), tags=("a b", "c"),
        weight_decay=6e-3,
    )  # fmt: skip
    assert parse(argv, {"WANDB_SWEEP_PARAM_PATH": str(path)}) == expected


SEARCHED = [
    ("optimizer: {value: adam}\nmomentum: {value: 0.9}", {"optimizer": "adam"},
     ["momentum=0.9 has no effect with optimizer=adam, only with optimizer=sgd; "
      "momentum is left at 0.0"]),
    ("epochs: {value: 5}\nmilestones: {value: [6]}\ngamma: {value: 0.5}", {"epochs": 5},
     ["milestones=[6] has no effect with epochs=5, only with epochs=6 or more; "
      "milestones is left at []",
      "gamma=0.5 has no effect without milestones; gamma is left at 0.2"]),
    ("config: {value: '{model: vit, depth: 3}'}", {"model": "vit"},
     ["depth=3 has no effect with model=vit, only with model=mlp, resmlp, convnet or mixed; "
      "depth is left at 5"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fields", "notes"), SEARCHED, ids=["adam", "milestones", "vit"])
def test_what_a_search_gives_without_effect_is_left_at_its_default_and_said(
    text: str, fields: dict[str, Any], notes: list[str], tmp_path: Path
):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    said: list[str] = []
    assert parse([], {"WANDB_SWEEP_PARAM_PATH": str(path)}, notes=said) == Config(**fields)
    assert said == notes


def test_lowrank_sweep_tells_train_py_that_it_is_in_a_search():
    argv = ["--optimizer=adam", "--momentum=0.9", "--sweep=mine"]
    said: list[str] = []
    assert parse(argv, {}, notes=said) == Config(optimizer="adam", sweep="mine")
    assert len(said) == 1
    with pytest.raises(InputError):
        parse(argv[:2], {})


def test_what_no_search_gave_without_effect_is_a_conflict_also_in_a_sweep(tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text("optimizer: {value: adam}")
    with pytest.raises(InputError, match=r"momentum=0\.5 has no effect"):
        parse(["--momentum=0.5"], {"WANDB_SWEEP_PARAM_PATH": str(path)})


def test_a_sweep_s_values_win_over_flags_and_its_own_config(tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "wandb_version: 1\n\nlr:\n  value: 0.3\n"
        "config:\n  value:\n    lr: 0.4\n    depth: 4\n    width: 4\n"
    )
    argv = ["--lr=0.1", "--depth=1", "--batch_size=1", "--config={width: 1, epochs: 1}"]
    config = parse(argv, {"WANDB_SWEEP_PARAM_PATH": str(path), "LOWRANK_EPOCHS": "2"})
    assert (config.lr, config.depth, config.width) == (0.3, 4, 4)
    assert (config.batch_size, config.epochs) == (1, 1)


def test_a_sweep_without_parameters(tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text("wandb_version: 1")
    assert parse([], {"WANDB_SWEEP_PARAM_PATH": str(path)}) == Config()


def test_an_empty_file_says_nothing(tmp_path: Path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert parse([f"--config={path}"], {}) == Config()


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--lr=x", "--help"]], ids=" ".join)
def test_help_is_printed_also_beside_mistakes(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parse(argv, {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == help_text()


def test_help_describes_every_field_within_80_columns_of_ascii():
    text = help_text()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    groups = ["model", "data", "optimisation", "measurement", "machine", "tracking"]
    places = [text.index(f"\n{group}:\n") for group in groups]
    assert places == sorted(places)
    flat = " ".join(text.split())
    for name, field in Config.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        entry = flat[flat.index(f"--{name} {field.description}") :]
        assert f"default {default} " in entry[: entry.find(" --", 3)] + " "
    assert "a finite number of at least 0 and below 1; default 0.0" in flat
    assert "weights, all or none; default weights" in flat


def test_help_s_examples_are_valid(tmp_path: Path):
    stored = tmp_path / "config.yaml"
    stored.write_text(Config().to_yaml())
    text = help_text().partition("examples:")[2].partition("forms:")[0].replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if "python train.py" in line]
    assert len(commands) == 4
    for command in commands:
        for words in split(command[2:]):
            parse([str(stored) if word == "runs/ID/config.yaml" else word for word in words], {})


@pytest.mark.parametrize("argv", [["--help"], ["--lr=x"], ["--lr=1"]], ids=" ".join)
def test_nothing_heavy_is_imported(argv: list[str]):
    code = (
        "import sys\n"
        "from lowrank.config.arguments import parse\n"
        "from lowrank.common.errors import InputError\n"
        "try:\n"
        f"    parse({argv!r}, {{}})\n"
        "except (InputError, SystemExit):\n"
        "    pass\n"
        "heavy = {'torch', 'numpy', 'wandb', 'rich', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


WORDS = st.text(alphabet=st.sampled_from("-=lrdepthcongsa_{}[]:,. 01\udc80\n\x00é*&!"), max_size=12)
VALUES = st.sampled_from(
    ["", "None", "[", "{", "[[1]]", "nan", "-1", "1e999", "{a: 1}", "True", "x"]
)
FLAGS = st.builds(
    lambda name, value: f"--{name}={value}",
    st.sampled_from([*Config.model_fields, "config"]),
    VALUES | WORDS,
)


@settings(max_examples=300, deadline=None)
@given(argv=st.lists(WORDS | FLAGS, max_size=5).filter({"-h", "--help"}.isdisjoint))
def test_any_command_line_is_a_configuration_or_lines_of_complaint(argv: list[str]):
    try:
        config = parse(argv, {})
    except InputError as error:
        assert error.lines
        assert all(line.isprintable() for line in error.lines)
    else:
        assert config == replace(config)
