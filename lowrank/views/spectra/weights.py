"""Weight matrices of checkpoints on disk, each read when it is viewed.

With a model's name, the file's tensors take the place of the parameters of that model, built
without memory for weights, and `weight_matrices` gives the views. Without one, every tensor whose
name says weight is seen as (first dimension, all others).
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lowrank.common.errors import InputError
from lowrank.common.files import open_file
from lowrank.common.texts import nearest, printable
from lowrank.config import Config, load
from lowrank.config.arguments import parse
from lowrank.config.datasets import DATASETS
from lowrank.measure.effective import unusable
from lowrank.measure.matrices import Skipped, WeightMatrix, skipped_parameters, weight_matrices
from lowrank.measure.tensors import unused_name
from lowrank.models import FAMILIES, build_model
from lowrank.runs.checkpoints import verify
from lowrank.runs.directory import CHECKPOINT_NAME, CONFIG_NAME
from lowrank.views.spectra.shards import files_of, missing_shards
from lowrank.views.spectra.tensor_files import FORMATS, StateDict, read_file, state_dict

_EMBEDDING = re.compile(
    r"(?i)(^|[_a-z])(emb|embed|embeddings?)(_?(table|layer))?\d*$"
    r"|^(wte|wpe|embed_(tokens|positions|in)|relative_attention_bias)$"
)  # the module of an embedding, in the models that people share
_PARTS = re.compile(r"weight_([gvu]|orig|mask|scale\w*)$|(^|\.)parametrizations\.")


@dataclass(frozen=True)
class Weights:
    """The weight matrices of one file.

    Attributes:
        path: The file or run directory, as it was given.
        model: The model whose modules say how tensors are viewed; None where none was named.
        matrices: In the order of the model, else of the file; at least one.
        skipped: Tensors of two or more dimensions that are no weight matrix, with the reason.
        largest_norms: The largest ‖W‖_F so far by layer name, for a run directory; else empty.
        origin: Which dictionary of which files was read and which were left, in words; empty where
            one file holds one.
    """

    path: str
    model: str | None
    matrices: Sequence[WeightMatrix]
    skipped: list[Skipped]
    largest_norms: Mapping[str, float]
    origin: str = ""


def read_weights(
    path: str | Path | Sequence[str], *, model: str | None = None, key: str | None = None
) -> Weights:
    """Finds the weight matrices of a checkpoint.

    The state dict may be nested (``{"state_dict": …}``, ``{"model": …}`` and the like) and its
    names may have the prefixes of wrappers (``module.``, ``_orig_mod.``); with a model, any prefix.
    Numbers of classes and the like need not be the model's own: shapes are those of the file.

    Args:
        path: A file, or a run directory, whose configuration names the model; or the shards of one
            model, their directory or their index (``*.index.json``).
        model: A torchvision model, a bundled one, or a configuration of a bundled one: a YAML file
            or mapping, as for ``train.py --config``.
        key: Where in the file the state dict is, with dots; None to find it.

    Returns:
        The matrices; each is read when it is viewed.

    Raises:
        InputError: The file is missing, damaged, of another format, would run code, does not fit
            the model, or holds no weight matrix; or the model is unknown.
    """
    given = (path,) if isinstance(path, str | Path) else path
    files, config = [file for each in given for file in _files(Path(each))], None
    file = files[0]
    stored = file.with_name(CONFIG_NAME)
    is_run = file.name == CHECKPOINT_NAME and file.is_file() and stored.is_file()
    if is_run:
        with open_file(file) as opened:
            verify(file, opened)
        config = load(stored)
    content = read_file(file)
    found = state_dict(file, content, key)
    tensors = found.tensors
    for further in files[1:]:
        more = state_dict(further, read_file(further), key).tensors
        if twice := next((name for name in more if name in tensors), ""):
            where = printable(str(further), 200)
            raise InputError(f"{where}: {printable(twice)} is in another of the files as well")
        tensors |= more
    replicas = content.get("replicas", 1) if isinstance(content, dict) else 1
    if isinstance(replicas, int) and replicas > 1:
        raise InputError(
            f"{printable(str(file), 200)}: holds the stacked weights of {replicas} replicas of an "
            "earlier lowrank, which reads them"
        )
    matrices: Sequence[WeightMatrix]
    if model is None and config is None:
        matrices, skipped = _by_first_dimension(tensors)
        name = None
    else:
        name = model or cast(Config, config).model
        networks = _networks(model) if model else [_bundled(cast(Config, config))]
        matrices, skipped = _by_model(file, name, networks, tensors)
    if not matrices:
        raise InputError(
            [
                f"{printable(str(given[0]), 200)}: holds no weight matrix among its "
                f"{len(tensors)} tensors",
                *(f"skipped {printable(s.path)} {s.shape}: {s.reason}" for s in skipped[:5]),
            ]
        )
    watcher = content.get("watcher", {}) if is_run else {}
    largest = watcher.get("largest_norms") or watcher.get("first_norms", {})  # of earlier versions
    label = str(given[0]) + (f" and {len(given) - 1} more" if given[1:] else "")
    lost = missing_shards(file) if len(files) == 1 else 0
    return Weights(label, name, matrices, skipped, largest, _origin(found, len(files), lost))


def _origin(found: StateDict, files: int, lost: int) -> str:
    """Returns which dictionary of which files was read, where a file holds several."""
    parts = [f"of {files} files" if files > 1 else ""]
    if lost:
        parts.append(f"this is one of {lost + 1} shards of a model")
    if found.key or found.left:
        parts.append(f"read: {printable(found.key or '.', 60)}")
    if found.left:
        others = ", ".join(printable(key, 60) for key in found.left)
        parts.append(f"left: {others} (--key reads another)")
    return "; ".join(filter(None, parts))


def _files(path: Path) -> list[Path]:
    """Finds the files that a path stands for.

    Returns:
        At least one.

    Raises:
        InputError: It is a directory that stands for none.
    """
    if not path.is_dir():
        return files_of(path)
    file, where = path / CHECKPOINT_NAME, printable(str(path), 200)
    if not (path / CONFIG_NAME).is_file():
        if found := files_of(path):
            return found
        raise InputError(
            f"{where}: is a directory, but not of a run (no {CONFIG_NAME}) and holds no model; "
            f"read are {FORMATS}"
        )
    if not file.is_file():
        raise InputError(
            f"{where}: the run has no {CHECKPOINT_NAME} (keep_checkpoint=none leaves none); its "
            "recorded spectra are lowrank.load_run(...).spectra"
        )
    return [file]


def _by_first_dimension(
    tensors: Mapping[str, Tensor],
) -> tuple[list[WeightMatrix], list[Skipped]]:
    matrices: list[WeightMatrix] = []
    skipped: list[Skipped] = []
    names: set[str] = set()
    paths: dict[object, str] = {}
    for path, tensor in tensors.items():
        if tensor.ndim < 2:
            continue
        reason = _unusable(tensor)
        if not reason and _PARTS.search(path):
            reason = "part of a parametrised or quantised weight"
        if not reason and "weight" not in path.rpartition(".")[2]:
            reason = "its name does not say weight"
        if not reason and tensor.ndim == 2 and _EMBEDDING.search(path.split(".")[-2:][0]):
            reason = "an embedding, by its name"
        if not reason:
            first = paths.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), path)
            reason = f"the same tensor as {first}" if first != path else ""
        if reason:
            skipped.append(Skipped(path, tuple(tensor.shape), reason))
            continue
        name = unused_name(path.removesuffix(".weight").replace(".", "_"), names)
        shape = (tensor.shape[0], tensor[0].numel())
        view = partial(tensor.detach().flatten, 1)
        matrices.append(WeightMatrix(name, path, shape, counted=False, _view=view))
    return matrices, skipped


def _unusable(tensor: Tensor) -> str:
    """Returns why a tensor's values are not those of a matrix; empty if they are."""
    if reason := unusable(tensor):
        return reason
    if tensor.is_meta:
        return "has a shape but no values"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return "the same values again and again"
    return "" if tensor.numel() else "has no elements"


