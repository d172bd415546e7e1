"""`params.yaml`, one section a stage, read into frozen and validated models. There is no other configuration."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from tasks.errors import UserError

PARAMS_FILE = Path("params.yaml")

LabelFormat = Literal[
    "table",
    "folder",
    "dicom_tag",
    "chestxray14",
    "chexpert",
    "padchest",
    "rsna",
    "vindr",
    "covid19_radiography",
    "kermany",
]
WITHOUT_TABLE = ("folder", "dicom_tag", "covid19_radiography", "kermany")  # labels from the films and their folders
Uncertain = Literal["ignore", "positive", "negative"]
Fit = Literal["pad", "crop", "stretch"]
ExecutorName = Literal["processes", "dask"]
GanName = Literal["msg_gan", "msg_sagan"]
PhantomArm = Literal["classic+phantom", "two_stage_phantom"]
ControlArm = Literal["real", "class_weight", "duplicate", "classic", "two_stage_classic", PhantomArm]
TwoStageArm = Literal["two_stage_msg_gan", "two_stage_msg_sagan"]
ClassicArm = Literal["classic+msg_gan", "classic+msg_sagan"]
Arm = Literal[ControlArm, GanName, ClassicArm, TwoStageArm]
Balance = Literal["rare", "all"]
Loss = Literal["relativistic", "relativistic_average_hinge", "non_saturating", "wgan_gp"]
SYNTHETIC_ARMS: tuple[str, ...] = get_args(GanName)  # named after the generator whose images they add
CONTROL_ARMS: tuple[str, ...] = get_args(ControlArm)
TWO_STAGE = "two_stage_"  # what arms are called that have a first stage of their own
PHANTOM = "phantom"  # the simulator, where it draws in place of a generator


def _source(arm: str) -> str:
    return arm.removeprefix(TWO_STAGE).removeprefix("classic+")


GENERATOR_OF = {arm: _source(arm) for arm in (*SYNTHETIC_ARMS, *get_args(ClassicArm), *get_args(TwoStageArm))}
IMAGES_OF = GENERATOR_OF | {arm: _source(arm) for arm in get_args(PhantomArm)}  # of all arms that add images

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # every generator of random numbers takes them
MAX_TRUNCATION = 2.0
GROUP = 4  # as in model.gan.layers, which takes its time to import


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two")
    return value


def _unique(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("must not name anything twice")
    return values


Side = Annotated[int, AfterValidator(_power_of_two)]


class Section(BaseModel):
    """A section: unknown keys and wrong types are refused, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Split(Section):
    """Shares of the patients of each class."""

    train: Share = 0.6
    val: Share = 0.15
    test: Share = 0.25

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Split":
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train + val + test must be 1")
        return self


class Ingest(Section):
    source: str = "data/raw"
    labels: str = "data/raw/labels.csv"
    label_format: LabelFormat = "table"
    label_tag: str = ""
    classes: Annotated[list[str], AfterValidator(_unique)] = []
    multi_label: Literal["auto", "leave_out", "first", "all"] = "auto"
    uncertain: Uncertain = "ignore"
    size: Annotated[Side, Field(ge=16, le=1024)] = 128
    fit: Fit = "pad"
    window: str = ""
    clahe_clip: Annotated[float, Field(ge=0)] = 0.0
    lateral: Literal["refuse", "take"] = "refuse"
    body_part: Literal["chest", "any"] = "chest"
    patients: Literal["required", "per_file", "ignored"] = "required"
    max_megapixels: Annotated[float, Field(gt=0, le=100)] = 40.0
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.5
    executor: ExecutorName = "processes"
    workers: Annotated[int, Field(ge=0)] = 0
    split: Split = Split()
    thin_train: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    seed: Seed = 0

    @model_validator(mode="after")
    def _labels_can_be_found(self) -> "Ingest":
        if (self.label_format == "dicom_tag") != bool(self.label_tag):
            raise ValueError("label_format dicom_tag needs label_tag, the keyword of an element, and nothing else does")
        if self.label_format in ("folder", "dicom_tag") and not self.classes:
            raise ValueError(f"label_format {self.label_format} needs classes: other names there may be of patients")
        if self.multi_label == "first" and not self.classes:
            raise ValueError("multi_label first needs classes: their order says which finding wins")
        return self


class Imbalance(Section):
    rare_below: Annotated[float, Field(gt=0, le=1)] = 0.5
    fill_to: Annotated[float, Field(gt=0, le=1)] = 1.0
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999


class Model(Section):
    attention_resolutions: list[Annotated[Side, Field(ge=4, le=1024)]] = []


class Models(Section):
    msg_gan: Model = Model()
    msg_sagan: Model = Model(attention_resolutions=[32])


