"""Segmentation models on every timm backbone.

>>> import torch, segzoo
>>> model = segzoo.Unet("resnet34", classes=3)
>>> model(torch.rand(1, 3, 250, 317)).shape
torch.Size([1, 3, 250, 317])
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors as errors
from ._version import __version__ as __version__
from .registry import BUILT_IN

if TYPE_CHECKING:
    # For type checkers, which cannot look into tables; a test compares it with them.
    from . import convert as convert
    from . import losses as losses
    from . import postprocess as postprocess
    from . import serving as serving
    from .architectures.base import SegmentationModel as SegmentationModel
    from .architectures.base import from_pretrained as from_pretrained
    from .architectures.deeplabv3 import DeepLabV3 as DeepLabV3
    from .architectures.deeplabv3plus import DeepLabV3Plus as DeepLabV3Plus
    from .architectures.dpt import DPT as DPT
    from .architectures.dynamic_unet import DynamicUnet as DynamicUnet
    from .architectures.eomt import EoMT as EoMT
    from .architectures.fcn import FCN as FCN
    from .architectures.fpn import FPN as FPN
    from .architectures.heads import Outputs as Outputs
    from .architectures.linear_head import LinearHead as LinearHead
    from .architectures.linknet import Linknet as Linknet
    from .architectures.lraspp import LRASPP as LRASPP
    from .architectures.manet import MAnet as MAnet
    from .architectures.multi_head import Head as Head
    from .architectures.multi_head import MultiHead as MultiHead
    from .architectures.pan import PAN as PAN
    from .architectures.pspnet import PSPNet as PSPNet
    from .architectures.query_heads import Queries as Queries
    from .architectures.segformer import Segformer as Segformer
    from .architectures.unet import Unet as Unet
    from .architectures.unetplusplus import UnetPlusPlus as UnetPlusPlus
    from .architectures.upernet import UPerNet as UPerNet
    from .config import Classification as Classification
    from .config import ModelConfig as ModelConfig
    from .data.check import CheckReport as CheckReport
    from .data.check import check_data as check_data
    from .data.collate import collate as collate
    from .data.dataset import PairDataset as PairDataset
    from .data.dataset import SegmentationData as SegmentationData
    from .data.open_data import open_data as open_data
    from .data.rows import RowsDataset as RowsDataset
    from .data.splits import DataSplits as DataSplits
    from .data.transforms import Augmentation as Augmentation
    from .data.transforms import Augmented as Augmented
    from .encoders import Encoder as Encoder
    from .encoders import EncoderInfo as EncoderInfo
    from .encoders import SizeRule as SizeRule
    from .encoders import create_encoder as create_encoder
    from .encoders import encoder_info as encoder_info
    from .encoders import list_encoders as list_encoders
    from .encoders import register_encoder as register_encoder
    from .environment.report import EnvironmentReport as EnvironmentReport
    from .environment.report import check_environment as check_environment
    from .features import FeatureSpec as FeatureSpec
    from .inference.export.export import export as export
    from .inference.export.exported import ExportedModel as ExportedModel
    from .inference.export.exported import open_exported as open_exported
    from .inference.optimize.optimize import optimize as optimize
    from .inference.optimize.optimized_model import OptimizedModel as OptimizedModel
    from .pages.space import push_space as push_space
    from .pages.write_page import write_page as write_page
    from .prediction.probabilities import predict_probabilities as predict_probabilities
    from .prediction.tiling.predict import TiledPrediction as TiledPrediction
    from .prediction.tiling.predict import predict_tiled as predict_tiled
    from .preprocessing import Normalization as Normalization
    from .registry import ARCHITECTURES as ARCHITECTURES
    from .registry import register_architecture as register_architecture
    from .storage.card import Metric as Metric
    from .storage.card import ModelCard as ModelCard
    from .training.evaluate import evaluate as evaluate
    from .training.fastai import fastai_splitter as fastai_splitter
    from .training.lora import add_lora as add_lora
    from .training.lora import merge_lora as merge_lora
    from .training.recipe import Recipe as Recipe
    from .training.score_values import Intervals as Intervals
    from .training.score_values import Scores as Scores
    from .training.scores import ScoreMeter as ScoreMeter
    from .training.train import TrainingResult as TrainingResult
    from .training.train import train as train

#: Public name -> the module that has it. That is imported when the name is first asked for: torch
#: takes seconds, and `segzoo --help` should not. A module that is public itself is its own home.
_HOMES = {
    "ARCHITECTURES": "registry",
    "Augmentation": "data.transforms",
    "Augmented": "data.transforms",
    "CheckReport": "data.check",
    "Classification": "config",
    "DataSplits": "data.splits",
    "Encoder": "encoders",
    "EncoderInfo": "encoders",
    "EnvironmentReport": "environment.report",
    "ExportedModel": "inference.export.exported",
    "FeatureSpec": "features",
    "Head": "architectures.multi_head",
    "Intervals": "training.score_values",
    "Metric": "storage.card",
    "ModelCard": "storage.card",
    "ModelConfig": "config",
    "Normalization": "preprocessing",
    "OptimizedModel": "inference.optimize.optimized_model",
    "Outputs": "architectures.heads",
    "PairDataset": "data.dataset",
    "Queries": "architectures.query_heads",
    "Recipe": "training.recipe",
    "RowsDataset": "data.rows",
    "ScoreMeter": "training.scores",
    "Scores": "training.score_values",
    "SegmentationData": "data.dataset",
    "SegmentationModel": "architectures.base",
    "SizeRule": "encoders",
    "TrainingResult": "training.train",
    "add_lora": "training.lora",
    "check_data": "data.check",
    "check_environment": "environment.report",
    "collate": "data.collate",
    "TiledPrediction": "prediction.tiling.predict",
    "convert": "convert",
    "create_encoder": "encoders",
    "encoder_info": "encoders",
    "evaluate": "training.evaluate",
    "export": "inference.export.export",
    "fastai_splitter": "training.fastai",
    "from_pretrained": "architectures.base",
    "list_encoders": "encoders",
    "losses": "losses",
    "merge_lora": "training.lora",
    "open_data": "data.open_data",
    "open_exported": "inference.export.exported",
    "optimize": "inference.optimize.optimize",
    "postprocess": "postprocess",
    "predict_probabilities": "prediction.probabilities",
    "predict_tiled": "prediction.tiling.predict",
    "push_space": "pages.space",
    "register_architecture": "registry",
    "register_encoder": "encoders",
    "serving": "serving",
    "train": "training.train",
    "write_page": "pages.write_page",
    **{name: f"architectures.{module}" for name, module in BUILT_IN.items()},
}

__all__ = sorted([*_HOMES, "__version__", "errors"])


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        hint = "" if name.startswith("_") else errors.nearest(name, __all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}")
    home = import_module(f".{_HOMES[name]}", __name__)
    value = home if name == _HOMES[name] else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