def _by_model(
    file: Path, name: str, networks: Sequence[nn.Module], tensors: Mapping[str, Tensor]
) -> tuple[list[WeightMatrix], list[Skipped]]:
    """Returns the matrices of the network that fits best, with the tensors put into it.

    Raises:
        InputError: None fits.
    """
    fits = [(*_fit(network, tensors), network) for network in networks]
    missing, prefix, network = min(fits, key=lambda fit: len(fit[0]))
    if missing:
        total = len(dict(network.named_parameters()))
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{printable(str(file), 200)}: does not fit model={printable(name)}: of its {total} "
            f"parameters the file lacks {len(missing)} ({some}); without --model, rows are each "
            "tensor's first dimension"
        )
    used = set()
    for path, old in chain(list(network.named_parameters()), list(network.named_buffers())):
        if (stored := tensors.get(prefix + path)) is not None:
            used.add(prefix + path)
            new = stored.detach()
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=False)
            torch.utils.swap_tensors(old, new)  # keeps what is shared shared
    matrices, skipped = [], skipped_parameters(network)
    for matrix in weight_matrices(network):
        if reason := _unusable(matrix.view()):
            skipped.append(Skipped(matrix.path, matrix.shape, reason))
        else:
            matrices.append(matrix)
    shared = set(dict(network.named_parameters(remove_duplicate=False)))
    skipped += [
        Skipped(path, tuple(tensor.shape), f"not in {printable(name)}")
        for path, tensor in tensors.items()
        if tensor.ndim > 1 and path not in used and path.removeprefix(prefix) not in shared
    ]
    return matrices, skipped