class Train(Section):
    head_start: str = "phantom"
    width: Annotated[int, Field(ge=8, le=1024)] = 64
    phi: Literal["simple", "lin_cat", "cat_lin"] = "simple"
    minibatch_stddev: Literal["last", "every"] = "every"
    kimg: Annotated[float, Field(ge=0)] = 0.0
    batch: Annotated[int, Field(ge=2)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    loss: Loss = "relativistic_average_hinge"
    gamma: Annotated[float, Field(ge=0)] = 10.0
    penalty_interval: Count = 16
    augment_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    augment_target: Annotated[float, Field(ge=0, le=1)] = 0.0
    augment_mirror: bool = False
    mismatch: Annotated[float, Field(ge=0)] = 0.5
    auxiliary: Annotated[float, Field(ge=0)] = 0.5
    warmup_kimg: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: Seed = 0

    @model_validator(mode="after")
    def _critic_is_penalised(self) -> "Train":
        if self.loss == "wgan_gp" and self.penalty_interval > 4:
            raise ValueError("wgan_gp needs a penalty_interval of 4 or below")
        return self

    @model_validator(mode="after")
    def _has_whole_groups(self) -> "Train":
        """Else minibatch_stddev would see several classes in a group, or one image, whose deviation is 0."""
        if self.batch != 2 and self.batch % GROUP:
            raise ValueError(f"batch must be 2 or a multiple of {GROUP}, not {self.batch}")
        return self

    @model_validator(mode="after")
    def _mirrors_something(self) -> "Train":
        if self.augment_mirror and not (self.augment_probability or self.augment_target):
            raise ValueError("augment_mirror does nothing without augment_probability or augment_target above 0")
        return self


class Phantom(Section):
    of: dict[str, Literal["normal", "pneumonia", "effusion"]] = {}
    seed: Seed = 0


class Encoder(Section):
    steps: Count = 300
    seed: Seed = 0


class Synthesize(Section):
    truncation: Annotated[float, Field(gt=0, le=MAX_TRUNCATION)] = 1.3
    max_copies: Annotated[float, Field(ge=0, lt=1)] = 0.2
    screening: Literal["wanted", "required"] = "wanted"
    seed: Seed = 0


class Quality(Section):
    pairs: Count = 1000
    repeats: Count = 10
    two_sample_steps: Count = 100
    inception_weights: str = ""
    seed: Seed = 0


class Classify(Section):
    arms: Annotated[list[Arm], Field(min_length=1), AfterValidator(_unique)] = [
        "real",
        "duplicate",
        "classic",
        "classic+msg_gan",
        "classic+msg_sagan",
    ]
    seeds: Annotated[list[Seed], Field(min_length=2), AfterValidator(_unique)] = [0, 1]
    network: Literal["small", "densenet121"] = "small"
    balance: Balance = "all"
    steps: Count = 250
    patience: Count = 1
    max_cycles: Count = 8
    batch: Annotated[int, Field(ge=2)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    ratios: Annotated[list[Share], AfterValidator(_unique)] = []
    real_fractions: Annotated[list[Share], AfterValidator(_unique)] = []
    tstr: bool = False
    workers: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _two_stages_fit(self) -> "Classify":
        if self.max_cycles < 2 and (staged := [arm for arm in self.arms if arm.startswith(TWO_STAGE)]):
            raise ValueError(f"{staged[0]} has two stages and needs max_cycles of 2 or more")
        return self


class Report(Section):
    examples: Annotated[int, Field(ge=1, le=64)] = 10
    blind: Annotated[int, Field(ge=2, le=64)] = 12
    seed: Seed = 0


class Params(Section):
    """All sections; a section or key that is left out has the default written here."""

    ingest: Ingest = Ingest()
    imbalance: Imbalance = Imbalance()
    models: Models = Models()
    train: Train = Train()
    phantom: Phantom = Phantom()
    encoder: Encoder = Encoder()
    synthesize: Synthesize = Synthesize()
    quality: Quality = Quality()
    classify: Classify = Classify()
    report: Report = Report()

    @model_validator(mode="after")
    def _attention_fits(self) -> "Params":
        for name in SYNTHETIC_ARMS:
            for resolution in getattr(self.models, name).attention_resolutions:
                if resolution > self.ingest.size:
                    raise ValueError(
                        f"models.{name}.attention_resolutions: {resolution} is above ingest.size ({self.ingest.size})"
                    )
        return self


def needs_table(label_format: str) -> bool:
    """Whether labels come from a table; else they come from the films and their folders."""
    return label_format not in WITHOUT_TABLE


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and validate `path`; without such a file the defaults hold (a stage run on a user's own folders).

    Raises UserError that names the key and what is allowed.
    """
    if not path.exists():
        return Params()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return Params.model_validate(content)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(_sentence(e) for e in error.errors())}") from None


def _sentence(error: Any) -> str:
    """One finding of pydantic as words: the key, what is wrong, what is allowed there."""
    parents, where = error["loc"][:-1], ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section: type[BaseModel] = Params
        for parent in parents:
            section = section.model_fields[parent].annotation  # type: ignore[assignment]
        return f"unknown key {where!r} (known here: {', '.join(section.model_fields)})"
    if error["type"] == "model_type":
        return f"{where or 'the file'!r} must be keys with values, but is {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if isinstance(error["input"], dict):  # a rule of the whole section, whose values are not all to blame
        return f"{where!r}: {message}" if where else message
    return f"{where!r} {message}, but is {error['input']!r}" if where else message
