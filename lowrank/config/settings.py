"""The configuration of a run: one validated model.

`Config` is the single source of the command line, its help, YAML files, W&B's
config and the stored ``config.yaml``. Every value may arrive as text (`wandb
agent` sends ``--depth=16.0``, PyYAML reads ``1e-4`` as text), so there is one
way to read a value, whether it comes from a flag, a variable or a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lowrank.common.quantities import CHANGES, FURTHER
from lowrank.common.texts import ID
from lowrank.config.datasets import DATASETS
from lowrank.config.families import FAMILIES
from lowrank.config.optimizers import OPTIMIZERS
from lowrank.config.rules import LARGEST_CONTEXT, LARGEST_IMAGE, LARGEST_SEED, conflicts
from lowrank.config.values import read_value

LARGEST_WHOLE = 2**31 - 1
FIELDS_ONLY = object()  # validation context: leave out the rules between fields

Role = Literal["identity", "replicate", "place", "machine", "tracking", "measurement", "science"]
"""What a field decides: ``identity`` which run it is, ``replicate`` which of an experiment's random
draws, ``place`` where files lie, ``machine`` what computes and how, ``tracking`` what is kept and
told of the run, ``measurement`` what is measured, ``science`` the experiment itself."""


def _field(
    group: str,
    default: Any,
    meaning: str,
    allowed: str = "",
    *,
    role: Role = "science",
    newer: bool = False,  # stored runs of earlier versions lack it, and had its default
    **limits: Any,
) -> Any:
    extra: dict[str, Any] = {"group": group, "allowed": allowed, "role": role, "newer": newer}
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


_model = partial(_field, "model")
_data = partial(_field, "data")
_optimisation = partial(_field, "optimisation")
_measurement = partial(_field, "measurement", role="measurement")
_machine = partial(_field, "machine", role="machine")
_tracking = partial(_field, "tracking", role="tracking")


_PLACE, _IS_PLACE = "1 to 128 characters, none of /\\#?%:", r"^[^/\\#?%:]{1,128}$"


def _name(meaning: str, role: Role = "tracking", newer: bool = False) -> Any:
    allowed = "a text of 1 to 128 characters"
    return _tracking(None, meaning, allowed, role=role, newer=newer, max_length=128)


class Config(BaseModel):
    """Everything that decides a run. Immutable; unknown names are refused.

    Raises:
        pydantic.ValidationError: On a bad value, when made directly. `combine`,
            `replace` and `load` raise `InputError` with a line for each instead.

    Example:
        >>> Config(depth="16.0", weight_decay="1e-4", milestones="[6, 10]").milestones
        (6, 10)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: Literal[tuple(FAMILIES)] = _model(  # type: ignore[valid-type]  # one table has the names
        "mlp", "architecture"
    )
    depth: int = _model(
        5,
        "hidden layers (mlp), residual blocks (resmlp; of each kind: mixed), 3x3 convolutions "
        "(convnet)",
        ge=1,
        le=1000,
    )
    width: int = _model(
        100,
        "units of a hidden layer (mlp, resmlp), channels (convnet), both (mixed)",
        ge=1,
        le=1_000_000,
    )
    activation: Literal["relu", "leaky_relu"] = _model(
        "relu", "activation; leaky_relu has slope 0.01 (vit and gpt have GELU instead)"
    )
    batch_norm: bool = _model(True, "BatchNorm after every hidden layer (mlp)")
    weight_norm: bool = _model(
        False,
        "one scalar gain for each hidden matrix, its direction learned apart (mlp "
        "without batch_norm)",
        newer=True,
    )
    dropout: float = _model(
        0.0,
        "share of units dropped: before the classifier (vgg), after the embedding and in every "
        "block (vit, gpt)",
        ge=0,
        lt=1,
        newer=True,
    )
    vit_patch: int = _model(4, "height and width of a patch in pixels", ge=1, le=4096, newer=True)
    vit_depth: int = _model(6, "transformer blocks", ge=1, le=1000, newer=True)
    vit_heads: int = _model(4, "attention heads, which divide vit_width", ge=1, le=4096, newer=True)
    vit_width: int = _model(192, "width of a token", ge=1, le=1_000_000, newer=True)
    vit_mlp_width: int = _model(
        768,
        "hidden units of a block's feed-forward part",
        ge=1,
        le=1_000_000,
        newer=True,
    )
    gpt_depth: int = _model(4, "transformer blocks", ge=1, le=1000, newer=True)
    gpt_heads: int = _model(4, "attention heads, which divide gpt_width", ge=1, le=4096, newer=True)
    gpt_width: int = _model(
        128,
        "width of a token, a quarter of a block's hidden units",
        ge=1,
        le=1_000_000,
        newer=True,
    )

    dataset: Literal[tuple(DATASETS)] = _data(  # type: ignore[valid-type]
        "digits",
        "images, or for gpt text; digits come with the package, pydoc with Python, text is yours",
    )
    data_dir: str = _data(
        "data",
        "folder of the data sets, or itself the image folder, the text file or the folder of *.txt",
        "a path",
        role="place",
    )
    download: bool = _data(True, "fetch a data set that data_dir lacks", role="place")
    train_size: int | None = _data(
        None,
        "training examples used, a seeded class-balanced subset; None uses all",
        ge=1,
        le=LARGEST_WHOLE,
    )
    image_size: int | None = _data(
        None,
        "height and width of the images; None is native, but 32 for mnist, fashion_mnist, food101, "
        "imagenette and places365 and for digits with a convolutional model",
        ge=1,
        le=LARGEST_IMAGE,
    )
    augment: bool = _data(False, "crop and flip training images at random")
    context: int = _data(
        64,
        "bytes of an example of text, each of which is told from those before it",
        ge=1,
        le=LARGEST_CONTEXT,
        newer=True,
    )

    optimizer: Literal[tuple(OPTIMIZERS)] = _optimisation(  # type: ignore[valid-type]
        "sgd", "optimiser; muon steps hidden matrices and leaves all else to adamw"
    )
    lr: float = _optimisation(0.1, "learning rate", gt=0)
    momentum: float = _optimisation(0.0, "momentum (sgd)", ge=0, lt=1)
    weight_decay: float = _optimisation(
        5e-4, "weight decay, through the optimiser on all parameters", ge=0
    )
    batch_size: int = _optimisation(
        16, "examples per step; the last short batch is kept", ge=1, le=LARGEST_WHOLE
    )
    epochs: int = _optimisation(
        20, "passes over the training data; 0 measures initialisation only", ge=0, le=LARGEST_WHOLE
    )
    schedule: Literal["milestones", "constant", "cosine"] = _optimisation(
        "milestones", "how the learning rate changes"
    )
    milestones: tuple[Annotated[int, Field(ge=1, le=LARGEST_WHOLE)], ...] = _optimisation(
        (),
        "epochs, counted from 1, at whose start the rate is multiplied by gamma",
        "a list of increasing whole numbers from 1 such as [60,100,200], or [] for none",
    )
    gamma: float = _optimisation(0.2, "factor at each milestone", gt=0, le=1)
    warmup_epochs: int = _optimisation(0, "epochs of linear warm-up", ge=0, le=LARGEST_WHOLE)
    loss: Literal["cross_entropy", "mse"] = _optimisation(
        "cross_entropy", "loss; mse is on one-hot targets"
    )
    seed: int | None = _optimisation(
        0,
        "seed of everything random; None draws one and records it",
        ge=0,
        le=LARGEST_SEED,
        role="replicate",
    )

    epsilons: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = _measurement(
        (1e-3, 1e-2),
        "thresholds of the rank, the first is primary",
        "a list of 1 to 16 numbers above 0 and below 1 that differ in six digits",
        min_length=1,
        max_length=16,
    )
    rank_norm: Literal["frobenius", "spectral"] = _measurement(
        "frobenius", "norm by which singular values are divided"
    )
    quantities: tuple[Literal[FURTHER], ...] = _measurement(  # type: ignore[valid-type]
        (),
        "quantities of spectra to record beside the usual ones",
        f"a list of {', '.join(FURTHER)}",
        max_length=len(FURTHER),
        newer=True,
    )
    attention_products: bool = _measurement(
        False, "measure W_Q'W_K and W_O W_V of every attention head too", newer=True
    )
    spectra_of: tuple[Literal[CHANGES], ...] = _measurement(  # type: ignore[valid-type]
        (),
        "measure these of every weight matrix too: its change since initialisation, the update of "
        "the epoch's last step, the gradient of the loss on one batch",
        f"a list of {', '.join(CHANGES)}",
        max_length=len(CHANGES),
        newer=True,
    )
    measure_every: int = _measurement(
        1, "epochs from one measurement to the next", ge=1, le=LARGEST_WHOLE
    )
    measure_every_steps: int | None = _measurement(
        None,
        "steps from one measurement within an epoch to the next, beside those after epochs; None "
        "measures none",
        ge=1,
        le=LARGEST_WHOLE,
        newer=True,
    )
    truncation_every: int | None = _measurement(
        None,
        "epochs from one test of the network with matrices of lower rank to the next, 0 among "
        "them; None never",
        ge=1,
        le=LARGEST_WHOLE,
        newer=True,
    )
    directions: int | None = _measurement(
        None,
        "leading singular vectors of every matrix to keep at each measurement, all of a matrix "
        "that has fewer; None none",
        ge=1,
        le=LARGEST_WHOLE,
        newer=True,
    )
    on_collapse: Literal["continue", "stop"] = _measurement(
        "continue", "what happens when a matrix has collapsed or the run is dead"
    )

    device: str = _machine(
        "auto",
        "where to compute; auto is CUDA where there is one",
        "auto, cpu, cuda or cuda:N",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
    )
    precision: Literal["fp32", "tf32", "bf16"] = _machine(
        "fp32", "arithmetic of training", role="science"
    )
    threads: int | None = _machine(
        None,
        "CPU threads; None is resolved at start and stored: 1 for a narrow mlp or resmlp, else all "
        "cores",
        ge=1,
        le=4096,
    )
    compile: bool = _machine(
        False,
        "a whole training step compiled to one graph by torch.compile: faster after some seconds "
        "at the start, equal but for rounding",
        newer=True,
    )
    deterministic: bool = _machine(False, "bitwise repeatable on CUDA too, at some cost in speed")

    tracking: Literal["auto", "online", "offline", "disabled"] = _tracking(
        "auto", "Weights & Biases; auto is online where an API key is configured, else offline"
    )
    project: str = _tracking("lowrank", "W&B project", _PLACE, pattern=_IS_PLACE)
    entity: str | None = _tracking(
        None, "W&B user or team; None is the account's default", _PLACE, pattern=_IS_PLACE
    )
    group: str | None = _name("W&B group")
    sweep: str | None = _name(
        "name of the sweep without a server; it sets this", "identity", newer=True
    )
    tags: tuple[Annotated[str, Field(max_length=64)], ...] = _tracking(
        (), "W&B tags", "a list of texts of 1 to 64 characters such as [a,b]"
    )
    name: str | None = _name("display name; None lets W&B choose")
    output_dir: str = _tracking(
        "runs", "folder in which <run_id>/ is written", "a path", role="place"
    )
    run_id: str | None = _tracking(
        None,
        "identity of the run here and in W&B; None makes a new one",
        "1 to 64 letters, digits, _ or -",
        role="identity",
        pattern=f"^{ID}$",
    )
    resume: Literal["auto", "never", "must"] = _tracking(
        "auto", "whether to continue the run whose folder exists", role="identity"
    )
    figures_every: int | None = _tracking(
        None,
        "epochs from one picture of the run so far in W&B to the next, while it is online; None is "
        "about ten a run, in at most a tenth of its time",
        ge=1,
        le=LARGEST_WHOLE,
        newer=True,
    )
    checkpoint_every: int = _tracking(
        1, "epochs from one checkpoint to the next", ge=1, le=LARGEST_WHOLE
    )
    keep_checkpoint: Literal["weights", "all", "none"] = _tracking(
        "weights", "what is left of the checkpoint after finishing"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return read_value(cls.model_fields[info.field_name].annotation, value)

    @field_validator("milestones")
    @classmethod
    def _increase(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError("not increasing")
        return value

    @field_validator("epsilons")
    @classmethod
    def _differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{epsilon:g}" for epsilon in value}) < len(value):  # they name metrics this way
            raise ValueError("not distinct")
        return value

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Config:
        if info.context is not FIELDS_ONLY and (found := list(conflicts(self, defaults()))):
            raise ValueError("; ".join(text for _, text in found))
        return self

    @property
    def resolved_image_size(self) -> int | None:
        """Height and width that images are brought to; None leaves them as they are."""
        if self.image_size is not None:
            return self.image_size
        source = DATASETS[self.dataset]
        convolved = source.convolved_size if FAMILIES[self.model].convolutional else None
        return source.image_size or convolved

    @property
    def data_request(self) -> dict[str, Any]:
        """What `lowrank.data.load_dataset` is asked for."""
        return {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "download": self.download,
            "train_size": self.train_size,
            "image_size": self.resolved_image_size,
            "context": self.context,
        }

    def recorded(self) -> dict[str, Any]:
        """Returns what W&B's config and ``config.yaml`` hold: all but `run_id` and `resume`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self
            if name not in ("run_id", "resume")  # so that it starts a new run
        }

    def to_yaml(self) -> str:
        """Returns `recorded()` as YAML that any YAML 1.1 reader reads back exactly."""
        return yaml.safe_dump(
            self.recorded(),
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
            width=math.inf,
        )


def with_role(*roles: Role) -> tuple[str, ...]:
    """Returns the fields that have one of some roles.

    Args:
        *roles: The roles.

    Returns:
        The fields, in their order.

    Example:
        >>> with_role("place")
        ('data_dir', 'download', 'output_dir')
    """
    return tuple(name for name in Config.model_fields if declared(name)["role"] in roles)


def declared(name: str) -> dict[str, Any]:
    """Returns what a field's declaration says beside type, limits, default and meaning.

    Args:
        name: The field.

    Returns:
        Its ``group`` in the help, ``allowed`` in words (else empty), its ``role``, and whether it
        is ``newer`` than stored runs may be.
    """
    extra = Config.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def defaults() -> dict[str, Any]:
    """Returns the default of every field, in their order."""
    return {name: field.default for name, field in Config.model_fields.items()}


def with_group(group: str) -> tuple[str, ...]:
    """Returns the fields of one group, as ``--help`` has them.

    Args:
        group: Its name, such as ``model``.

    Returns:
        The fields, in their order.
    """
    return tuple(
        name
        for name, field in Config.model_fields.items()
        if isinstance(extra := field.json_schema_extra, dict) and extra["group"] == group
    )


FREE_ON_RESUME = with_role("identity", "place", "tracking")
"""Fields in which a run may differ from itself when it goes on."""

SAME_EXPERIMENT = frozenset(Config.model_fields) - {*with_role("science")}
"""Fields in which two runs of one experiment may differ."""


RETIRED = {
    "replicas": (
        1,
        "three seeds are three runs, seed: {values: [0, 1, 2]} in a sweep, trained as one with "
        "lowrank sweep --pack (docs/packs.md)",
    )
}
"""Fields of earlier versions → the one value that a stored configuration may still have, and what
to do instead of another."""


def without_retired(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored configuration without the fields that say nothing any more.

    Args:
        config: As an earlier version may have stored it.

    Example:
        >>> without_retired({"lr": 0.1, "replicas": 1})
        {'lr': 0.1}
    """
    return {
        name: value
        for name, value in config.items()
        if name not in RETIRED or str(value) != str(RETIRED[name][0])
    }


def is_of_train_py(config: Mapping[str, Any]) -> bool:
    """Returns whether a recorded configuration is one of train.py, of whatever version.

    Args:
        config: What a record holds: of another training loop it may be anything.
    """
    return config.keys() >= {"model", "dataset", "lr"}