def _fit(network: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], str]:
    """Returns the parameters that the file lacks, and the prefix under which it has the others."""
    parameters = dict(network.named_parameters())
    first = next(iter(parameters))
    prefixes = [""] + [
        name.removesuffix(first) for name in tensors if name.endswith(f".{first}")
    ]  # Lightning has all under `model.`, for example

    def missing(prefix: str) -> list[str]:
        found = {path: tensors.get(prefix + path) for path in parameters}
        return [
            path
            for path, tensor in found.items()
            if tensor is None
            or tensor.ndim != parameters[path].ndim
            or tensor.layout != torch.strided
        ]

    return min(((missing(prefix), prefix) for prefix in prefixes), key=lambda fit: len(fit[0]))


def _networks(model: str) -> list[nn.Module]:
    """Returns the networks of that name, without weights: torchvision's, ours, or both.

    Raises:
        InputError: There is none.
    """
    if model.startswith("{") or model.endswith((".yaml", ".yml")):
        return [_bundled(parse(["--config", model], environ={}))]
    import torchvision

    networks = []
    if model in torchvision.models.list_models():
        build = torchvision.models.get_model_builder(model)
        asked = {"weights": None, "weights_backbone": None}  # the latter would be downloaded
        known = inspect.signature(build).parameters
        options = {option: value for option, value in asked.items() if option in known}
        networks.append(_without_memory(lambda: build(**options)))
    if model in FAMILIES:
        text = FAMILIES[model].text
        dataset = next(name for name, source in DATASETS.items() if source.text == text)
        words = [f"--model={model}", f"--dataset={dataset}"]
        networks.append(_bundled(parse(words, environ={})))
    if not networks:
        names = [*FAMILIES, *torchvision.models.list_models()]
        raise InputError(
            f"model: got '{printable(model)}' from --model; allowed: a torchvision model such as "
            f"resnet50, {', '.join(FAMILIES)}, or a configuration such as "
            f"'{{model: mlp, depth: 3}}'{nearest(model[:60], names)}"
        )
    return networks


def _bundled(config: Config) -> nn.Module:
    # Channels, classes and sizes are those of the file, whatever is said here: only patches
    # must divide it.
    family = FAMILIES[config.model]
    size = config.resolved_image_size or (getattr(config, family.patch) if family.patch else 32)
    shape = (config.context,) if family.text else (3, size, size)
    return _without_memory(lambda: build_model(config, shape, 10))


def _without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ways to draw weights, which are not needed
        try:
            with torch.device("meta"):
                return build()
        except NotImplementedError:  # torchvision's RegNets compute their widths with tensors
            with torch.random.fork_rng(devices=[]):
                return build()
